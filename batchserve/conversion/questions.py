"""What a converted model and its original are asked: inputs that a user keeps in files, or random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from batchserve.backends.base import Session
from batchserve.core.tensors import Array
from batchserve.errors import BackendError

__all__ = ["Questions"]

LENGTH = 64
"""Free axes of random inputs where the model accepts it, as when a server compares layouts: users send more than what a
proof needs."""


class Questions:
    """Inputs for runs of any number of rows. Blocks while it is made: it may run the model.

    Args:
        session: The original, loaded.
        files: Inputs of each file by name, in the model's order, at least one row each; None to draw random ones.
    """

    def __init__(self, session: Session, files: Sequence[Mapping[str, Array]] | None) -> None:
        self._session = session
        self._files = None if files is None else [list(one.values()) for one in files]
        self._length = LENGTH if files is None and _accepts(session, LENGTH) else 0

    def of_rows(self, rows: int) -> list[Array]:
        """Return random rows, or those of the first file over and over; all of it if the model does not batch."""
        if self._files is None:
            return self._session.sample(rows, self._length)
        first = self._files[0]
        if not self._session.batchability.is_batchable:
            return first
        return [array[np.arange(rows) % len(array)] for array in first]

    def for_answers(self, rows: Sequence[int]) -> list[list[Array]]:
        """Return the inputs of every file, or random ones of so many rows each."""
        return [self.of_rows(count) for count in rows] if self._files is None else self._files


def _accepts(session: Session, length: int) -> bool:
    """Say whether there are free axes but the batch, and whether they may have this length."""
    if not any(-1 in spec.shape[1:] for spec in session.inputs):
        return False
    try:
        session.run(session.sample(1, length), (1 << len(session.outputs)) - 1)
    except BackendError:
        return False
    return True
