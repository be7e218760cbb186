"""Useful, sustaining and needed batch sizes (batching.md sections 5.4 and 5.5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchserve.core.cost import CostModel
from batchserve.core.sizing import Sizing

LINE = [(rows, 0.004 + 0.00025 * rows) for rows in (1, 2, 4, 8, 16, 32)]


def sized(
    points: list[tuple[int, float]],
    max_rows: int = 32,
    *,
    rate: float = 0.0,
    slots: float = 1.0,
    horizon_s: float = 1.0,
) -> Sizing:
    sizing = Sizing(CostModel(points, horizon_s), max_rows)
    sizing.refresh(rate, slots, horizon_s, 0.0)
    return sizing


def test_largest_batch_is_used_while_it_is_nearly_as_good_as_the_best() -> None:
    assert sized(LINE).useful == 32


def test_size_beyond_which_the_model_gets_slower_is_not_used() -> None:
    bend = [(rows, 0.004 + 0.00025 * rows + max(0, rows - 24) * 0.001) for rows in (1, 4, 8, 16, 24, 32, 48, 64)]
    assert sized(bend, 64).useful == 24


def test_larger_size_is_tried_now_and_then() -> None:
    cost = CostModel([(8, 0.008), (16, 0.040)], 1.0)
    sizing = Sizing(cost, 16)
    used = []
    for step in range(110):
        cost.observe(8, 0.008)  # something is learnt all the time
        sizing.refresh(0.0, 1.0, 1.0, step * 0.1)
        used.append(sizing.useful)
    assert used.count(8) >= 105
    assert used.count(11) == 2


@given(
    points=st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 0.5)), min_size=1, max_size=6),
    rate=st.floats(0, 1e5),
    slots=st.floats(0.2, 4),
    horizon_s=st.floats(0.001, 10),
    max_rows=st.integers(1, 64),
)
def test_sizes_are_ordered_and_sustaining_is_the_smallest(
    points: list[tuple[int, float]], rate: float, slots: float, horizon_s: float, max_rows: int
) -> None:
    sizing = sized(points, max_rows, rate=rate, slots=slots, horizon_s=horizon_s)
    cost = CostModel(points, horizon_s)
    assert 1 <= sizing.need <= sizing.planned <= sizing.sustain <= sizing.useful <= max_rows
    rows_per_s = {rows: rows / cost.mean(rows) for rows in range(1, sizing.useful + 1)}
    wanted = min(rate / slots, 0.99 * max(rows_per_s.values()))
    assert rows_per_s[sizing.sustain] >= wanted * (1 - 1e-9)
    assert all(rows_per_s[rows] < wanted * (1 + 1e-9) for rows in range(1, sizing.sustain))


def test_batch_that_would_not_fill_in_time_is_not_needed() -> None:
    slow = sized(LINE, rate=200.0, horizon_s=0.02)
    assert slow.sustain == 1
    fast = sized(LINE, rate=2000.0, horizon_s=0.016)
    assert fast.sustain == 16
    assert fast.need == 14  # what comes at 2 a ms in the time that is left beside the run: 16 - 1.2 * (4 + 0.25 * 14)


def test_batch_that_takes_more_than_half_of_the_target_is_not_planned_with() -> None:
    tight = sized(LINE, rate=2000.0, horizon_s=0.012)
    assert (tight.sustain, tight.planned, tight.need) == (16, 8, 8)  # 4 + 0.25 * 8 = 12 / 2


def test_overload_begins_and_ends_with_a_margin() -> None:
    sizing = Sizing(CostModel(LINE, 1.0), 32)
    capacity = 32 / 0.012
    for at, (share, expected) in enumerate([(1.0, False), (1.06, True), (1.0, True), (0.96, False)]):
        sizing.refresh(share * capacity, 1.0, 1.0, float(at))
        assert sizing.is_overloaded is expected
    assert sizing.overloaded_since_s == 1.0


def test_half_of_a_size_without_memory_is_used_and_restored_after_a_minute() -> None:
    sizing = sized(LINE)
    sizing.halve(32, 0.0)
    assert sizing.useful == 16
    sizing.halve(16, 1.0)
    assert sizing.useful == 8
    sizing.refresh(0.0, 1.0, 1.0, 60.0)
    assert sizing.useful == 8
    for now, rows in ((61.0, 16), (121.0, 32), (181.0, 32)):
        sizing.refresh(0.0, 1.0, 1.0, now)
        assert sizing.useful == rows
