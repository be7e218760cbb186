"""Requests of different lengths in one run: what is padded, up to where, and what of the outputs counts (section 9).

`batch.py` pads and cuts back by a `PadRule`; `windows.py` chooses which lengths run together. Source: batching.md
section 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.tensors import Array

__all__ = ["PadRule", "Value"]

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class PadRule:
    """How requests of different lengths are made equal, proved at load to leave every answer as it is alone.

    Axes are those of the whole tensors, so 0 is the batch and never among them. All padded axes of a request have one
    length; padding stands behind what the request sent.

    Attributes:
        axes: The padded axes of each input, in the signature's order; none for an input without a length.
        values: What each input is padded with.
        mask: Index of the input that tells the model what is padding: a mask that is padded too, or a row's length.
        outputs: The axes of each output that are cut back to the request's own length.
        multiple: A padded run's length is a multiple of this.
        max_tokens: Rows times length of one run of several requests; None for no limit.
        where: Input and axis that a request's length is read from.
    """

    axes: tuple[tuple[int, ...], ...]
    values: tuple[Value, ...]
    mask: int
    outputs: tuple[tuple[int, ...], ...]
    multiple: int = 8
    max_tokens: int | None = None
    where: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        first = next(index for index, axes in enumerate(self.axes) if axes)
        object.__setattr__(self, "where", (first, self.axes[first][0]))

    def length_of(self, inputs: Sequence[Array]) -> int:
        """Return a request's true length: what all of its padded axes have."""
        index, axis = self.where
        return int(inputs[index].shape[axis])

    def odd_one(self, inputs: Sequence[Array]) -> tuple[int, int] | None:
        """Find an input and axis of another length than the request's; None if all agree, as they must to be padded."""
        length = self.length_of(inputs)
        for index, axes in enumerate(self.axes):
            shape = inputs[index].shape
            for axis in axes:
                if shape[axis] != length:
                    return index, axis
        return None

    def run_length(self, shortest: int, longest: int) -> int:
        """Return the length of a run whose members are between these long.

        Members of one length are not padded at all, so a lone request runs exactly as it would without the rule.
        """
        return longest if shortest == longest else -(-longest // self.multiple) * self.multiple

    def run_lengths(self, shortest: Array, longest: Array) -> Array:
        """Do as `run_length` for arrays of one shape (or that broadcast), `int64`."""
        multiple = self.multiple
        return np.where(shortest == longest, longest, (longest + (multiple - 1)) // multiple * multiple)

    def join(self, index: int, arrays: Sequence[Array], rows: int, length: int) -> Array:
        """Stack one input of several requests, each padded at the end to `length`.

        Args:
            index: Which input.
            arrays: Of each request in turn, `dtype[rows_i, ...]`, at most `length` long on the padded axes.
            rows: Of all of them together.
            length: Of the run.

        Returns:
            A new C-contiguous array. Every element that no request sent is the padding value.
        """
        axes = self.axes[index]
        if not axes:
            return np.concatenate(arrays)
        shape = [rows, *arrays[0].shape[1:]]
        for axis in axes:
            shape[axis] = length
        joined = np.full(shape, self.values[index], arrays[0].dtype)
        at = 0
        for array in arrays:
            stop = at + array.shape[0]
            joined[(slice(at, stop), *map(slice, array.shape[1:]))] = array
            at = stop
        return joined

    def cut(self, index: int, rows: Array, length: int) -> Array:
        """Cut one request's rows of an output back to its own length: a view, or a copy where that has gaps."""
        axes = self.outputs[index]
        if not axes:
            return rows
        places = [slice(None)] * rows.ndim
        for axis in axes:
            places[axis] = slice(length)
        return np.ascontiguousarray(rows[tuple(places)])
