"""Writes the `model.toml`: the keys that were chosen, and above them, as comments, what speaks for them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from batchserve.config.schema import MODEL_KEYS
from batchserve.tuning.settings import server_target_s

if TYPE_CHECKING:
    from batchserve.config import ModelConfig
    from batchserve.tuning.settings import Setting

__all__ = ["FIRST_LINE", "chosen_keys", "is_ours", "model_toml"]

FIRST_LINE = "Written by `batchserve tune`"

WIDTH = 118


def chosen_keys(setting: Setting, target_s: float) -> dict[str, object]:
    """Give the values of a setting by the fields of `ModelConfig`.

    Args:
        setting: The choice.
        target_s: Seconds within which clients are to have their answers.
    """
    found: dict[str, object] = {
        "providers": (setting.way.provider,),
        "instances": setting.way.layout.instances,
        "intra_op_threads": setting.way.layout.threads,
        "latency_target_s": server_target_s(target_s),
    }
    if setting.max_batch_size:
        found["max_batch_size"] = setting.max_batch_size
    return found


def model_toml(chosen: Mapping[str, object], base: ModelConfig, evidence: Sequence[str]) -> str:
    """Write the file.

    Args:
        chosen: Values by field.
        base: The configuration that the model was measured with: what differs from the built-in values is kept.
        evidence: Lines for the comments, `FIRST_LINE` and what follows it first. Long ones are broken, but not those
            that begin with a space: they are tables.
    """
    kept = {
        key.field: getattr(base, key.field)
        for key in MODEL_KEYS.values()
        if key.field not in chosen and getattr(base, key.field) != key.default
    }
    lines = [*(f"# {part}".rstrip() for line in evidence for part in _broken(line)), ""]
    lines += [f"{key.name} = {key.kind.show(chosen[key.field])}" for key in MODEL_KEYS.values() if key.field in chosen]
    if kept:
        lines += ["", "# As it was configured before."]
        lines += [f"{key.name} = {key.kind.show(kept[key.field])}" for key in MODEL_KEYS.values() if key.field in kept]
    return "\n".join(lines) + "\n"


def is_ours(text: str) -> bool:
    """Say whether a file was written here, so that it may be replaced."""
    return text.startswith(f"# {FIRST_LINE}")


def _broken(line: str) -> list[str]:
    return [line] if line.startswith(" ") else textwrap.wrap(line, WIDTH, break_on_hyphens=False) or [""]
