"""The rules of admission, cutting and failure, one by one."""

from __future__ import annotations

import math

import pytest
from support.core_requests import make_request

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.limits import Limits
from batchserve.core.policy import Decision, Policy
from batchserve.core.ticket import Outcome, Ticket
from batchserve.errors import DeadlineExceeded, Draining, ExecutionFailed, InvalidRequest, QueueFull


def make_policy(points: tuple[tuple[int, float], ...] = ((1, 0.001), (8, 0.002)), **changes: object) -> Policy:
    settings: dict[str, object] = {"max_batch_size": 8, "timeout_s": 10.0, "max_queue_size": 100, **changes}
    limits = Limits(**settings)  # type: ignore[arg-type]
    return Policy("m", limits, CostModel(points, limits.timeout_s))


def rows_of(decision: Decision) -> list[int]:
    return [batch.rows for batch in decision.batches]


def occupy(policy: Policy, now: float = 0.0) -> Batch:
    """Fill the only slot with a batch of one row."""
    policy.arrive(make_request(arrival_s=now), now)
    (batch,) = policy.decide(now).batches
    return batch


def test_lone_request_starts_at_once_on_an_idle_slot() -> None:
    policy = make_policy()
    policy.arrive(make_request(), 0.0)
    decision = policy.decide(0.0)
    assert rows_of(decision) == [1]
    assert decision.batches[0].reason == "idle"


def test_requests_of_one_turn_share_a_batch() -> None:
    policy = make_policy()
    for _ in range(3):
        policy.arrive(make_request(2), 0.0)
    decision = policy.decide(0.0)
    assert rows_of(decision) == [6]
    assert decision.batches[0].reason == "idle"


def test_batch_is_cut_when_the_slot_frees_and_takes_all_that_waits_by_then() -> None:
    policy = make_policy()
    first = occupy(policy)
    for at in (0.1, 0.2, 0.3):
        policy.arrive(make_request(arrival_s=at), at)
        assert rows_of(policy.decide(at)) == []
    policy.finish(first, 0.4, ok=True)
    assert rows_of(policy.decide(0.4)) == [3]


def test_full_batch_leaves_the_rest_waiting_and_says_full() -> None:
    policy = make_policy()
    for _ in range(10):
        policy.arrive(make_request(), 0.0)
    decision = policy.decide(0.0)
    assert rows_of(decision) == [8]
    assert decision.batches[0].reason == "full"
    assert policy.queue.rows == 2


