"""What batches took is averaged by size, over many but not for ever, and so is how far they scatter."""

from __future__ import annotations

import numpy as np
import pytest

from batchserve.engine.observed import MOST, Observation, Observed


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


def test_scatter_is_that_of_the_runs_and_one_hang_is_none() -> None:
    random, observed = np.random.default_rng(0), Observed()
    for size in random.choice([1, 4, 16], 2000).tolist():
        observed.observe(size, size * (1 + 0.1 * random.standard_normal()), 0.0)
    before = observed.scatter
    assert before == pytest.approx(0.1, rel=0.25)
    observed.observe(4, 4000.0, 0.0)
    assert observed.scatter < 0.35


def test_it_goes_on_with_what_was_kept() -> None:
    observed = Observed([Observation(9.0, 0.010, 0.001, 4)], 0.2)
    observed.observe(9, 0.020, 0.001)
    assert observed.observations == (pytest.approx((9.0, 0.012, 0.001, 5)),)
    assert observed.scatter == pytest.approx((0.2**2 + (1.0 - 0.2**2) / MOST) ** 0.5)
