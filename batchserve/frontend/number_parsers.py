"""Quick parsers for pieces of large arrays: text of numbers in, an array out, or None for what they do not take."""

from __future__ import annotations

import re
import struct
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from batchserve.frontend.envelope import MAX_DEPTH

if TYPE_CHECKING:
    from batchserve.core.tensors import Array, DataType
    from batchserve.frontend.number_text import Piece

__all__ = ["SimdParser", "packed", "read_floats", "read_integers", "simdjson"]


def _import_simdjson() -> Any:
    try:
        return import_module("simdjson")
    except ImportError:
        return None


simdjson: Any = _import_simdjson()
"""The module of pysimdjson (extra `json`), None without it: floats and long integers then take twice the time."""

_DOUBLE = np.dtype(np.float64)
_OPENING = re.compile(rb"[ \t\n\r\[]*")
_MOST_DIGITS = (5, 3)  # beyond which msgspec, or pysimdjson if it is there, reads integers faster than digit by digit
_MOST_SKIPS = 16  # spaces and brackets on one side of an element
_ZERO, _NINE, _SPACE, _MINUS, _COMMA = np.frombuffer(b"0\x09 -,", np.uint8)
_BEFORE, _BEHIND = (np.isin(np.arange(256), list(b" \t\n\r" + bracket)) for bracket in (b"[", b"]"))  # `bool[256]`


class SimdParser:
    """Reads numbers with pysimdjson. Not for several threads at once; its memory is that of one piece.

    Args:
        datatype: A float or integer type.
    """

    __slots__ = ("_code", "_dtype", "_parse", "_range")

    def __init__(self, datatype: DataType) -> None:
        self._parse = simdjson.Parser().parse
        self._range = (0, 0)
        self._code: str = "d"
        self._dtype: np.dtype[Any] = _DOUBLE
        if datatype.kind == "int":
            info = np.iinfo(datatype.dtype)
            self._range = (int(info.min), int(info.max))
            self._code, self._dtype = ("u", np.dtype(np.uint64)) if info.min == 0 else ("i", np.dtype(np.int64))

    def __call__(self, piece: Piece) -> Array | None:
        """Read the elements of one piece.

        Returns:
            `float64[N]`, `int64[N]` or `uint64[N]`; None for what is no number, not of this type or in its range, an
            integer beyond 64 bits, or nesting beyond `MAX_DEPTH`.
        """
        if not piece.is_within(MAX_DEPTH):
            return None
        try:
            array = np.frombuffer(self._parse(piece.balanced).as_buffer(of_type=self._code), self._dtype)
        except (ValueError, TypeError, RuntimeError):
            return None
        low, high = self._range
        if high and len(array) and (array.min() < low or array.max() > high):
            return None
        return array


def read_floats(piece: Piece) -> Array | None:
    """Read numbers with orjson, by way of Python's numbers.

    Returns:
        `float64[N]`; None for anything but numbers that are finite, all equally deep in arrays, at most `MAX_DEPTH`.
    """
    if b"u" in piece.text or b"a" in piece.text:
        return None  # true or false, which struct would take for numbers
    text = piece.balanced
    opening = _OPENING.match(text)  # matches always
    depth = opening.group().count(b"[") if opening else 0
    if depth > MAX_DEPTH:
        return None
    try:
        nested = orjson.loads(text)
        for _ in range(depth - 1):
            flat: list[Any] = []
            for array in nested:
                flat += array
            nested = flat
        return packed(nested, _DOUBLE)
    except (orjson.JSONDecodeError, TypeError, struct.error):
        return None


def packed(numbers: list[Any], dtype: np.dtype[Any]) -> Array:
    """Make an array of Python's numbers, in half the time of `np.fromiter`.

    Raises:
        struct.error: One is not of the type, or not in its range. True and False are taken for 1 and 0.
    """
    values = np.empty(len(numbers), dtype)
    struct.pack_into(f"{len(numbers)}{dtype.char}", values.data, 0, *numbers)
    return values


def read_integers(piece: Piece, dtype: np.dtype[Any]) -> Array | None:
    """Read short integers with numpy alone: a digit of all of them at a time.

    Args:
        piece: Text of some elements.
        dtype: An integer type.

    Returns:
        Some `integer[N]`; None for anything but integers of few digits in the range of `dtype`, with little space
        between them.
    """
    if not (piece.is_one_array and piece.is_within(MAX_DEPTH)):
        return None
    chars = np.frombuffer(piece.text + b",", np.uint8)
    last = (chars == _COMMA).nonzero()[0]
    first = np.empty_like(last)
    first[0] = 0
    np.add(last[:-1], 1, out=first[1:])
    last -= 1
    leading = _skip(chars, first, 1, _BEFORE)
    tail = _skip(chars, last, -1, _BEHIND)
    is_negative = leading == _MINUS
    has_negative = bool(is_negative.any())
    if has_negative:
        first += is_negative
        leading = chars.take(first)
    first -= last
    longest = 1 - int(first.min())
    if longest > _MOST_DIGITS[simdjson is not None] or first.max() > 0:
        return None
    values = _add_digits(chars, last, (1 - first).astype(np.uint8), leading, tail)
    if values is None:
        return None
    if has_negative:
        values[is_negative] *= -1
    info = np.iinfo(dtype)
    return values if values.min() >= info.min and values.max() <= info.max else None


def _skip(chars: Array, at: Array, step: int, skipped: Array) -> Array:
    """Move positions over space and brackets at one end of their elements, and give the characters found there.

    Between an element and a comma behind it there can be closing brackets only, before it opening ones: whatever else
    there is stays, and is no digit.
    """
    found = chars.take(at)
    if step > 0 and (is_space := found == _SPACE).any():  # what most writers put behind each comma
        at += is_space
        found = chars.take(at)
    is_odd = found - _ZERO > _NINE
    if is_odd.any():
        odd = is_odd.nonzero()[0]
        for _ in range(_MOST_SKIPS):
            odd = odd[skipped[found[odd]]]
            if not odd.size:
                break
            at[odd] += step
            found[odd] = chars[at[odd]]
    return found


def _add_digits(chars: Array, last: Array, lengths: Array, leading: Array, tail: Array) -> Array | None:
    """Add up the digits of each element from its last one.

    Args:
        chars: The text.
        last: Position of each element's last digit; changed.
        lengths: Digits of each element, `uint8[N]`.
        leading: First character of each.
        tail: Last character of each; changed.

    Returns:
        `integer[N]`, signed; None if a character is no digit or one has a leading zero.
    """
    shortest, longest = int(lengths.min()), int(lengths.max())
    if longest > 1 and ((leading == _ZERO) & (lengths > 1)).any():
        return None
    dtype = np.int16 if longest < 5 else np.int32
    values: Array = np.zeros(0)
    for place in range(longest):
        if place == 0:
            digits = tail
        else:
            last -= 1
            digits = chars.take(last, mode="wrap")
        digits -= _ZERO
        if place >= shortest:
            digits *= lengths > place
        if digits.max() > _NINE:
            return None
        values = values + np.multiply(digits, dtype(10**place), dtype=dtype) if place else digits.astype(dtype)
    return values
