"""What a run costs: seconds by rows, measured at load and kept up to date by every run (batching.md section 5.1)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

__all__ = ["CostModel", "size_class"]

_WEIGHT = 0.2
"""How far a class moves towards a new run (batching.md section 5.1)."""


def size_class(rows: int) -> int:
    """Number the size classes: 1, 2, 3, 4, then two for each doubling (4-5, 6-7, 8-11, 12-15, …)."""
    if rows < 4:
        return rows
    top = rows.bit_length() - 1
    return 2 * top + (rows >> (top - 1) & 1)


class CostModel:
    """Service time by batch size.

    Each size class that was seen keeps a mean size and a mean time. Between these points the estimate is linear; below
    and beyond them, and without any, it follows batching.md section 5.1. It is finite, positive and never falls with
    the rows. One thread.

    Args:
        points: Rows and the seconds that a run of so many took. Any order.
        horizon_s: The model's `timeout`, from which the guess is made when there is no point.
    """

    def __init__(self, points: Iterable[tuple[int, float]], horizon_s: float) -> None:
        self._classes: dict[int, tuple[float, float]] = {}
        self._rows: list[float] = []
        self._seconds: list[float] = []
        self._is_stale = False
        self._prior = (horizon_s / 40, horizon_s / 400)
        for rows, seconds in sorted(points):
            self.observe(rows, seconds)

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Mean rows and mean seconds of each class seen, ascending in rows, with the running maximum applied."""
        self._refresh()
        return tuple(zip(self._rows, self._seconds, strict=True))

    @property
    def is_empty(self) -> bool:
        """True if no run was seen."""
        return not self._classes

    def observe(self, rows: int, seconds: float) -> None:
        """Take a successful run in. The first run of a class sets it."""
        number = size_class(rows)
        known = self._classes.get(number)
        if known is None:
            self._classes[number] = (float(rows), seconds)
        else:
            self._classes[number] = (known[0] + _WEIGHT * (rows - known[0]), known[1] + _WEIGHT * (seconds - known[1]))
        self._is_stale = True

    def recent(self, rows: int) -> float:
        """Return the mean of the size class alone if it was seen, else the estimate; cheaper than `mean`."""
        known = self._classes.get(size_class(rows))
        return self.mean(rows) if known is None else known[1]

    def mean(self, rows: int) -> float:
        """Estimate the seconds that a run of `rows` rows takes, from hand-over until its outputs are ready."""
        if self._is_stale:
            self._refresh()
        xs, ys = self._rows, self._seconds
        if not xs:
            return self._prior[0] + rows * self._prior[1]
        if rows <= xs[0]:
            return ys[0] * (0.6 + 0.4 * rows / xs[0])
        if rows > xs[-1]:
            return ys[-1] + (rows - xs[-1]) * self._slope_beyond()
        at = bisect_left(xs, rows)
        x0, x1, y0, y1 = xs[at - 1], xs[at], ys[at - 1], ys[at]
        return y0 + (y1 - y0) * (rows - x0) / (x1 - x0)

    def _refresh(self) -> None:
        if not self._is_stale:
            return
        self._is_stale = False
        self._rows, self._seconds = [], []
        highest = 1e-9
        for rows, seconds in sorted(self._classes.values()):
            highest = max(highest, seconds)  # the running maximum: noise must not make more rows cheaper
            self._rows.append(rows)
            self._seconds.append(highest)

    def _slope_beyond(self) -> float:
        xs, ys = self._rows, self._seconds
        if len(xs) == 1:
            return ys[0] / xs[0] / 10
        return max(0.0, (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))
