"""The histogram of latencies: right to its stated error, and merged ones are as one."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchserve.load.latencies import LEAST_S, MOST_S, RELATIVE_ERROR, SHARES, Latencies

TIMES = st.floats(min_value=LEAST_S, max_value=MOST_S)
MANY = st.lists(TIMES, min_size=1, max_size=300)

# On top: the rounding of logarithms.
ALLOWED = RELATIVE_ERROR + 1e-6


def observed(*parts: list[float]) -> Latencies:
    latencies = Latencies()
    for part in parts:
        latencies.observe(part)
    return latencies


def exact(values: list[float], share: float) -> float:
    return sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]


@given(MANY, st.floats(min_value=0, max_value=1))
def test_any_percentile_is_within_one_percent_of_the_exact_one(values: list[float], share: float) -> None:
    assert ALLOWED < 0.01
    assert math.isclose(observed(values).at(share), exact(values, share), rel_tol=ALLOWED)


@given(MANY, MANY)
def test_merged_histograms_are_as_one_that_saw_everything(first: list[float], second: list[float]) -> None:
    merged, whole = observed(first), observed(first, second)
    merged.merge(observed(second))
    assert merged.buckets() == whole.buckets()
    assert (merged.count, merged.least_s, merged.most_s) == (whole.count, whole.least_s, whole.most_s)
    assert math.isclose(merged.sum_s, whole.sum_s)
    assert merged.summary().keys() == {"mean", "min", *SHARES, "max"}


@given(MANY)
def test_percentiles_ascend_and_stay_between_the_extremes(values: list[float]) -> None:
    latencies = observed(values)
    points = [latencies.at(share) for share in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)]
    assert points == sorted(points)
    assert min(values) <= points[0]
    assert points[-1] <= max(values)
    assert sum(count for _, count in latencies.buckets()) == latencies.count == len(values)


@given(MANY, TIMES)
def test_number_within_a_limit_is_right_but_for_the_limits_own_bucket(values: list[float], limit: float) -> None:
    within = observed(values).within(limit)
    assert sum(value <= limit for value in values) <= within <= sum(value <= limit * 1.02 for value in values)


def test_times_beyond_the_range_count_at_its_ends() -> None:
    latencies = observed([-1.0, 0.0, 1e9])
    assert latencies.count == 3
    assert latencies.at(0.5) <= LEAST_S * 1.01
    assert latencies.at(1.0) >= MOST_S * 0.99
    assert latencies.most_s == 1e9


def test_nothing_observed_has_no_percentile() -> None:
    latencies = observed([])
    assert math.isnan(latencies.at(0.5))
    assert latencies.summary() == {}
    assert latencies.buckets() == []


def test_an_array_and_a_list_are_the_same() -> None:
    values = [0.001, 0.002, 0.5]
    assert observed(values).buckets() == observed(list(np.array(values))).buckets()
