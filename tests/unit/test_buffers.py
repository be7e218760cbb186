"""The pool of body buffers."""

from __future__ import annotations

from batchserve.frontend.buffers import SMALLEST_BYTES, BufferPool


def test_buffer_is_used_again() -> None:
    pool = BufferPool(1 << 30)
    first = pool.lend(100_000)
    assert len(first) == 131_072
    pool.take_back(first)
    assert pool.lend(70_000) is first
    assert (pool.statistics.hits, pool.statistics.misses) == (1, 1)


def test_what_is_lent_and_what_waits_is_counted() -> None:
    pool = BufferPool(1 << 30)
    buffers = [pool.lend(SMALLEST_BYTES) for _ in range(3)]
    assert (pool.statistics.used_bytes, pool.statistics.idle_bytes) == (3 * SMALLEST_BYTES, 0)
    for buffer in buffers:
        pool.take_back(buffer)
    assert (pool.statistics.used_bytes, pool.statistics.idle_bytes) == (0, 3 * SMALLEST_BYTES)
    assert pool.statistics.high_bytes == 3 * SMALLEST_BYTES


def test_waiting_buffers_are_bounded() -> None:
    pool = BufferPool(2 * SMALLEST_BYTES)
    for buffer in [pool.lend(1) for _ in range(5)]:
        pool.take_back(buffer)
    assert pool.statistics.idle_bytes == 2 * SMALLEST_BYTES


def test_smallest_and_exact_sizes() -> None:
    pool = BufferPool(0)
    assert len(pool.lend(1)) == SMALLEST_BYTES
    assert len(pool.lend(SMALLEST_BYTES)) == SMALLEST_BYTES
    assert len(pool.lend(SMALLEST_BYTES + 1)) == 2 * SMALLEST_BYTES
