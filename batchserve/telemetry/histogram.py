"""Histograms that are fed from arrays, and the largest value of late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.tensors import Array

__all__ = ["DURATION_BOUNDS", "RATIO_BOUNDS", "ROW_BOUNDS", "SHARE_BOUNDS", "Histogram", "RecentMax", "cumulative"]

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
    names = (*(str(float(bound)) for bound in bounds), "+Inf")
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
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0

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

    def buckets(self) -> list[tuple[str, float]]:
        """Return its buckets as `cumulative` does."""
        return cumulative(self._bounds.tolist(), self._counts)


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
