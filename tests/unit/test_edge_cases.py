"""Runs that do not come back, and sizes there is no memory for (batching.md section 10)."""

from __future__ import annotations

from support.core_requests import make_request
from support.policies import LINE, make_policy, occupy

from batchserve.core.ticket import Outcome
from batchserve.errors import ExecutionFailed


def test_run_that_does_not_come_back_fails_its_requests_and_keeps_its_slot() -> None:
    policy = make_policy(LINE, run_timeout_s=5.0)
    batch = occupy(policy, rows=2)
    assert policy.slots.stuck_at_s == 5.0
    assert policy.decide(4.9).stuck == []
    decision = policy.decide(5.0)
    assert decision.stuck == [batch]
    (ticket,) = decision.ended
    assert ticket.outcome is Outcome.FAILED
    assert isinstance(ticket.error, ExecutionFailed)
    assert policy.slots.is_stuck
    policy.arrive(make_request(arrival_s=5.0), 5.0)
    assert policy.decide(5.0).batches == []
    assert policy.finish(batch, 6.0, ok=True) == []
    assert not policy.slots.is_stuck
    assert len(policy.decide(6.0).batches) == 1


def test_run_is_given_ten_times_what_it_should_take() -> None:
    policy = make_policy(((1, 2.0),), run_timeout_s=5.0)
    occupy(policy)
    assert policy.slots.stuck_at_s == 10 * 1.2 * 2.0


def test_other_slots_go_on_while_one_is_stuck() -> None:
    policy = make_policy(LINE, run_timeout_s=5.0, slots=2)
    occupy(policy)
    policy.decide(5.0)
    policy.arrive(make_request(arrival_s=5.0), 5.0)
    assert len(policy.decide(5.0).batches) == 1


def test_stuck_run_is_not_the_one_that_ends_first() -> None:
    policy = make_policy(LINE, run_timeout_s=5.0, slots=2)
    occupy(policy)
    policy.decide(5.0)
    assert policy.slots.first_run_s(5.0) == 0.0  # the other slot is idle
    later = occupy(policy, 5.0, rows=32)
    assert policy.slots.first_run_s(5.0) == later.predicted_s
    policy.decide(11.0)
    assert policy.slots.first_run_s(11.0) == 0.0  # nothing that runs is expected back


def test_drain_does_not_wait_for_a_stuck_run() -> None:
    policy = make_policy(LINE, run_timeout_s=5.0)
    occupy(policy)
    policy.drain(10.0)
    assert not policy.is_empty
    policy.decide(5.0)
    assert policy.is_empty


def test_size_without_memory_is_halved_and_its_requests_run_again() -> None:
    policy = make_policy(LINE, isolate_failures=False)
    tickets = [policy.arrive(make_request(), 0.0) for _ in range(32)]
    (batch,) = policy.decide(0.0).batches
    assert policy.finish(batch, 0.01, ok=False, out_of_memory=True) == []
    assert policy.sizing.useful == 16
    now = 0.01
    for _ in range(2):
        (again,) = policy.decide(now).batches
        assert again.rows == 16
        now += 0.01
        policy.finish(again, now, ok=True)
    assert all(ticket.outcome is Outcome.COMPLETED for ticket in tickets)
    for _ in range(40):
        policy.arrive(make_request(arrival_s=now), now)
    assert policy.decide(now).batches[0].rows == 16


def test_half_without_memory_fails_if_failures_are_not_isolated() -> None:
    policy = make_policy(LINE, isolate_failures=False)
    for _ in range(4):
        policy.arrive(make_request(), 0.0)
    (batch,) = policy.decide(0.0).batches
    policy.finish(batch, 0.01, ok=False, out_of_memory=True)
    (half,) = policy.decide(0.01).batches
    ended = policy.finish(half, 0.02, ok=False, out_of_memory=True)
    assert [ticket.outcome for ticket in ended] == [Outcome.FAILED] * 2


def test_nothing_is_learnt_from_a_failed_run_nor_from_the_first() -> None:
    policy = make_policy(LINE)
    before = policy.cost.points
    policy.finish(occupy(policy), 0.5, ok=False, took_s=0.5)
    policy.finish(occupy(policy, 1.0), 1.5, ok=True, took_s=0.5)
    assert policy.cost.points == before
    policy.finish(occupy(policy, 2.0), 2.5, ok=True, took_s=0.5)
    assert policy.cost.points != before
