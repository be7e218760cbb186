"""What a run costs: seconds by rows, from measurements (batching.md section 5.1)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

__all__ = ["CostCurve"]


class CostCurve:
    """Service time by batch size, as measured when the model was loaded.

    Between the points it is linear; below and beyond them, and without any, it follows batching.md section 5.1. It is
    finite, positive and never falls with the rows.

    Args:
        points: Rows and the seconds that a run of so many took. Any order; one point for each number of rows.
        horizon_s: The model's `timeout`, from which the guess is made when there is no point.
    """

    def __init__(self, points: Iterable[tuple[int, float]], horizon_s: float) -> None:
        self._rows: list[int] = []
        self._seconds: list[float] = []
        highest = 1e-9
        for rows, seconds in sorted(points):
            highest = max(highest, seconds)  # the running maximum of section 5.1: noise must not make more rows cheaper
            self._rows.append(rows)
            self._seconds.append(highest)
        self._prior = (horizon_s / 40, horizon_s / 400)

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """The measured points, ascending in rows, with the running maximum applied."""
        return tuple(zip(self._rows, self._seconds, strict=True))

    def mean(self, rows: int) -> float:
        """Estimate the seconds that a run of `rows` rows takes, from hand-over until its outputs are ready."""
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

    def _slope_beyond(self) -> float:
        xs, ys = self._rows, self._seconds
        if len(xs) == 1:
            return ys[0] / xs[0] / 10
        return max(0.0, (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))
