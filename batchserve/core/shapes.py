"""Shape keys: which requests may share a batch (batching.md section 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.tensors import Array

__all__ = ["ShapeKey", "shape_key"]

ShapeKey = tuple[tuple[int, ...], ...]
"""One tuple of dimensions per input, in the signature's order, without the batch axis.

Input names and element types are the model's, which are the same for all of its requests.
"""


def shape_key(inputs: Sequence[Array], *, is_batching: bool) -> ShapeKey:
    """Name the shape of a request's rows.

    Args:
        inputs: Arrays in the signature's order.
        is_batching: True if axis 0 is the batch and so not part of the key.

    Returns:
        A key equal to that of every request whose rows can stand in the same arrays.
    """
    if is_batching:
        return tuple(array.shape[1:] for array in inputs)
    return tuple(array.shape for array in inputs)
