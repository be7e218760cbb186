"""What batches spend on the way to their runs and back, by rows: a simulation needs it besides the runs' own times."""

from __future__ import annotations

from collections.abc import Iterable

from batchserve.core.cost import size_class

__all__ = ["HandOvers"]

WEIGHT = 0.05
"""How far a class moves towards a new batch: hand-overs scatter by half and more."""


class HandOvers:
    """Mean seconds from a batch's cut until it is back, its run left out, by size class. Event loop only.

    It grows with the rows, for the answers of the batch before are written meanwhile: 0.3 ms for a few rows and 1.2 ms
    for 32 with a perceptron of 20 ms, of which a simulated queue under load is shorter by a quarter if it is left out.

    Args:
        points: Rows and seconds as they were learnt before.
    """

    def __init__(self, points: Iterable[tuple[float, float]] = ()) -> None:
        self._classes = {size_class(round(rows)): (rows, seconds) for rows, seconds in points}

    def observe(self, rows: int, seconds: float) -> None:
        """Take a batch in."""
        number = size_class(rows)
        mean_rows, mean_s = self._classes.get(number, (float(rows), seconds))
        self._classes[number] = (mean_rows + WEIGHT * (rows - mean_rows), mean_s + WEIGHT * (seconds - mean_s))

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Mean rows and mean seconds of each class seen, ascending in rows."""
        return tuple(sorted(self._classes.values()))