def test_request_that_does_not_fit_is_passed_over_for_a_smaller_one() -> None:
    policy = make_policy()
    for rows in (5, 4, 3):
        policy.arrive(make_request(rows, value=rows), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert [entry.rows for entry in batch.entries] == [5, 3]
    assert batch.reason == "full"


def test_no_more_than_sixteen_requests_are_passed_over() -> None:
    policy = make_policy(max_queue_size=1000)
    policy.arrive(make_request(7), 0.0)
    for _ in range(17):
        policy.arrive(make_request(2), 0.0)
    policy.arrive(make_request(1), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert batch.rows == 7


def test_different_shapes_never_share_a_batch_and_the_cut_says_so() -> None:
    policy = make_policy()
    policy.arrive(make_request(width=4), 0.0)
    policy.arrive(make_request(width=5), 0.0)
    policy.arrive(make_request(width=4), 0.0)
    (first,) = policy.decide(0.0).batches
    assert (first.rows, first.reason) == (2, "shape")
    policy.finish(first, 0.1, ok=True)
    (second,) = policy.decide(0.1).batches
    assert (second.rows, second.reason) == (1, "idle")


def test_every_idle_slot_gets_a_batch() -> None:
    policy = make_policy(slots=2, max_batch_size=2)
    for _ in range(5):
        policy.arrive(make_request(), 0.0)
    decision = policy.decide(0.0)
    assert rows_of(decision) == [2, 2]
    assert {batch.slot for batch in decision.batches} == {0, 1}


def test_more_important_level_goes_first() -> None:
    policy = make_policy(priority_levels=3, max_batch_size=1)
    blocker = occupy(policy)
    late = policy.arrive(make_request(priority=3), 0.0)
    normal = policy.arrive(make_request(), 0.0)
    urgent = policy.arrive(make_request(priority=1), 0.0)
    served = []
    batch = blocker
    for at in (1.0, 2.0, 3.0):
        policy.finish(batch, at, ok=True)
        (batch,) = policy.decide(at).batches
        served.append(batch.entries[0].ticket)
    assert served == [urgent, normal, late]


def test_priority_above_the_levels_is_the_least_urgent() -> None:
    policy = make_policy(priority_levels=2)
    assert policy.arrive(make_request(priority=99), 0.0).level == 2
    assert policy.arrive(make_request(priority=0), 0.0).level == 1  # ceil(2 / 2)


# --- the classic timer ------------------------------------------------------------------------------------------------


def test_timer_holds_a_part_filled_batch_until_it_is_that_old() -> None:
    policy = make_policy(max_queue_delay_s=0.005)
    policy.arrive(make_request(arrival_s=1.0), 1.0)
    decision = policy.decide(1.0)
    assert decision.batches == []
    assert decision.wake_s == pytest.approx(1.005)
    (batch,) = policy.decide(1.005).batches
    assert batch.reason == "timer"


def test_timer_ends_as_soon_as_the_batch_is_full() -> None:
    policy = make_policy(max_queue_delay_s=1.0)
    for _ in range(8):
        policy.arrive(make_request(), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert batch.reason == "full"


def test_timer_counts_from_the_oldest_request_even_if_another_is_the_head() -> None:
    policy = make_policy(max_queue_delay_s=0.5)
    policy.arrive(make_request(arrival_s=0.0), 0.0)
    policy.arrive(make_request(arrival_s=0.4, timeout_s=2.0), 0.4)  # an earlier deadline: this is the head now
    assert policy.decide(0.4).wake_s == pytest.approx(0.5)


def test_timer_counts_from_the_arrival_of_a_request_that_others_overtook_while_it_was_decoded() -> None:
    """Found by Hypothesis (nightly): the head arrived a millisecond before those admitted before it."""
    policy = make_policy(max_queue_delay_s=0.01, max_batch_size=4, timeout_s=0.5, allow_timeout_override=False)
    for age_s in (0.0, 0.0, 0.001):
        policy.arrive(make_request(arrival_s=100.0 - age_s), 100.0)
    assert policy.decide(100.0).wake_s == pytest.approx(100.009)


def test_hold_ends_in_time_for_the_deadline() -> None:
    policy = make_policy(max_queue_delay_s=1.0, points=((1, 0.1), (8, 0.1)))
    policy.arrive(make_request(timeout_s=0.5), 0.0)
    assert policy.decide(0.0).wake_s == pytest.approx(0.38)  # 0.5 - 1.2 * 0.1: the upper value of the run
    (batch,) = policy.decide(0.38).batches
    assert batch.reason == "deadline"


def test_hold_of_one_shape_does_not_keep_a_full_one_waiting() -> None:
    policy = make_policy(max_queue_delay_s=1.0, max_batch_size=2)
    policy.arrive(make_request(width=4), 0.0)
    policy.arrive(make_request(2, width=5), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert (batch.rows, batch.reason) == (2, "full")
    assert policy.queue.rows == 1


def test_nothing_is_held_before_costs_are_known() -> None:
    policy = make_policy(max_queue_delay_s=1.0, points=())
    for run in range(5):
        policy.arrive(make_request(arrival_s=float(run)), float(run))
        (batch,) = policy.decide(float(run)).batches
        policy.finish(batch, float(run), ok=True)
    policy.arrive(make_request(arrival_s=9.0), 9.0)
    assert policy.decide(9.0).batches == []


@pytest.mark.parametrize("delay_s", [None, 0.0])
def test_auto_and_zero_hold_nothing(delay_s: float | None) -> None:
    policy = make_policy(max_queue_delay_s=delay_s)
    policy.arrive(make_request(), 0.0)
    assert rows_of(policy.decide(0.0)) == [1]


# --- admission --------------------------------------------------------------------------------------------------------


def test_full_queue_refuses_with_retry_after() -> None:
    policy = make_policy(max_queue_size=4)
    occupy(policy)
    policy.arrive(make_request(3), 0.0)
    with pytest.raises(QueueFull, match=r"'m'.*3 rows wait, 2 more.*max_queue_size = 4") as caught:
        policy.arrive(make_request(2), 0.0)
    assert caught.value.retry_after_s == 1
    policy.arrive(make_request(1), 0.0)
    assert policy.counters.refused["queue"] == 1


def test_idle_slot_admits_a_request_larger_than_the_queue() -> None:
    policy = make_policy(max_queue_size=2)
    policy.arrive(make_request(8), 0.0)
    assert rows_of(policy.decide(0.0)) == [8]


def test_request_larger_than_a_batch_is_invalid_without_split_large() -> None:
    policy = make_policy(split_large=False)
    with pytest.raises(InvalidRequest, match="9 rows are more than max_batch_size = 8"):
        policy.arrive(make_request(9), 0.0)
    assert policy.counters.invalid == 1


def test_request_larger_than_the_queue_is_invalid() -> None:
    with pytest.raises(InvalidRequest, match="101 rows are more than the queue can hold"):
        make_policy().arrive(make_request(101), 0.0)


def test_request_whose_deadline_has_passed_is_expired_at_the_door() -> None:
    policy = make_policy()
    with pytest.raises(DeadlineExceeded, match="timeout of 5 ms"):
        policy.arrive(make_request(arrival_s=1.0, timeout_s=0.005), 1.005)
    assert policy.counters.expired == 1


def test_request_may_ask_for_less_time_never_for_more() -> None:
    policy = make_policy()
    assert policy.arrive(make_request(timeout_s=2.0), 0.0).deadline_s == 2.0
    assert policy.arrive(make_request(timeout_s=20.0), 0.0).deadline_s == 10.0
    fixed = make_policy(allow_timeout_override=False)
    assert fixed.arrive(make_request(timeout_s=2.0), 0.0).deadline_s == 10.0


# --- deadlines and cancellation ---------------------------------------------------------------------------------------


def test_deadline_of_a_waiting_request_is_a_timer_of_its_own() -> None:
    policy = make_policy()
    occupy(policy)
    ticket = policy.arrive(make_request(timeout_s=0.25), 0.0)
    assert policy.decide(0.0).wake_s == 0.25
    decision = policy.decide(0.25)
    assert decision.ended == [ticket]
    assert isinstance(ticket.error, DeadlineExceeded)
    assert policy.queue.entries == 0


def test_earliest_deadline_wakes_even_if_it_is_of_the_least_important_level() -> None:
    policy = make_policy(priority_levels=2)
    occupy(policy)
    policy.arrive(make_request(priority=1), 0.0)
    policy.arrive(make_request(priority=2, timeout_s=0.5), 0.0)
    assert policy.decide(0.0).wake_s == 0.5


def test_cancelled_request_leaves_the_queue_and_never_runs() -> None:
    policy = make_policy()
    blocker = occupy(policy)
    gone = policy.arrive(make_request(3), 0.0)
    kept = policy.arrive(make_request(2), 0.0)
    policy.cancel(gone)
    assert policy.queue.rows == 2
    policy.finish(blocker, 1.0, ok=True)
    (batch,) = policy.decide(1.0).batches
    assert [entry.ticket for entry in batch.entries] == [kept]


def test_request_cancelled_while_running_is_not_completed() -> None:
    policy = make_policy()
    ticket = policy.arrive(make_request(), 0.0)
    (batch,) = policy.decide(0.0).batches
    policy.cancel(ticket)
    assert policy.finish(batch, 1.0, ok=True) == []
    assert (policy.counters.cancelled, policy.counters.completed) == (1, 0)
    assert policy.is_empty


def test_answer_after_the_deadline_is_delivered_and_counted_late() -> None:
    policy = make_policy()
    ticket = policy.arrive(make_request(timeout_s=0.5), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert policy.finish(batch, 0.6, ok=True) == [ticket]
    assert (policy.counters.completed, policy.counters.late) == (1, 1)


# --- split requests ---------------------------------------------------------------------------------------------------


def test_large_request_is_split_in_order_and_completes_with_its_last_part() -> None:
    policy = make_policy()
    ticket = policy.arrive(make_request(20), 0.0)
    assert [(entry.first_row, entry.rows) for entry in ticket.entries] == [(0, 8), (8, 8), (16, 4)]
    ended: list[Ticket] = []
    for at in (0.0, 1.0, 2.0):
        assert ended == []
        (batch,) = policy.decide(at).batches
        ended = policy.finish(batch, at, ok=True)
    assert ended == [ticket]
    assert (policy.counters.completed, policy.counters.rows) == (1, 20)


def test_last_part_of_a_split_request_shares_its_batch() -> None:
    policy = make_policy(slots=2)
    policy.arrive(make_request(10), 0.0)
    policy.arrive(make_request(6), 0.0)
    assert rows_of(policy.decide(0.0)) == [8, 8]


def test_failing_part_cancels_the_parts_that_wait() -> None:
    policy = make_policy()
    ticket = policy.arrive(make_request(20), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert policy.finish(batch, 1.0, ok=False) == [ticket]
    assert ticket.outcome is Outcome.FAILED
    assert policy.queue.entries == 0
    assert policy.decide(1.0).batches == []


def test_expiring_part_fails_the_whole_request() -> None:
    policy = make_policy()
    ticket = policy.arrive(make_request(20, timeout_s=0.5), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert policy.decide(0.5).ended == [ticket]
    assert ticket.outcome is Outcome.EXPIRED
    assert policy.finish(batch, 1.0, ok=True) == []
    assert policy.is_empty


# --- failures ---------------------------------------------------------------------------------------------------------


def run_with_poison(policy: Policy, requests: int, poison: set[int]) -> tuple[list[Ticket], int]:
    """Run `requests` one-row requests, of which those in `poison` fail every run; return tickets and runs."""
    tickets = [policy.arrive(make_request(value=index), 0.0) for index in range(requests)]
    bad = {id(tickets[index]) for index in poison}
    runs = 0
    while batches := policy.decide(0.0).batches:
        for batch in batches:
            runs += 1
            policy.finish(batch, 0.0, ok=not any(id(entry.ticket) in bad for entry in batch.entries))
    return tickets, runs


@pytest.mark.parametrize("requests", [1, 2, 3, 7, 8, 31, 64])
def test_one_bad_request_fails_alone_within_the_bound(requests: int) -> None:
    """At most 2·log2(n) + 1 further runs for one guilty among n (batching.md section 10)."""
    for guilty in {0, requests // 2, requests - 1}:
        policy = make_policy(max_batch_size=64)
        tickets, runs = run_with_poison(policy, requests, {guilty})
        failed = [index for index, ticket in enumerate(tickets) if ticket.outcome is Outcome.FAILED]
        assert failed == [guilty]
        assert all(t.outcome is Outcome.COMPLETED for i, t in enumerate(tickets) if i != guilty)
        assert runs - 1 <= 2 * math.ceil(math.log2(requests)) + 1
        assert isinstance(tickets[guilty].error, ExecutionFailed)


def test_several_bad_requests_are_all_found() -> None:
    tickets, _ = run_with_poison(make_policy(max_batch_size=32), 32, {0, 5, 6, 31})
    assert {i for i, t in enumerate(tickets) if t.outcome is Outcome.FAILED} == {0, 5, 6, 31}


def test_without_isolation_the_batch_fails_together() -> None:
    tickets, runs = run_with_poison(make_policy(isolate_failures=False), 4, {2})
    assert all(ticket.outcome is Outcome.FAILED for ticket in tickets)
    assert runs == 1


def test_half_that_has_no_time_left_fails_instead_of_running_late() -> None:
    policy = make_policy()
    hurried = policy.arrive(make_request(timeout_s=0.5), 0.0)
    patient = policy.arrive(make_request(), 0.0)
    (batch,) = policy.decide(0.0).batches
    assert policy.finish(batch, 1.0, ok=False) == []
    decision = policy.decide(1.0)
    assert decision.ended == [hurried]
    assert hurried.outcome is Outcome.FAILED
    assert [entry.ticket for entry in decision.batches[0].entries] == [patient]


def test_repeated_half_goes_before_what_waits() -> None:
    policy = make_policy(max_batch_size=2)
    first = [policy.arrive(make_request(), 0.0) for _ in range(2)]
    (batch,) = policy.decide(0.0).batches
    policy.arrive(make_request(), 0.0)
    policy.finish(batch, 0.1, ok=False)
    (again,) = policy.decide(0.1).batches
    assert again.reason == "isolate"
    assert again.entries[0].ticket is first[0]


# --- drain ------------------------------------------------------------------------------------------------------------


def test_drain_refuses_new_work_and_finishes_what_waits() -> None:
    policy = make_policy(max_queue_delay_s=5.0)
    policy.arrive(make_request(), 0.0)
    assert policy.decide(0.0).batches == []
    policy.drain(30.0)
    with pytest.raises(Draining):
        policy.arrive(make_request(), 0.1)
    (batch,) = policy.decide(0.1).batches
    assert batch.reason == "drain"
    policy.finish(batch, 0.2, ok=True)
    assert policy.is_empty


def test_what_still_waits_at_the_end_of_the_drain_is_refused() -> None:
    policy = make_policy()
    batch = occupy(policy)
    ticket = policy.arrive(make_request(), 0.0)
    policy.drain(1.0)
    assert policy.decide(0.5).wake_s == 1.0
    assert policy.decide(1.0).ended == [ticket]
    assert isinstance(ticket.error, Draining)
    assert policy.counters.refused["drain"] == 1
    assert not policy.is_empty
    policy.finish(batch, 2.0, ok=True)
    assert policy.is_empty


# --- models without a batch axis --------------------------------------------------------------------------------------


def test_model_without_batch_axis_runs_each_request_alone() -> None:
    policy = make_policy(max_batch_size=0, slots=2)
    for _ in range(3):
        policy.arrive(make_request(5, is_batching=False), 0.0)
    decision = policy.decide(0.0)
    assert rows_of(decision) == [1, 1]
    assert [len(batch.entries) for batch in decision.batches] == [1, 1]
