"""What a run costs: seconds by rows, measured at load and kept up to date by every run (batching.md section 5.1)."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable

__all__ = ["CostModel", "size_class", "size_start", "size_starts"]

_WEIGHT = 0.2
"""How far a class moves towards a new run (batching.md section 5.1)."""

_OVERHEAD_WEIGHT = 0.05
"""How far the overhead moves towards a new one: hand-overs scatter more than runs do."""

_FIRST_Q, _LOWEST_Q, _HIGHEST_Q = 1.2, 1.02, 2.0
_QUANTILE = 0.9
_Q_STEP = 0.03

_SLOWER, _FASTER = 1.3, 0.75
"""Three runs in a row beyond one of these mean that the model, or the machine, has changed."""

_MIN_S = 1e-9


def size_class(rows: int) -> int:
    """Number the size classes: 1, 2, 3, 4, then two for each doubling (4-5, 6-7, 8-11, 12-15, …)."""
    if rows < 4:
        return rows
    top = rows.bit_length() - 1
    return 2 * top + (rows >> (top - 1) & 1)


def size_start(rows: int) -> int:
    """Return the fewest rows of a size's class, one of 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    if rows < 4:
        return rows
    half = 1 << (rows.bit_length() - 2)
    return rows // half * half


def size_starts(max_rows: int) -> list[int]:
    """List the fewest rows of every class up to that of `max_rows`."""
    starts, rows = [], 1
    while rows <= max_rows:
        starts.append(rows)
        half = 1 << max(0, rows.bit_length() - 2)
        rows += half if rows >= 4 else 1
    return starts


