"""The key `pad`: which axes may be padded, so that requests of different lengths share a run (batching.md 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchserve.config.kinds import Kind, toml_string, with_word
from batchserve.config.names import did_you_mean
from batchserve.config.tables import show_table, table_from_text
from batchserve.config.units import BadValueError

__all__ = ["PadConfig", "padding", "show_padding"]

Axes = Mapping[str, tuple[int, ...]]
Value = int | float | bool | str

_KEYS = ("axes", "mask", "outputs", "multiple", "values")
_MOST_AXES = 32
_MOST_MULTIPLE = 1 << 16
DEFAULT_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class PadConfig:
    """What a `pad` table says, by tensor names; axes count from the batch, which is 0.

    Attributes:
        axes: The axes of each input that are padded together.
        mask: The input that tells the model what is padding: one of `axes`, or a row's length.
        outputs: The axes of outputs that are cut back to a request's own length.
        multiple: A padded run's length is a multiple of this.
        values: What inputs are padded with; 0 (false, the empty string) where nothing is said.
    """

    axes: Axes
    mask: str
    outputs: Axes = field(default_factory=dict)
    multiple: int = DEFAULT_MULTIPLE
    values: Mapping[str, Value] = field(default_factory=dict)


def padding() -> Kind:
    """A `pad` table, or `none`; as text an inline table of TOML."""
    kind = Kind(
        "table",
        'a table such as {axes = {input_ids = 1, attention_mask = 1}, mask = "attention_mask"}',
        _read,
        table_from_text,
        show_padding,
    )
    return with_word(kind, "none")


def _read(value: object) -> PadConfig:
    if not isinstance(value, dict):
        raise BadValueError("is not a table")
    for name in value:
        if name not in _KEYS:
            known = f"known are {', '.join(_KEYS)}"
            raise BadValueError(f"has the unknown key {name!r}", did_you_mean(name, _KEYS) or known)
    axes = _axes("axes", value.get("axes", {}))
    if not axes:
        raise BadValueError("has no axes", 'name the inputs to pad, such as axes = ["input_ids", "attention_mask"]')
    mask = value.get("mask")
    if not isinstance(mask, str) or not mask:
        raise BadValueError(
            "names no mask" if mask is None else "has a mask that is not a name",
            "name the input that tells the model what is padding: without one, padding changes results",
        )
    values = value.get("values", {})
    if not isinstance(values, dict) or not all(isinstance(entry, int | float | str) for entry in values.values()):
        raise BadValueError("has values that are no table of numbers and strings", "write values = {input_ids = 1}")
    for name, entry in values.items():
        if name not in axes:
            raise BadValueError(f"has a value for {name!r}, which is not padded", did_you_mean(name, axes))
        if entry != entry:
            raise BadValueError(f"has a value for {name!r} that is no number")
    multiple = value.get("multiple", DEFAULT_MULTIPLE)
    if isinstance(multiple, bool) or not isinstance(multiple, int) or not 1 <= multiple <= _MOST_MULTIPLE:
        raise BadValueError(f"has the multiple {multiple!r}", f"expected a whole number from 1 to {_MOST_MULTIPLE}")
    return PadConfig(axes, mask, _axes("outputs", value.get("outputs", {})), multiple, dict(values))


def _axes(what: str, value: object) -> dict[str, tuple[int, ...]]:
    """Read names with their axes; a name alone, or a list of them, means axis 1."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value, 1)
    if not isinstance(value, dict):
        raise BadValueError(f"has {what} that are no names of tensors", f"write {what} = {{NAME = 1}}")
    found: dict[str, tuple[int, ...]] = {}
    for name, given in value.items():
        axes = given if isinstance(given, list) else [given]
        for axis in axes:
            if isinstance(axis, bool) or not isinstance(axis, int) or not 1 <= axis < _MOST_AXES:
                raise BadValueError(
                    f"has {axis!r} as an axis of {name!r}", "axes count from the batch, which is 0 and is never padded"
                )
        found[name] = tuple(sorted(set(axes)))
    return found


def show_padding(value: PadConfig) -> str:
    """Write the value of `pad` as an inline table of TOML."""
    parts = {"axes": _shown_axes(value.axes), "mask": toml_string(value.mask)}
    if value.outputs:
        parts["outputs"] = _shown_axes(value.outputs)
    if value.multiple != DEFAULT_MULTIPLE:
        parts["multiple"] = str(value.multiple)
    if value.values:
        parts["values"] = show_table({name: _shown(entry) for name, entry in value.values.items()})
    return show_table(parts)


def _shown_axes(axes: Axes) -> str:
    return show_table({name: str(of[0]) if len(of) == 1 else str(list(of)) for name, of in axes.items()})


def _shown(value: Value) -> str:
    return (
        toml_string(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    )
