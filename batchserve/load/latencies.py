"""A histogram of times that is right to half a percent from a microsecond to a quarter of an hour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from batchserve.core.tensors import Array

__all__ = ["RELATIVE_ERROR", "SHARES", "Latencies"]

LEAST_S = 1e-6
MOST_S = 1000.0

_GROWTH = 1.01
_LOG_GROWTH = math.log(_GROWTH)
_BUCKETS = math.ceil(math.log(MOST_S / LEAST_S) / _LOG_GROWTH) + 1

RELATIVE_ERROR = math.sqrt(_GROWTH) - 1
"""How far a percentile may be off: a bucket's middle against its edges."""

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
"""The percentiles that summaries hold, by name."""


class Latencies:
    """Counts of times in buckets that each are 1 % wider than the one before.

    Times below a microsecond count as one, times above 1000 s as that; the sum and the extremes are exact.

    Invariant: `count` is the sum of the buckets.
    """

    __slots__ = ("_buckets", "count", "least_s", "most_s", "sum_s")

    def __init__(self) -> None:
        self._buckets = np.zeros(_BUCKETS, dtype=np.int64)
        self.count = 0
        self.sum_s = 0.0
        self.least_s = math.inf
        self.most_s = 0.0

    def observe(self, seconds: Array | Sequence[float]) -> None:
        """Add times.

        Args:
            seconds: `float64[N]`, N may be 0; not nan. Negative ones count as 0.
        """
        values = np.maximum(np.asarray(seconds, dtype=np.float64), 0.0)
        if not values.size:
            return
        self._buckets += np.bincount(_index(values), minlength=_BUCKETS)
        self.count += values.size
        self.sum_s += float(values.sum())
        self.least_s = min(self.least_s, float(values.min()))
        self.most_s = max(self.most_s, float(values.max()))

    def merge(self, other: Latencies) -> None:
        """Add all times of another histogram; the same as if they had been observed here."""
        self._buckets += other._buckets
        self.count += other.count
        self.sum_s += other.sum_s
        self.least_s = min(self.least_s, other.least_s)
        self.most_s = max(self.most_s, other.most_s)

    @property
    def mean_s(self) -> float:
        """The mean, nan without any time."""
        return self.sum_s / self.count if self.count else math.nan

    def at(self, share: float) -> float:
        """Return the least time that so large a share did not exceed, right to `RELATIVE_ERROR`.

        Args:
            share: From 0 to 1.

        Returns:
            Seconds; nan without any time.
        """
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(share * self.count - 1e-9))
        index = int(np.searchsorted(np.cumsum(self._buckets), rank))
        # The extremes are known exactly, and no percentile lies outside them.
        return min(max(_middle(index), self.least_s), self.most_s)

    def within(self, seconds: float) -> int:
        """Count the times up to a limit; those in the limit's own bucket count as within."""
        if seconds <= 0:
            return 0
        return int(self._buckets[: int(_index(np.array([seconds]))[0]) + 1].sum())

    def summary(self) -> dict[str, float]:
        """Return the mean, the extremes and the percentiles of `SHARES` by name, in seconds; empty without any."""
        if not self.count:
            return {}
        points = {name: self.at(share) for name, share in SHARES.items()}
        return {"mean": self.mean_s, "min": self.least_s, **points, "max": self.most_s}

    def buckets(self) -> list[tuple[float, int]]:
        """Return the middle of each bucket that holds something, in seconds, and how much."""
        return [(_middle(int(index)), int(self._buckets[index])) for index in np.flatnonzero(self._buckets)]


def _index(values: Array) -> Array:
    """Return the bucket of each value, `int64[N]`."""
    clipped = np.clip(values, LEAST_S, MOST_S)
    return np.minimum((np.log(clipped / LEAST_S) / _LOG_GROWTH).astype(np.int64), _BUCKETS - 1)


def _middle(index: int) -> float:
    return float(LEAST_S * _GROWTH ** (index + 0.5))
