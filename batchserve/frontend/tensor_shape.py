"""Checks of a tensor's shape against the model's, in Python's unbounded integers and before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchserve.errors import InvalidRequest
from batchserve.frontend.wording import number, shape_text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["count_elements"]

_LARGEST_DIM = 2**63 - 1


def count_elements(where: str, shape: Sequence[int], expected: Sequence[int]) -> int:
    """Check a shape and give its number of elements.

    Args:
        where: How messages name the input.
        shape: Dimensions that the client gave: integers of any size and sign.
        expected: The model's, -1 where any positive size will do.

    Raises:
        InvalidRequest: Another rank, a dimension that differs or is not positive, or one beyond 64 bits.
    """
    if len(shape) != len(expected):
        raise _mismatch(where, shape, expected)
    count = 1
    for have, want in zip(shape, expected, strict=True):
        if have < 1 or (have != want and (want != -1 or have > _LARGEST_DIM)):
            raise _mismatch(where, shape, expected)
        count *= have
    return count


def _mismatch(where: str, shape: Sequence[int], expected: Sequence[int]) -> InvalidRequest:
    why = ""
    if len(shape) != len(expected):
        why = f": it has rank {len(shape)} where the model has {len(expected)}"
    elif not_positive := [dim for dim in shape if dim < 1]:
        why = f": a dimension is {number(not_positive[0])}, and each must be at least 1"
    elif any(dim > _LARGEST_DIM for dim in shape):
        why = ": a dimension does not fit 64 bits"
    free = " (-1 stands for any size from 1)" if -1 in expected else ""
    return InvalidRequest(f"{where}: shape {shape_text(shape)} does not match {shape_text(expected)}{free}{why}")