class CostModel:
    """Service time by batch size.

    Each size class that was seen keeps a mean size and a mean time. Between these points the estimate is linear; below
    and beyond them, and without any, it follows batching.md section 5.1. It is finite, positive and never falls with
    the rows. What a hand-over adds to a run is learnt apart from the runs, for a run done in place has none of it.

    The rows may as well be any other measure of work that costs grow with, such as rows x longest. One thread.

    Args:
        points: Rows and the seconds that a run of so many took. Any order.
        horizon_s: The model's latency target or `timeout`, from which the guess is made when there is no point.

    Attributes:
        q: What the mean is multiplied by for an upper value.
        overhead_s: Seconds that a batch spends on the way to its run and back.
        version: Moves whenever an estimate may have.
    """

    def __init__(self, points: Iterable[tuple[float, float]], horizon_s: float) -> None:
        self.q = _FIRST_Q
        self.overhead_s = 0.0
        self.version = 0
        self._has_overhead = False
        # Classes that were seen, ascending; by the same index their mean rows, mean seconds, and the running maximum.
        self._numbers: list[int] = []
        self._rows: list[float] = []
        self._means_s: list[float] = []
        self._seconds: list[float] = []
        self._places: dict[int, int] = {}  # index by class
        self._prior = (horizon_s / 40, horizon_s / 400)
        # The last runs: ratio to the estimate, class, rows, seconds.
        self._runs: deque[tuple[float, int, int, float]] = deque(maxlen=3)
        for rows, seconds in sorted(points):
            self._move(size_class(max(1, round(rows))), rows, seconds)

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Mean rows and mean seconds of each class seen, ascending in rows, with the running maximum applied."""
        return tuple(zip(self._rows, self._seconds, strict=True))

    @property
    def is_empty(self) -> bool:
        """True if no run was seen."""
        return not self._rows

    # --- learning -------------------------------------------------------------------------------------------------

    def observe(self, rows: int, run_s: float, overhead_s: float = 0.0) -> None:
        """Take a successful run in.

        Args:
            rows: Rows it ran.
            run_s: Seconds of the run itself.
            overhead_s: Seconds its batch took on the way there and back: little for a run in place.
        """
        number, ratio = size_class(rows), 1.0
        if self._rows:
            expected_s = self.run(rows)
            ratio = run_s / expected_s
            self._follow((run_s + overhead_s) / (expected_s + self.overhead_s))
            self._runs.append((ratio, number, rows, run_s))
        # Runs in place pull it down: what counts is what batches spend, not what a hand-over would cost.
        self.overhead_s += (_OVERHEAD_WEIGHT if self._has_overhead else 1.0) * (overhead_s - self.overhead_s)
        self._has_overhead = True
        self._move(number, rows, run_s)
        if ratio > _SLOWER or ratio < _FASTER:
            self._follow_change()

    def mirror(self, other: CostModel, scale: float) -> None:
        """Become another curve whose rows count `scale` times as much, such as one by tokens at some length.

        It learns by being made anew, not from runs of its own.
        """
        self.q, self.overhead_s, self._prior = other.q, other.overhead_s, other._prior
        self._rows = [rows * scale for rows in other._rows]
        self._seconds = list(other._seconds)
        self.version += 1

    def _move(self, number: int, rows: float, seconds: float) -> None:
        """Move a class towards a run, or begin one with it."""
        at = self._places.get(number)
        if at is None:
            at = bisect_left(self._numbers, number)
            self._numbers.insert(at, number)
            self._rows.insert(at, float(rows))
            self._means_s.insert(at, seconds)
            self._seconds.insert(at, 0.0)
            self._places = {number: place for place, number in enumerate(self._numbers)}
        else:
            self._rows[at] += _WEIGHT * (rows - self._rows[at])
            self._means_s[at] += _WEIGHT * (seconds - self._means_s[at])
        self._raise_from(at)

    def _raise_from(self, first: int) -> None:
        """Bring the running maximum up to date, from one class on: noise must not make more rows cheaper."""
        means_s, seconds = self._means_s, self._seconds
        highest_s = seconds[first - 1] if first else _MIN_S
        for at in range(first, len(means_s)):
            if means_s[at] > highest_s:
                highest_s = means_s[at]
            if at > first and seconds[at] == highest_s:
                break  # what comes next stands on what has not changed
            seconds[at] = highest_s
        self.version += 1

    def _follow(self, ratio: float) -> None:
        """Move the upper factor so that nine runs of ten stay below it."""
        if ratio > self.q:
            self.q = min(_HIGHEST_Q, self.q + _Q_STEP * _QUANTILE * min(1.0, (ratio - self.q) / 0.05 + 0.2))
        else:
            self.q = max(_LOWEST_Q, self.q - _Q_STEP * (1 - _QUANTILE))

    def _follow_change(self) -> None:
        """Jump instead of creeping when three runs in a row say that everything is slower, or faster."""
        ratios = [run[0] for run in self._runs]
        if len(ratios) < 3 or not (min(ratios) > _SLOWER or max(ratios) < _FASTER):
            return
        numbers = {run[1] for run in self._runs}
        if len(self._rows) > 1 and len(numbers) == 1:
            _, number, rows, run_s = self._runs[-1]
            at = self._places[number]
            self._rows[at], self._means_s[at] = float(rows), run_s
        else:
            # The ratios are those of before each run; the classes have crept along since, which is little.
            factor = math.prod(ratios) ** (1 / 3)
            for at, number in enumerate(self._numbers):
                self._means_s[at] *= factor / (1 + _WEIGHT * (factor - 1) if number in numbers else 1.0)
        self._runs.clear()
        self._seconds = [0.0] * len(self._means_s)
        self._raise_from(0)

    # --- asking ---------------------------------------------------------------------------------------------------

    def recent(self, rows: int) -> float:
        """Return the mean run of the size class alone if it was seen, else the estimate; cheaper than `run`."""
        at = self._places.get(size_class(rows))
        return self.run(rows) if at is None else self._means_s[at]

    def mean(self, rows: float) -> float:
        """Estimate the seconds that a batch of `rows` rows takes, from hand-over until its outputs are ready."""
        return self.run(rows) + self.overhead_s

    def hi(self, rows: float) -> float:
        """Return an upper value of `mean`, which nine batches of ten stay below."""
        return self.q * (self.run(rows) + self.overhead_s)

    def run(self, rows: float) -> float:
        """Estimate the seconds of the run itself, without the hand-over."""
        xs, ys = self._rows, self._seconds
        if not xs:
            return self._prior[0] + rows * self._prior[1]
        if rows <= xs[0]:
            return ys[0] * (0.6 + 0.4 * rows / xs[0])
        if rows > xs[-1]:
            return ys[-1] + (rows - xs[-1]) * self._slope_beyond()
        at = bisect_left(xs, rows)
        x0, x1, y0, y1 = xs[at - 1], xs[at], ys[at - 1], ys[at]
        return min(y1, y0 + (y1 - y0) * (rows - x0) / (x1 - x0))  # rounding must not make more rows cheaper

    def largest_within(self, seconds: float, most: int) -> int:
        """Return the largest size up to `most` whose upper value is at most `seconds`; 0 if one row takes longer."""
        if self.hi(most) <= seconds:
            return most
        if self.hi(1) > seconds:
            return 0
        low, high = 1, most
        run_s = seconds / self.q - self.overhead_s
        if self._rows:  # narrow the search to the stretch between two points that holds the answer
            at = bisect_right(self._seconds, run_s)
            if at > 0:
                low = min(max(low, int(self._rows[at - 1])), most)
            if at < len(self._rows):
                high = min(high, math.ceil(self._rows[at]) + 1)
            if self.hi(low) > seconds:
                low = 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.hi(middle) <= seconds:
                low = middle
            else:
                high = middle
        return low

    def corners(self, most: int) -> list[int]:
        """List the sizes from 1 to `most` where the curve bends, rounded both ways, ascending.

        Rows per second rise or fall steadily between two of them, so a best size is among them.
        """
        near = {1, most}
        for rows in self._rows:
            near.update(size for size in (int(rows), math.ceil(rows)) if 1 <= size <= most)
        return sorted(near)

    def _slope_beyond(self) -> float:
        xs, ys = self._rows, self._seconds
        if len(xs) == 1:
            return ys[0] / xs[0] / 10
        return max(0.0, (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))
