"""Shape keys: which requests may share a batch (batching.md section 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array

__all__ = ["ShapeKey", "shape_key"]

ShapeKey = tuple[tuple[int, ...], ...]
"""One tuple of dimensions per input, in the signature's order, without the batch axis; -1 on an axis that is padded.

Input names and element types are the model's, which are the same for all of its requests.
"""


def shape_key(inputs: Sequence[Array], *, is_batching: bool, pad: PadRule | None = None) -> ShapeKey:
    """Name the shape of a request's rows.

    Args:
        inputs: Arrays in the signature's order.
        is_batching: True if axis 0 is the batch and so not part of the key.
        pad: Its axes are left out (-1 in their place), unless the request is 0 long: it is not padded.

    Returns:
        A key equal to that of every request whose rows can stand in the same arrays, padded if need be.
    """
    if not is_batching:
        return tuple(array.shape for array in inputs)
    if pad is None or not pad.length_of(inputs):
        return tuple(array.shape[1:] for array in inputs)
    return tuple(_without(array.shape, axes) for array, axes in zip(inputs, pad.axes, strict=True))


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-1 if axis in axes else size for axis, size in enumerate(shape) if axis)
