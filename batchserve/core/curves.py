"""Service times for the simulator: how long a run of so many rows takes on a device that does not exist."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Curve", "Run", "beside_others", "by_elements", "changing", "line", "through", "warmed"]


@dataclass(frozen=True, slots=True)
class Run:
    """What decides how long a run takes.

    Attributes:
        rows: Rows in the batch; a curve made of another one may ask that for a fraction.
        longest: Length that its rows are padded to; 0 if the model has no such axis.
        start_s: When it begins.
        beside: Other runs of the model that are going on when it begins.
    """

    rows: float
    longest: int = 0
    start_s: float = 0.0
    beside: int = 0


Curve = Callable[[Run], float]
"""Gives the mean seconds of a run; the simulator adds the noise."""


def line(alpha_s: float, beta_s: float) -> Curve:
    """`alpha + beta · rows`: a GPU if alpha is much larger than beta, a CPU if it is not."""
    return lambda run: alpha_s + beta_s * run.rows


def by_elements(alpha_s: float, per_element_s: float) -> Curve:
    """`alpha + per_element · rows · longest`: what padding wastes costs time."""
    return lambda run: alpha_s + per_element_s * run.rows * max(1, run.longest)


def through(points: Sequence[tuple[float, float]]) -> Curve:
    """Straight lines through measured (rows, seconds); beyond the last one with the slope of the last two."""
    rows = [float(point[0]) for point in sorted(points)]
    seconds = [float(point[1]) for point in sorted(points)]
    slope = (seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2]) if len(rows) > 1 else 0.0

    def curve(run: Run) -> float:
        if run.rows > rows[-1]:
            return seconds[-1] + slope * (run.rows - rows[-1])
        return float(np.interp(run.rows, rows, seconds))

    return curve


def beside_others(alone: Curve, busy: Curve, slots: int) -> Curve:
    """Go from one curve to another, evenly with the other runs that are going on.

    Args:
        alone: When there are none.
        busy: When every slot has a run.
        slots: How many there are; with one, every run is `busy`.
    """
    if slots == 1:
        return busy

    def curve(run: Run) -> float:
        share = min(1.0, run.beside / (slots - 1))
        return (1 - share) * alone(run) + share * busy(run)

    return curve


def changing(pieces: Sequence[tuple[float, Curve]]) -> Curve:
    """Another curve from each moment on; the first must begin at 0."""
    starts = [piece[0] for piece in pieces]
    return lambda run: pieces[bisect_right(starts, run.start_s) - 1][1](run)


def warmed(curve: Curve, sizes: Sequence[int], *, length: int = 0) -> list[tuple[int, float]]:
    """Give the points that runs at load would measure on this curve, for a `CostModel`."""
    return [(rows, curve(Run(rows, length))) for rows in sizes]
