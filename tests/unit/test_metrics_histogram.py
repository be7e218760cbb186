"""The histogram that is fed from arrays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from prometheus_client.utils import floatToGoString

from batchserve.telemetry.histogram import DURATION_BOUNDS, ROW_BOUNDS, Histogram, RecentMax


def test_a_bucket_holds_its_upper_end_and_what_is_below() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    histogram.observe(np.array([0.0, 1.0, 1.5, 2.0, 4.0, 4.5]))
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("4.0", 5), ("+Inf", 6)]
    assert histogram.sum == 13.0


def test_observing_nothing_changes_nothing() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(np.array([]))
    assert histogram.buckets() == [("1.0", 0), ("+Inf", 0)]
    assert histogram.sum == 0.0


def test_a_negative_duration_counts_as_zero_so_that_the_sum_never_falls() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(np.array([-5.0, 0.5]))
    assert histogram.sum == 0.5
    assert histogram.buckets() == [("1.0", 2), ("+Inf", 2)]


def test_duration_buckets_double_from_a_quarter_millisecond_beyond_the_default_timeout() -> None:
    assert DURATION_BOUNDS[0] == 0.00025
    assert all(high == 2 * low for low, high in pairwise(DURATION_BOUNDS))
    assert DURATION_BOUNDS[-1] > 60


def test_row_buckets_are_the_powers_of_two_up_to_1024() -> None:
    assert ROW_BOUNDS == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@pytest.mark.parametrize("bounds", [DURATION_BOUNDS, ROW_BOUNDS])
def test_bucket_names_are_those_that_prometheus_libraries_write(bounds: tuple[float, ...]) -> None:
    names = [name for name, _ in Histogram(bounds).buckets()]
    assert names == [*(floatToGoString(bound) for bound in bounds), "+Inf"]


def test_recent_maximum_lasts_for_at_least_one_window_and_less_than_two() -> None:
    largest = RecentMax(window_s=60.0)
    largest.observe(0.5, 659.9)
    largest.observe(0.1, 660.0)
    assert largest.read(660.0) == 0.5
    assert largest.read(719.9) == 0.5
    assert largest.read(720.0) == 0.1
    assert largest.read(780.0) == 0.0


def test_recent_maximum_is_the_same_for_every_reader() -> None:
    largest = RecentMax()
    largest.observe(0.5, 1000.0)
    assert [largest.read(1001.0), largest.read(1001.0)] == [0.5, 0.5]


def test_recent_maximum_forgets_everything_over_a_long_silence() -> None:
    largest = RecentMax(window_s=60.0)
    largest.observe(0.5, 1000.0)
    largest.observe(0.2, 5000.0)
    assert largest.read(5000.0) == 0.2
