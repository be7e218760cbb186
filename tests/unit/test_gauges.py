"""What the scheduler says of itself, and when it says that a latency target cannot be held."""

from __future__ import annotations

import pytest
from support.core_requests import make_request

from batchserve.core.cost import CostModel, size_class, size_start, size_starts
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy
from batchserve.engine.gauges import ATTAINABLE_AFTER_S, TargetWatch, gauges_of


def policy(target_s: float | None = 0.1, points: tuple[tuple[int, float], ...] = ((1, 0.01), (8, 0.03))) -> Policy:
    limits = Limits(max_batch_size=8, timeout_s=10.0, max_queue_size=64, latency_target_s=target_s)
    return Policy("m", limits, CostModel(points, limits.horizon_s))


def test_gauges_are_the_schedulers_own_numbers() -> None:
    rules = policy()
    for step in range(20):
        rules.arrive(make_request(1, arrival_s=100 + step * 0.01), 100 + step * 0.01)
    rules.decide(100.2)
    gauges = gauges_of(rules, TargetWatch(), 100.2)
    assert (gauges.useful_rows, gauges.target_s, gauges.share) == (8, 0.1, 1.0)
    assert (gauges.row_s, gauges.batch_s, gauges.upper_factor) == (rules.cost.mean(1), rules.cost.mean(8), rules.cost.q)
    assert (gauges.sustaining_rows, gauges.needed_rows) == (rules.sizing.sustain, rules.sizing.need)
    assert 60 < gauges.rows_per_second < 140
    assert gauges.is_attainable
    assert not gauges.is_overloaded


def test_idle_time_counts_only_while_something_waits_and_a_slot_is_idle() -> None:
    rules, watch = policy(), TargetWatch()
    rules.decide(100.0)
    assert gauges_of(rules, watch, 105.0).idle_s == 0
    rules.arrive(make_request(1, arrival_s=105.0), 105.0)
    assert gauges_of(rules, watch, 105.5).idle_s == 5.5  # nobody has asked for a decision: what must not be
    assert rules.decide(106.0).batches
    rules.arrive(make_request(1, arrival_s=106.0), 106.0)
    assert gauges_of(rules, watch, 107.0).idle_s == 0  # its slot is taken


@pytest.mark.parametrize("target_s", [None, 0.02, 1.0])
def test_target_that_can_be_held_is_not_told_of(target_s: float | None) -> None:
    rules, watch = policy(target_s), TargetWatch()
    assert not any(watch.look(rules, now) for now in (0.0, 5.0, 50.0))
    assert watch.is_attainable


def test_target_shorter_than_one_row_is_told_of_at_once_and_only_once() -> None:
    rules, watch = policy(0.009), TargetWatch()
    assert watch.look(rules, 0.0)
    assert not watch.is_attainable
    assert not watch.look(rules, 1.0)
    assert gauges_of(rules, watch, 1.0).smallest_target_s == pytest.approx(0.02)


def test_target_that_the_loads_batches_cannot_hold_is_told_of_after_ten_seconds() -> None:
    """A row takes 10 ms, so 15 ms are enough for one that comes to an idle slot, not for one that just missed it."""
    rules, watch = policy(0.015), TargetWatch()
    assert not watch.look(rules, 0.0)
    assert not watch.look(rules, ATTAINABLE_AFTER_S - 0.1)
    assert watch.look(rules, ATTAINABLE_AFTER_S)
    assert not watch.is_attainable
    rules.cost.observe(1, 0.001)
    for _ in range(30):
        rules.cost.observe(1, 0.001)
    assert watch.look(rules, ATTAINABLE_AFTER_S + 1)
    assert watch.is_attainable


def test_without_a_run_seen_nothing_is_said_of_the_target() -> None:
    watch = TargetWatch()
    assert not watch.look(policy(0.001, ()), 0.0)
    assert watch.is_attainable


def test_class_of_a_size_begins_where_the_class_before_it_ends() -> None:
    assert size_starts(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert size_starts(63)[-1] == 48
    for rows in range(1, 2000):
        start = size_start(rows)
        assert start <= rows
        assert size_class(start) == size_class(rows)
        assert start == 1 or size_class(start - 1) < size_class(rows)
