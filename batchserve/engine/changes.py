"""What differs between the configuration a model was loaded with and the one that its files give now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from batchserve.config import MODEL_KEYS, ModelConfig

__all__ = ["NEEDS_LOAD", "RELOADABLE", "Changes", "compare"]

RELOADABLE = ("latency_target", "shed", "max_queue_delay", "max_queue_size", "weight")
"""Keys that change while a model serves (batching.md section 10)."""

NEEDS_LOAD = "takes effect when the model is loaded again"


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of the keys whose values have changed.

    Attributes:
        applied: Keys in force from now on, in the schema's order.
        not_applied: The others, each with what it takes, to be read after the key's name.
    """

    applied: tuple[str, ...] = ()
    not_applied: Mapping[str, str] = field(default_factory=dict)


def compare(in_force: ModelConfig, wanted: ModelConfig) -> tuple[Changes, ModelConfig]:
    """Sort the keys that differ into those that change now and those that wait for a load.

    Returns:
        The sorted keys, and the configuration with the first kind put in force.
    """
    applied: dict[str, object] = {}
    not_applied: dict[str, str] = {}
    for key in MODEL_KEYS.values():
        value = getattr(wanted, key.field)
        if value == getattr(in_force, key.field):
            continue
        if key.name not in RELOADABLE:
            not_applied[key.name] = NEEDS_LOAD
        elif key.name == "latency_target" and value is not None and value > in_force.timeout_s:
            not_applied[key.name] = f"{NEEDS_LOAD}, since it is longer than the timeout in force"
        else:
            applied[key.name] = value
    if (in_force.inputs, in_force.outputs) != (wanted.inputs, wanted.outputs):
        not_applied["inputs and outputs"] = NEEDS_LOAD.replace("takes", "take")
    fields = {MODEL_KEYS[name].field: value for name, value in applied.items()}
    return Changes(tuple(applied), not_applied), replace(in_force, **fields)  # type: ignore[arg-type]
