"""Tensors as JSON arrays (protocol.md sections 3 and 4)."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import orjson

from batchserve.errors import InvalidRequest
from batchserve.frontend.pauses import Pauses

if TYPE_CHECKING:
    from batchserve.core.tensors import Array

__all__ = ["elements_json", "numbers_json", "numbers_parts"]

PIECE_ELEMENTS = 4 << 10
"""Numbers written at one go: some 80 µs, 0.4 ms if none of them is finite."""


def numbers_parts(flat: Array) -> list[bytes]:
    """Write a numeric tensor as `numbers_json` does, in pieces of `PIECE_ELEMENTS` and with pauses between them.

    Args:
        flat: `bool`, integer or float, one-dimensional and C-contiguous.

    Returns:
        The text in parts, to be put one behind the other.
    """
    if len(flat) <= PIECE_ELEMENTS:
        return [numbers_json(flat)]
    pauses = Pauses()
    parts: list[bytes] = []
    for start in range(0, len(flat), PIECE_ELEMENTS):
        parts += b"," if start else b"[", numbers_json(flat[start : start + PIECE_ELEMENTS])[1:-1]
        pauses.here()
    return [*parts, b"]"]


def numbers_json(flat: Array) -> bytes:
    """Write a numeric tensor as a JSON array, each number with the fewest digits that give it back.

    Args:
        flat: `bool`, integer or float, one-dimensional and C-contiguous.

    Returns:
        JSON, but for the tokens NaN, Infinity and -Infinity where the array has those (protocol.md section 3).
    """
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    if flat.dtype.kind != "f" or text.find(b"n") < 0:
        return text
    # orjson writes null for each number that is not finite: an `n` is nowhere else, and the order is the array's.
    lost = flat[~np.isfinite(flat)].tolist()
    pieces = text.split(b"null")
    tokens = [b"NaN" if item != item else b"Infinity" if item > 0 else b"-Infinity" for item in lost]
    return b"".join(chain.from_iterable(zip(pieces, [*tokens, b""], strict=True)))


def elements_json(where: str, flat: list[str | bytes]) -> bytes:
    """Write a BYTES tensor as a JSON array of strings.

    Args:
        where: How messages name the output.
        flat: The elements.

    Raises:
        InvalidRequest: An element is not UTF-8 (or a `str` that cannot be encoded): it has a binary form only.
    """
    try:
        return orjson.dumps([item if isinstance(item, str) else str(item, "utf-8") for item in flat])
    except (UnicodeDecodeError, orjson.JSONEncodeError):
        position = next(i for i, item in enumerate(flat) if not _is_text(item))
        raise InvalidRequest(
            f"{where}: element {position} of the result is not valid UTF-8, so it cannot be written in JSON; ask for "
            f'this output with the parameter "binary_data": true'
        ) from None


def _is_text(item: str | bytes) -> bool:
    try:
        item.encode() if isinstance(item, str) else str(item, "utf-8")
    except UnicodeError:
        return False
    return True
