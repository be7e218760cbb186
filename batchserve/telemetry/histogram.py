"""Histograms that are fed from arrays, and the largest value of late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.samples import Exemplar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.tensors import Array

__all__ = [
    "DURATION_BOUNDS",
    "RATIO_BOUNDS",
    "ROW_BOUNDS",
    "SHARE_BOUNDS",
    "Bucket",
    "Histogram",
    "RecentMax",
    "bound_name",
    "cumulative",
]

Bucket = tuple[str, float] | tuple[str, float, Exemplar]
"""Upper end as Prometheus writes it, how many values are at or below it, and perhaps one of them that has a trace."""

DURATION_BOUNDS = tuple(0.25e-3 * 2**step for step in range(19))
"""Seconds: 0.25 ms doubled up to 65.5 s, just above the default `timeout`. A quantile read from it is right to a
factor of two at worst; finer steps would cost every model more time series than they are worth."""

ROW_BOUNDS = tuple(float(2**step) for step in range(11))
"""Rows: 1, 2, 4 … 1024."""


RATIO_BOUNDS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Of something measured to what was expected."""

SHARE_BOUNDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
"""Parts of a whole."""


def cumulative(bounds: Sequence[float], counts: Sequence[int] | Array) -> list[tuple[str, float]]:
    """Return the upper end of each bucket as Prometheus writes it, and how many values are at or below it.

    Args:
        bounds: Upper ends, ascending.
        counts: Values in each bucket, and in one more beyond the last.
    """
    names = (*map(bound_name, bounds), "+Inf")
    return list(zip(names, np.cumsum(counts).tolist(), strict=True))


class Histogram:
    """Counts of values by bucket, and their sum. Event loop only.

    `prometheus_client.Histogram.observe` takes a lock for every value (0.8 to 0.9 µs each); this one takes an array
    at a time and is turned into the library's form only when somebody scrapes.

    Invariant: the counts and the sum only grow.

    Args:
        bounds: Upper ends of the buckets, ascending, inclusive; one more bucket holds what is above the last.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._usual = tuple(bounds)
        self._sum = 0.0
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._lay_out(self._usual)

    def _lay_out(self, bounds: Sequence[float]) -> None:
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._exemplars: dict[int, Exemplar] = {}

    @property
    def sum(self) -> float:
        """All values together."""
        return self._sum

    def observe(self, values: Array) -> None:
        """Add values.

        Args:
            values: `float64[N]`, N may be 0. Negative ones count as 0, so that the sum cannot go back.
        """
        if values.size:
            values = np.maximum(values, 0.0)
            self._sum += float(values.sum())
            self._counts += np.bincount(self._bounds.searchsorted(values), minlength=len(self._counts))

    def mark(self, bound: float | None) -> None:
        """Give one more bound a bucket of its own, in place of the one marked before; None for no such bound.

        How many of the values so far lie at or below a new bound is not known, so those of the bucket that it cuts in
        two count as above it. No count of a bound that stays goes back.
        """
        bounds = self._usual if bound is None else tuple(sorted({*self._usual, bound}))
        if len(bounds) == len(self._bounds) and np.array_equal(bounds, self._bounds):
            return
        counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        np.add.at(counts, np.searchsorted(bounds, np.append(self._bounds, np.inf)), self._counts)
        self._counts = counts
        self._lay_out(bounds)

    def exemplify(self, value: float, trace_id: str, wall_s: float) -> None:
        """Keep a value that was observed, by its trace, in place of the bucket's last one.

        Args:
            value: At least 0.
            trace_id: W3C trace id, 32 hexadecimal digits.
            wall_s: When it was observed, seconds since the epoch.
        """
        self._exemplars[int(self._bounds.searchsorted(value))] = Exemplar({"trace_id": trace_id}, value, wall_s)

    def buckets(self) -> list[Bucket]:
        """Return the buckets, ascending and cumulative."""
        buckets: list[Bucket] = [*cumulative(self._bounds.tolist(), self._counts)]
        for place, exemplar in self._exemplars.items():
            buckets[place] = (*buckets[place][:2], exemplar)
        return buckets


def bound_name(bound: float) -> str:
    """Write a bound as the label `le` of its bucket."""
    return str(float(bound))


class RecentMax:
    """The largest value of the last one to two windows.

    It does not depend on who reads it, as a maximum "since the last scrape" would: two scrapers would each see half.

    Args:
        window_s: Length of a window, monotonic seconds.
    """

    def __init__(self, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._window = 0  # number of the present one, since the clock's zero
        self._current = self._previous = 0.0

    def observe(self, value: float, now: float) -> None:
        """Note a value that is at least 0."""
        self._turn(now)
        self._current = max(self._current, value)

    def read(self, now: float) -> float:
        """Return the largest value noted in this window and the one before, 0 if there was none."""
        self._turn(now)
        return max(self._current, self._previous)

    def _turn(self, now: float) -> None:
        window = int(now // self._window_s)
        if window != self._window:
            self._previous = self._current if window == self._window + 1 else 0.0
            self._current = 0.0
            self._window = window
