"""Tensors out of JSON arrays (protocol.md sections 3 and 4)."""

from __future__ import annotations

import json
import re
import struct
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import numpy as np

from batchserve.errors import InvalidRequest
from batchserve.frontend import number_parsers
from batchserve.frontend.envelope import MAX_DEPTH, load
from batchserve.frontend.number_parsers import SimdParser, packed, read_floats, read_integers
from batchserve.frontend.number_text import NumberText, Piece
from batchserve.frontend.pauses import Pauses
from batchserve.frontend.wording import count_of, json_type, number, shape_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchserve.core.tensors import Array, DataType

__all__ = ["JsonReader"]

_OPENING = re.compile(rb"[\s\[]*")
_QUICK_DEPTH = 8  # nesting that has a typed decoder; deeper is legal and rare
_EXACT_FLOAT = 2.0**53  # beyond it a float cannot tell neighbouring integers apart


class JsonReader:
    """Reads `data` of one input into a flat array. Any thread; holds no state between calls.

    Most bodies go the quick way: a decoder typed for the element and for the depth of the first element gives Python
    numbers whose types the parser has judged, and numpy takes them over in one call. What it refuses is parsed again,
    flattened without recursion and judged here, which accepts the rest (uneven nesting, 2.0 for an integer,
    1e400) or names the first bad element.

    Large arrays of numbers come as a NumberText, and go the same way piece by piece, with pauses: first to parsers that
    are quicker still, and only what those refuse to the tolerant one.

    Args:
        where: How messages name the input, such as `input 'x' of model 'addone'`.
        datatype: Its element type.
        rank: Its number of dimensions.
    """

    __slots__ = ("_datatype", "_decoders", "_range", "_where")

    def __init__(self, where: str, datatype: DataType, rank: int) -> None:
        self._where = where
        self._datatype = datatype
        info = np.iinfo(datatype.dtype) if datatype.kind == "int" else None
        self._range = (int(info.min), int(info.max)) if info else (0, 0)
        depth = min(max(rank, 1), _QUICK_DEPTH) if datatype.is_json else 0
        self._decoders = _decoders(self._element_type(), depth)

    def read(self, data: msgspec.Raw | list[Any] | NumberText, shape: Sequence[int], count: int) -> Array:
        """Read the elements of one input.

        Args:
            data: `data` as the envelope holds it.
            shape: For messages.
            count: Elements that the shape holds.

        Returns:
            `dtype[count]`, owned by the caller.

        Raises:
            InvalidRequest: Not an array, nested too deeply, not `count` elements, or an element of the wrong type or
                out of range; or the datatype has no JSON form.
        """
        if not self._datatype.is_json:
            raise InvalidRequest(
                f"{self._where}: {self._datatype.name} cannot be given in JSON data; send it as binary data, with "
                f"parameters.binary_data_size"
            )
        if isinstance(data, NumberText):
            return self._read_pieces(data, shape, count)
        flat = self._read_quickly(data) if isinstance(data, msgspec.Raw) else None
        is_judged = flat is not None
        if flat is None:
            flat = _flatten(self._where, self._parse(data) if isinstance(data, msgspec.Raw) else data)
        if len(flat) != count:
            raise self._bad_count(len(flat), shape, count)
        return self._to_array(flat if is_judged else self._judge(flat))

    def _read_pieces(self, text: NumberText, shape: Sequence[int], count: int) -> Array:
        array = np.empty(min(count, text.most_elements), self._datatype.dtype)
        parsers = self._parsers()
        pauses = Pauses()
        at = 0
        with np.errstate(over="ignore"):  # beyond FP32 means infinite
            for piece in text.pieces():
                values = _read_with(parsers, piece) if piece.is_sound else None
                parts = self._read_tolerantly(piece, at) if values is None else (values,)
                for part in parts:
                    room = array[at : at + len(part)]
                    room[:] = part[: len(room)]
                    at += len(part)
                    pauses.here()
        if at != count:
            raise self._bad_count(at, shape, count)
        return array

    def _parsers(self) -> list[Callable[[Piece], Array | None]]:
        """Give the quick parsers of pieces, each of which may refuse one."""
        kind = self._datatype.kind
        has_simd = number_parsers.simdjson is not None and kind in ("int", "float")
        simd = [SimdParser(self._datatype)] if has_simd else []
        if kind == "float":
            return [*simd, read_floats]
        if kind == "int":
            return [partial(read_integers, dtype=self._datatype.dtype), *simd, self._read_typed]
        return [self._read_typed] if kind == "bool" else []

    def _read_typed(self, piece: Piece) -> Array | None:
        flat = self._read_quickly(piece.balanced)
        try:
            return None if flat is None else packed(flat, self._datatype.dtype)
        except (struct.error, OverflowError):  # beyond 64 bits
            return None

    def _read_tolerantly(self, piece: Piece, first: int) -> Iterator[Array]:
        """Read what the quick parsers refused; `first` is the place of its first element in the array."""
        for part in piece.smaller():
            flat = _flatten(self._where, self._parse_piece(part))
            yield self._to_array(self._judge(flat, first), first)
            first += len(flat)

    def _parse_piece(self, piece: Piece) -> list[Any]:
        fault_at, what = piece.fault_at, "Expecting value"
        if fault_at is None:
            try:
                parsed: Any = load(str(piece.balanced, "latin-1"))  # without strings in it, only ASCII is JSON
            except RecursionError:
                raise _too_deep(self._where) from None
            except json.JSONDecodeError as error:
                fault_at, what = piece.start + error.pos - piece.before, error.msg
            else:
                if piece.is_sound:
                    return cast("list[Any]", parsed)
                fault_at, what = piece.start + len(piece.text), "Extra data"
        raise InvalidRequest(
            f"{self._where}: data is not valid JSON: {what} at byte {fault_at} of the body; expected an array, each "
            f"element of it {_expected(self._datatype)}"
        )

    def _element_type(self) -> Any:
        if self._datatype.kind == "int":
            low, high = self._range
            # Bounds of 64 bits do not fit msgspec's; numpy refuses those when it converts.
            if self._datatype.itemsize < 8:
                return Annotated[int, msgspec.Meta(ge=low, le=high)]
            return Annotated[int, msgspec.Meta(ge=0)] if low == 0 else int
        return {"bool": bool, "float": float, "bytes": str}[self._datatype.kind]

    def _bad_count(self, found: int, shape: Sequence[int], count: int) -> InvalidRequest:
        return InvalidRequest(
            f"{self._where}: data has {count_of(found, 'element')}; its shape {shape_text(shape)} holds {number(count)}"
        )

    def _read_quickly(self, data: msgspec.Raw | bytes) -> list[Any] | None:
        opening = _OPENING.match(data)  # matches always, if only the empty string
        depth = opening.group().count(b"[") if opening else 0
        if not 0 < depth <= len(self._decoders):
            return None
        try:
            nested: Any = self._decoders[depth - 1](data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
        for _ in range(depth - 1):
            flat: list[Any] = []
            for array in nested:
                flat += array
            nested = flat
        return cast("list[Any]", nested)

    def _parse(self, data: msgspec.Raw) -> list[Any]:
        try:
            parsed = load(str(data, "utf-8"))  # syntax and UTF-8 have been checked with the envelope
        except RecursionError:
            raise _too_deep(self._where) from None
        if not isinstance(parsed, list):
            raise InvalidRequest(
                f"{self._where}: data is not an array but {json_type(parsed)}; expected an array, also for one element"
            )
        return parsed

    def _judge(self, flat: list[Any], first: int = 0) -> list[Any]:
        """Check the type and range of each element that the tolerant parser gave."""
        if self._datatype.kind == "float" and set(map(type, flat)) == {float}:
            return flat  # what NaN brings here most often
        accept = {"bool": _a_bool, "int": self._an_int, "float": _a_float, "bytes": _a_string}[self._datatype.kind]
        judged = [accept(item) for item in flat]
        if None in judged:
            position = judged.index(None)
            raise self._bad_element(first + position, flat[position])
        return judged

    def _an_int(self, item: object) -> int | None:
        if type(item) is float and item.is_integer() and abs(item) <= _EXACT_FLOAT:
            item = int(item)
        low, high = self._range
        return item if type(item) is int and low <= item <= high else None

    def _to_array(self, flat: list[Any], first: int = 0) -> Array:
        if self._datatype.name == "FP32":
            with np.errstate(over="ignore"):  # beyond FP32 means infinite
                return np.fromiter(flat, self._datatype.dtype, len(flat))
        try:
            return np.fromiter(flat, self._datatype.dtype, len(flat))
        except OverflowError:
            low, high = self._range
            position = next(i for i, item in enumerate(flat) if not low <= item <= high)
            raise self._bad_element(first + position, flat[position]) from None

    def _bad_element(self, position: int, item: object) -> InvalidRequest:
        found = json_type(item)
        if isinstance(item, str):
            found = "text with half of a surrogate pair" if self._datatype.kind == "bytes" else "a string"
        elif self._datatype.kind == "int" and found == "a number":
            found = "out of range"
            if isinstance(item, float) and not item.is_integer():
                found = "a number with a fraction, or not finite"
            elif isinstance(item, float) and abs(item) > _EXACT_FLOAT:
                found = "a float beyond 2**53, where floats skip integers"
        return InvalidRequest(
            f"{self._where}: element {position} of data is {found}; expected {_expected(self._datatype)}"
        )


def _read_with(parsers: list[Callable[[Piece], Array | None]], piece: Piece) -> Array | None:
    """Ask parsers in turn, first the one that took the piece before, as arrays are mostly of one kind throughout."""
    for i, parse in enumerate(parsers):
        array = parse(piece)
        if array is not None:
            parsers.insert(0, parsers.pop(i))
            return array
    return None


def _expected(datatype: DataType) -> str:
    if datatype.kind == "int":
        info = np.iinfo(datatype.dtype)
        return f"an integer from {info.min} to {info.max}, as the datatype is {datatype.name}"
    expected = {"bool": "true or false", "float": "a number", "bytes": "a string of Unicode text"}[datatype.kind]
    return f"{expected}, as the datatype is {datatype.name}"


def _decoders(element: Any, depth: int) -> tuple[Callable[[Any], Any], ...]:
    decoders = []
    for _ in range(depth):
        element = list[element]
        decoders.append(msgspec.json.Decoder(element).decode)
    return tuple(decoders)


def _too_deep(where: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: data is nested too deeply; expected at most {MAX_DEPTH} arrays inside each other")


def _flatten(where: str, data: list[Any]) -> list[Any]:
    flat: list[Any] = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if type(item) is list:
                if len(stack) == MAX_DEPTH:
                    raise _too_deep(where)
                stack.append(iter(item))
                break
            flat.append(item)
        else:
            stack.pop()
    return flat


def _a_bool(item: object) -> bool | None:
    return item if type(item) is bool else None


def _a_float(item: object) -> float | None:
    if type(item) is float:
        return item
    if type(item) is not int:
        return None
    try:
        return float(item)
    except OverflowError:
        return float("inf") if item > 0 else float("-inf")


def _a_string(item: object) -> str | None:
    if type(item) is not str:
        return None
    try:
        item.encode()
    except UnicodeEncodeError:
        return None
    return item
