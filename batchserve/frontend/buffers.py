"""Buffers for request bodies: taken from the system once, used again and again, bounded and counted."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

__all__ = ["BufferPool", "PoolStatistics"]

SMALLEST_BYTES = 64 << 10
"""Smaller bodies come along with their head in one read and need no buffer of the pool."""


@dataclass(slots=True)
class PoolStatistics:
    """Counters of a pool.

    Attributes:
        used_bytes: Bytes of the buffers that are lent now.
        idle_bytes: Bytes of the buffers that wait to be lent again.
        high_bytes: The most that was ever lent at once.
        hits: Times a waiting buffer was lent.
        misses: Times the system was asked for one.
    """

    used_bytes: int = 0
    idle_bytes: int = 0
    high_bytes: int = 0
    hits: int = 0
    misses: int = 0


class BufferPool:
    """Lends buffers by size class (powers of two). Event loop only.

    Buffers are anonymous pages: they start on a page, so that tensors at the front are aligned, and go back to the
    system when dropped.

    Invariant: `idle_bytes` never exceeds `max_idle_bytes`. What is lent is bounded by whoever asks
    (`server.max_inflight_bytes`).

    Args:
        max_idle_bytes: Bytes kept for the next request; more is given back to the system.
    """

    def __init__(self, max_idle_bytes: int) -> None:
        self.statistics = PoolStatistics()
        self._max_idle_bytes = max_idle_bytes
        self._idle: dict[int, list[mmap.mmap]] = {}

    def lend(self, size_bytes: int) -> mmap.mmap:
        """Return a buffer of at least `size_bytes`. Its contents are arbitrary."""
        capacity = max(SMALLEST_BYTES, 1 << (size_bytes - 1).bit_length())
        statistics = self.statistics
        waiting = self._idle.get(capacity)
        if waiting:
            buffer = waiting.pop()
            statistics.idle_bytes -= capacity
            statistics.hits += 1
        else:
            buffer = mmap.mmap(-1, capacity)
            statistics.misses += 1
        statistics.used_bytes += capacity
        statistics.high_bytes = max(statistics.high_bytes, statistics.used_bytes)
        return buffer

    def take_back(self, buffer: mmap.mmap) -> None:
        """Take a lent buffer back. Nobody may read or write it any more."""
        capacity = len(buffer)
        statistics = self.statistics
        statistics.used_bytes -= capacity
        if statistics.idle_bytes + capacity <= self._max_idle_bytes:
            self._idle.setdefault(capacity, []).append(buffer)
            statistics.idle_bytes += capacity
