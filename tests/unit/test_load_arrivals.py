"""Schedules of arrivals: as many as asked, at the moments asked, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from batchserve.errors import ConfigError
from batchserve.load.arrivals import Arrivals, Bursts, Ramp, Steady, Volleys, parse_arrivals
from batchserve.load.plan import schedule

Array = npt.NDArray[np.float64]


def drawn(arrivals: Arrivals, seconds: float = 10.0, seed: int = 0) -> Array:
    return arrivals.draw(seconds, np.random.default_rng(seed))


@pytest.mark.parametrize(
    "text",
    [
        "poisson:500",
        "constant:500",
        "ramp:100-900",
        "ramp:900-0",
        "ramp:300-300",
        "bursts:2000,on=300ms,off=700ms",
        "bursts:2000,on=300ms,off=700ms,low=50",
        "volleys:16,every=100ms,within=2ms",
    ],
)
def test_schedule_is_ascending_inside_its_time_and_as_long_as_expected(text: str) -> None:
    """A Poisson count deviates from its mean by more than four standard deviations once in 16,000 seeds."""
    arrivals = parse_arrivals(text)
    times = drawn(arrivals)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < 10.0
    expected = arrivals.expected(10.0)
    assert abs(len(times) - expected) <= 4 * np.sqrt(expected)


def test_constant_arrivals_are_evenly_spread() -> None:
    times = drawn(Steady(250.0, is_even=True), 2.0)
    assert len(times) == 500
    np.testing.assert_allclose(np.diff(times), 0.004, rtol=1e-9)


def test_poisson_gaps_are_exponential() -> None:
    """Mean and standard deviation of exponential gaps are equal; their share above the mean is 1/e."""
    gaps = np.diff(drawn(Steady(1000.0), 60.0))
    assert np.mean(gaps) == pytest.approx(1e-3, rel=0.02)
    assert np.std(gaps) == pytest.approx(1e-3, rel=0.03)
    assert np.mean(gaps > 1e-3) == pytest.approx(np.exp(-1), abs=0.01)


def test_ramp_grows_evenly() -> None:
    counts = np.histogram(drawn(Ramp(0.0, 2000.0)), bins=10, range=(0, 10))[0]
    np.testing.assert_allclose(counts, np.arange(100, 2000, 200), atol=4 * np.sqrt(2000))


def test_bursts_keep_to_their_times() -> None:
    phase = drawn(Bursts(2000.0, 0.25, 0.75)) % 1.0
    assert np.all(phase < 0.25)
    phase = drawn(Bursts(2000.0, 0.25, 0.75, low=100.0)) % 1.0
    assert np.sum(phase < 0.25) == pytest.approx(5000, rel=0.06)
    assert np.sum(phase >= 0.25) == pytest.approx(750, rel=0.15)


def test_volleys_come_together() -> None:
    times = drawn(Volleys(16, 0.1, 0.002), 1.0).reshape(10, 16)
    assert np.all(times[:, -1] - times[:, 0] <= 0.002)
    np.testing.assert_allclose(times[:, 0], np.arange(10) * 0.1, atol=0.002)


def test_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert np.array_equal(drawn(Steady(100.0), seed=3), drawn(Steady(100.0), seed=3))
    assert not np.array_equal(drawn(Steady(100.0), seed=3), drawn(Steady(100.0), seed=4))


def test_independent_arrivals_are_laid_together_in_order() -> None:
    parts = [(Steady(100.0, is_even=True), [0], [1.0]), (Steady(300.0), [1, 2], [1.0, 2.0])]
    times, which = schedule(parts, 10.0, 100_000, np.random.default_rng(0))
    assert np.all(np.diff(times) >= 0)
    assert np.sum(which == 0) == 1000
    assert np.sum(which == 2) / np.sum(which == 1) == pytest.approx(2.0, rel=0.12)
    np.testing.assert_allclose(np.diff(times[which == 0]), 0.01, rtol=1e-9)


def test_schedule_over_the_limit_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(ConfigError, match=r"1,000,000 requests, and at most 999,999 may be sent; lower the rate"):
        schedule([(Steady(1000.0), [0], [1.0])], 1000.0, 999_999, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poison:500", r"'poison' is no kind of schedule; .*did you mean 'poisson'"),
        ("poisson", "the rate '' is not a number"),
        ("poisson:-1", "the rate '-1' is not a number of requests a second above 0"),
        ("poisson:nan", "the rate 'nan' is not a number"),
        ("poisson:100,on=1s", "on means nothing to poisson; leave it out"),
        ("ramp:100", "a ramp has two rates; write ramp:100-2000"),
        ("ramp:0-0", "both rates are 0"),
        ("bursts:100,on=1s", "off is missing; add off=100ms"),
        ("bursts:100,on=1s,off=2", "off '2' has no unit"),
        ("bursts:100,on=0,off=1s", "on is not longer than 0"),
        ("volleys:0,every=1s", "'0' is not a number of requests"),
        ("volleys:16", "every is missing"),
    ],
)
def test_schedule_that_is_none_is_refused_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arrivals(text)
