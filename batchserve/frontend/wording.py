"""How messages to clients name what was seen: short, printable, and never the contents of a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["count_of", "describe", "json_type", "listed", "number", "quoted", "shape_text"]

_LONGEST_TEXT = 64
_LONGEST_LIST = 16


def quoted(text: str) -> str:
    """Put a name or value of the client's between quotes.

    Returns:
        At most some 64 characters of it, escaped so that the result can be encoded and printed whatever came in.
    """
    return repr(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…")


def number(value: int) -> str:
    """Write an integer of any length: Python refuses to print those with thousands of digits."""
    return str(value) if value.bit_length() <= 128 else "an integer beyond 128 bits"


def describe(value: object) -> str:
    """Say what a parsed JSON value is, for "…: id is X; expected a string"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"the number {number(value)}"
    if isinstance(value, float):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the string {quoted(value)}"
    return "an array" if isinstance(value, list) else "an object"


def shape_text(dims: Sequence[int]) -> str:
    """Write a shape as the wire has it: `[2,3]`."""
    shown = ",".join(number(dim) for dim in dims[:_LONGEST_LIST])
    return f"[{shown},…]" if len(dims) > _LONGEST_LIST else f"[{shown}]"


def listed(names: Iterable[str]) -> str:
    """List names in quotes, cut after a few."""
    shown = [quoted(name) for name in names]
    rest = len(shown) - _LONGEST_LIST
    return ", ".join(shown[:_LONGEST_LIST]) + (f" and {rest} more" if rest > 0 else "")


def count_of(count: int, noun: str) -> str:
    """Write `1 byte`, `2 bytes`."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def json_type(value: object) -> str:
    """Say of which JSON type a value is, without the value: it may be a tensor's content."""
    if value is None:
        return "null"
    for types, name in ((bool, "a boolean"), ((int, float), "a number"), (str, "a string"), (list, "an array")):
        if isinstance(value, types):
            return name
    return "an object"
