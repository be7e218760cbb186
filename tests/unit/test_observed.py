"""What batches took is averaged by size, over many but not for ever; what the latest took is kept one by one."""

from __future__ import annotations

import pytest

from batchserve.engine.observed import MOST, MOST_RATIOS, Observation, Observed


def test_sizes_are_averaged_apart() -> None:
    observed = Observed()
    for size, run_s, way_s in ((2, 0.004, 0.0003), (32, 0.020, 0.0012), (2, 0.006, 0.0005)):
        observed.observe(size, run_s, way_s)
    small, large = observed.observations
    assert small == pytest.approx((2.0, 0.005, 0.0004, 2))
    assert large == (32.0, 0.020, 0.0012, 1)


def test_mean_is_of_all_batches_at_first_and_follows_a_machine_that_slows_down() -> None:
    observed = Observed()
    for run_s in (0.010, 0.020, 0.030):
        observed.observe(8, run_s, 0.0)
    assert observed.observations[0].run_s == pytest.approx(0.020)
    for _ in range(5 * MOST):
        observed.observe(8, 0.040, 0.0)
    assert observed.observations[0].run_s == pytest.approx(0.040, rel=0.01)
    assert observed.observations[0].batches == MOST


def test_what_the_latest_batches_took_is_kept_in_its_order_with_the_way_there_and_back() -> None:
    observed = Observed()
    for run_s, way_s in ((0.010, 0.001), (0.010, 0.001), (0.030, 0.001), (0.010, 0.001)):
        observed.observe(8, run_s, way_s)
    assert list(observed.ratios) == [3.0, 0.6]  # the first batch is no mean to be compared with
    stalled = Observed([Observation(8.0, 0.010, 0.001, MOST)])
    stalled.observe(8, 0.010, 0.021)
    assert list(stalled.ratios) == [3.0]
    for _ in range(MOST_RATIOS):
        stalled.observe(8, 0.010, 0.001)
    assert len(stalled.ratios) == MOST_RATIOS
    assert max(stalled.ratios) < 1.01


def test_it_goes_on_with_what_was_kept() -> None:
    observed = Observed([Observation(9.0, 0.010, 0.001, 4)], [0.5])
    observed.observe(9, 0.020, 0.001)
    assert observed.observations == (pytest.approx((9.0, 0.012, 0.001, 5)),)
    assert list(observed.ratios) == [0.5, 2.0]
