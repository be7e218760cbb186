"""The learnt service time: its upper value, sudden changes, inverse and overhead (batching.md section 5.1)."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchserve.core.cost import CostModel

POINTS = st.lists(st.tuples(st.integers(1, 64), st.floats(1e-5, 1.0)), min_size=1, max_size=8)


def test_upper_factor_comes_to_cover_nine_runs_of_ten() -> None:
    random_ = random.Random(1)
    cost = CostModel([(8, 0.01)], 1.0)
    above = 0
    for run in range(3000):
        took_s = 0.01 * random_.lognormvariate(0, 0.1)
        above += run >= 1000 and took_s > cost.hi(8)
        cost.observe(8, took_s)
    assert 0.05 < above / 2000 < 0.15


def test_upper_factor_stays_within_its_bounds() -> None:
    cost = CostModel([(1, 0.01)], 1.0)
    for _ in range(200):
        cost.observe(1, cost.run(1) * 1.29)
    assert cost.q <= 2
    for _ in range(2000):
        cost.observe(1, cost.run(1))
    assert cost.q == pytest.approx(1.02)


def test_everything_is_scaled_after_three_slow_runs_of_several_sizes() -> None:
    cost = CostModel([(1, 0.010), (8, 0.020), (32, 0.050)], 1.0)
    for rows in (1, 8, 1):
        cost.observe(rows, 2 * {1: 0.010, 8: 0.020}[rows])
    assert cost.mean(32) == pytest.approx(0.100, rel=0.1)  # never run since, and yet known to be slower


def test_only_the_size_that_changed_is_moved_if_the_runs_are_of_one() -> None:
    cost = CostModel([(1, 0.010), (8, 0.020), (32, 0.050)], 1.0)
    for _ in range(3):
        cost.observe(8, 0.045)
    assert cost.mean(8) == pytest.approx(0.045)
    assert cost.mean(1) == pytest.approx(0.010)


def test_faster_runs_are_followed_too() -> None:
    cost = CostModel([(1, 0.010), (8, 0.020)], 1.0)
    for rows in (1, 8, 1):
        cost.observe(rows, 0.5 * {1: 0.010, 8: 0.020}[rows])
    assert cost.mean(8) == pytest.approx(0.010, rel=0.15)


@pytest.mark.parametrize("sizes", [(1, 8, 32), (8,), (4, 16)])
def test_doubled_times_are_known_within_fifteen_percent_after_fifteen_runs(sizes: tuple[int, ...]) -> None:
    random_ = random.Random(2)
    curve = {rows: 0.004 + 0.00025 * rows for rows in sizes}
    cost = CostModel(curve.items(), 1.0)
    for run in range(15):
        rows = sizes[run % len(sizes)]
        cost.observe(rows, 2 * curve[rows] * random_.gauss(1, 0.05))
    for rows in sizes:
        assert cost.mean(rows) == pytest.approx(2 * curve[rows], rel=0.15)


def test_one_slow_run_is_no_change() -> None:
    cost = CostModel([(1, 0.01), (8, 0.02)], 1.0)
    for took_s in (0.05, 0.01, 0.05, 0.01):
        cost.observe(1, took_s)
    assert cost.mean(8) == pytest.approx(0.02, rel=0.3)


def test_overhead_is_learnt_apart_from_the_run() -> None:
    cost = CostModel([(1, 0.010)], 1.0)
    for _ in range(50):
        cost.observe(1, 0.010, overhead_s=0.002)
    assert cost.run(1) == pytest.approx(0.010)
    assert cost.mean(1) == pytest.approx(0.012)
    assert cost.recent(1) == pytest.approx(0.010)


def test_overhead_is_what_batches_spend_runs_in_place_included() -> None:
    """One slow hand-over among runs in place must not make a model that is idle look overloaded."""
    cost = CostModel([(1, 0.0001)], 1.0)
    cost.observe(1, 0.0001, overhead_s=0.020)
    for _ in range(100):
        cost.observe(1, 0.0001)
    assert cost.mean(1) < 0.0003


@given(points=POINTS, seconds=st.floats(1e-6, 2.0), most=st.integers(1, 128), q=st.floats(1.02, 2.0))
def test_largest_within_is_the_inverse_of_the_upper_value(
    points: list[tuple[int, float]], seconds: float, most: int, q: float
) -> None:
    cost = CostModel(points, 1.0)
    cost.q = q
    largest = cost.largest_within(seconds, most)
    assert 0 <= largest <= most
    assert largest == 0 or cost.hi(largest) <= seconds
    assert largest == most or cost.hi(largest + 1) > seconds


@given(points=POINTS, runs=st.lists(st.tuples(st.integers(1, 64), st.floats(1e-5, 1.0)), max_size=20))
def test_estimates_are_finite_positive_and_never_fall(
    points: list[tuple[int, float]], runs: list[tuple[int, float]]
) -> None:
    """Invariant 13 of batching.md section 12."""
    cost = CostModel(points, 1.0)
    for rows, took_s in runs:
        cost.observe(rows, took_s)
        estimates = [cost.mean(size) for size in range(1, 130)]
        assert all(0 < estimate < 1e6 for estimate in estimates)
        assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(estimates))
        assert 1.02 <= cost.q <= 2


def test_corners_hold_every_bend_and_both_ends() -> None:
    cost = CostModel([(2, 1.0), (8, 2.0), (64, 3.0)], 60.0)
    assert cost.corners(32) == [1, 2, 8, 32]
