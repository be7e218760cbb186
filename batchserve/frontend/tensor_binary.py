"""Tensors in their binary form, both ways: little-endian, row-major, packed (protocol.md section 3)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from batchserve.errors import InvalidRequest
from batchserve.frontend.wording import count_of, number, shape_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.tensors import Array, DataType

__all__ = ["Buffer", "elements_bytes", "numbers_bytes", "read_binary"]

Buffer = bytes | bytearray | memoryview
"""A body: one-dimensional, contiguous, of bytes."""

_LENGTH = struct.Struct("<I")
_SMALL_BYTES = 16 << 10


def read_binary(
    where: str, datatype: DataType, shape: Sequence[int], count: int, body: Buffer, start: int, size: int
) -> Array:
    """Read one input out of a body.

    Args:
        where: How messages name the input.
        datatype: Its element type.
        shape: Its dimensions, checked.
        count: Elements that the shape holds, as an unbounded integer.
        body: The whole body.
        start: Where the tensor begins in it.
        size: The bytes it has there; they are all in the body.

    Returns:
        `dtype[shape]`. Numbers are a view of the body, read-only if the body is, and may be unaligned, as the body
        may put them anywhere; BOOL and BYTES are copies.

    Raises:
        InvalidRequest: `size` is not what the shape needs, the lengths inside a BYTES tensor do not add up, or an
            element is not UTF-8.
    """
    if datatype.itemsize == 0:
        return _read_elements(where, shape, count, body, start, size)
    if size != count * datatype.itemsize:
        raise InvalidRequest(
            f"{where}: {count_of(size, 'byte')} of binary data; shape {shape_text(shape)} of {datatype.name} takes "
            f"{number(count * datatype.itemsize)}"
        )
    if datatype.kind == "bool":
        return np.ndarray(shape, np.uint8, body, start).astype(np.bool_)  # any byte but 0 becomes 1
    return np.ndarray(shape, datatype.dtype, body, start)


def _read_elements(where: str, shape: Sequence[int], count: int, body: Buffer, start: int, size: int) -> Array:
    if size < 4 * count:
        raise InvalidRequest(
            f"{where}: {count_of(size, 'byte')} of binary data cannot hold the {count_of(count, 'element')} of shape "
            f"{shape_text(shape)}: each has 4 bytes of length before its own"
        )
    elements: list[str] = []
    end = start + size
    at = start
    while at < end and len(elements) < count:
        text_at = at + 4
        at = text_at + _LENGTH.unpack_from(body, at)[0] if text_at <= end else end + 1
        if at > end:
            raise InvalidRequest(
                f"{where}: element {len(elements)} runs past the end of its {count_of(size, 'byte')} of binary data; "
                f"expected a 4-byte little-endian length and that many bytes for each element"
            )
        try:
            elements.append(str(body[text_at:at], "utf-8"))
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"{where}: element {len(elements)} is not valid UTF-8; expected text, as ONNX strings are"
            ) from None
    if at != end or len(elements) != count:
        surplus = f" and {count_of(end - at, 'byte')} more" if at != end else ""
        raise InvalidRequest(
            f"{where}: its {count_of(size, 'byte')} of binary data hold {count_of(len(elements), 'element')}{surplus}; "
            f"shape {shape_text(shape)} holds {count_of(count, 'element')}"
        )
    array = np.empty(count, object)
    array[:] = elements
    return array.reshape(tuple(shape))


def numbers_bytes(array: Array) -> bytes | memoryview:
    """Give the binary form of a numeric tensor.

    Args:
        array: C-contiguous.

    Returns:
        A copy if that is small: a view would keep a whole batch's output alive for a few bytes. Otherwise a view.
    """
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return array.reshape(-1).data.cast("B")


def elements_bytes(flat: list[str | bytes]) -> bytes:
    """Give the binary form of a BYTES tensor.

    Args:
        flat: The elements. A `str` with surrogates stands for bytes that were not UTF-8 (Python's surrogateescape) or,
            failing that, for its surrogates' own three bytes.
    """
    parts: list[bytes] = []
    for item in flat:
        content = item if isinstance(item, bytes) else _encode(item)
        parts += _LENGTH.pack(len(content)), content
    return b"".join(parts)


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
