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


def test_a_marked_bound_is_an_exact_bucket_and_no_count_goes_back() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    histogram.observe(np.array([0.5, 1.2, 1.8, 3.0, 9.0]))
    before = dict(histogram.buckets())
    histogram.mark(1.5)
    after = dict(histogram.buckets())
    assert {name: after[name] for name in before} == before
    assert after["1.5"] == 1  # of the two between 1 and 2 it is not known which side they lie on
    histogram.observe(np.array([1.2, 1.5, 1.6]))
    assert dict(histogram.buckets()) == {"1.0": 1, "1.5": 3, "2.0": 6, "4.0": 7, "+Inf": 8}


def test_another_mark_takes_the_place_of_the_first() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.mark(1.5)
    histogram.observe(np.array([1.4, 1.6]))
    histogram.mark(0.5)
    assert dict(histogram.buckets()) == {"0.5": 0, "1.0": 0, "2.0": 2, "+Inf": 2}
    histogram.mark(None)
    assert dict(histogram.buckets()) == {"1.0": 0, "2.0": 2, "+Inf": 2}
    histogram.mark(7.0)
    assert dict(histogram.buckets()) == {"1.0": 0, "2.0": 2, "7.0": 2, "+Inf": 2}


def test_a_mark_on_a_usual_bound_changes_nothing() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(np.array([1.4]))
    histogram.exemplify(1.4, "ab" * 16, 17.0)
    before = histogram.buckets()
    histogram.mark(2.0)
    assert histogram.buckets() == before


def test_the_last_trace_of_a_bucket_is_its_exemplar() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(np.array([0.3, 1.0, 5.0]))
    for value, trace in ((0.3, "a" * 32), (1.0, "b" * 32), (5.0, "c" * 32)):
        histogram.exemplify(value, trace, 1700000000.5)
    first, second, last = histogram.buckets()
    assert first[2].labels == {"trace_id": "b" * 32}  # type: ignore[misc]
    assert (first[2].value, first[2].timestamp) == (1.0, 1700000000.5)  # type: ignore[misc]
    assert len(second) == 2
    assert last[2].labels == {"trace_id": "c" * 32}  # type: ignore[misc]
