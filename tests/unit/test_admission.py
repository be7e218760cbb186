"""Who is let in under a latency target, and when the others may come back (batching.md section 6)."""

from __future__ import annotations

import pytest
from support.core_requests import make_request
from support.policies import DEAR, LINE, make_policy, occupy

from batchserve.core.policy import Policy
from batchserve.errors import QueueFull, StandingQueue, TargetMissed


def admitted(policy: Policy, count: int, now: float = 0.0, **more: object) -> int:
    """Send requests of one row until one is refused."""
    for sent in range(count):
        try:
            policy.arrive(make_request(arrival_s=now, **more), now)  # type: ignore[arg-type]
        except (TargetMissed, StandingQueue):
            return sent
    return count


def test_request_that_cannot_be_answered_within_the_target_is_refused_on_arrival() -> None:
    """One run takes 10 ms a row, the target is 25 ms: beside a run and one that waits there is no time for a third."""
    policy = make_policy(DEAR, max_batch_size=1, latency_target_s=0.025)
    occupy(policy)
    assert admitted(policy, 5) == 1
    assert policy.counters.refused["target"] == 1


def test_answer_says_what_the_target_is_and_when_to_come_back() -> None:
    policy = make_policy(((1, 2.0),), max_batch_size=1, latency_target_s=5.0)
    occupy(policy)
    policy.arrive(make_request(), 0.0)
    with pytest.raises(TargetMissed, match=r"'m'.*latency_target of 5000 ms.*1 rows wait") as caught:
        policy.arrive(make_request(), 0.0)
    assert caught.value.retry_after_s == 2  # 2 + 2 + 1.2 * 2 s are 1.4 s too late


def test_idle_slot_admits_whatever_the_prediction_says() -> None:
    policy = make_policy(DEAR, max_batch_size=1, latency_target_s=0.005)
    policy.arrive(make_request(), 0.0)
    assert len(policy.decide(0.0).batches) == 1


def test_without_shed_nothing_is_refused_for_the_target() -> None:
    policy = make_policy(DEAR, max_batch_size=1, latency_target_s=0.025, shed=False)
    occupy(policy)
    assert admitted(policy, 50) == 50


def test_before_any_run_was_seen_nothing_is_refused_for_the_target() -> None:
    policy = make_policy((), latency_target_s=0.001)
    occupy(policy)
    assert admitted(policy, 10) == 10


def test_full_batches_ahead_are_counted_as_such() -> None:
    """A batch of 32 takes 12 ms: within 44 ms there is time for the running one, one full batch and one's own."""
    policy = make_policy(LINE, latency_target_s=0.044)
    occupy(policy, rows=32)
    assert admitted(policy, 200) == 64


def test_two_slots_take_twice_as_much() -> None:
    policy = make_policy(LINE, latency_target_s=0.044, slots=2)
    occupy(policy, rows=32)
    occupy(policy, rows=32)
    assert admitted(policy, 300) == 128


def test_request_with_many_rows_is_judged_by_the_batches_it_fills() -> None:
    policy = make_policy(DEAR, max_batch_size=4, latency_target_s=0.200)
    occupy(policy)
    policy.arrive(make_request(8), 0.0)
    with pytest.raises(TargetMissed):
        policy.arrive(make_request(12), 0.0)


def test_important_request_does_not_wait_behind_others() -> None:
    policy = make_policy(DEAR, max_batch_size=1, latency_target_s=0.049, priority_levels=2)
    occupy(policy)
    assert admitted(policy, 10, priority=2) == 3
    assert admitted(policy, 10, priority=1) >= 1


def test_shorter_deadline_is_counted_before_longer_ones() -> None:
    policy = make_policy(DEAR, max_batch_size=1, latency_target_s=0.100)
    occupy(policy)
    for _ in range(4):
        policy.arrive(make_request(), 0.0)
    policy.arrive(make_request(timeout_s=0.030), 0.0)
    with pytest.raises(TargetMissed):
        policy.arrive(make_request(timeout_s=0.021), 0.0)


def test_standing_queue_is_refused_once_overload_has_lasted() -> None:
    """A burst may use the whole budget as a buffer, a persistent overload may not."""
    policy = make_policy(LINE, latency_target_s=0.200)
    batch, now = occupy(policy), 0.0
    refused_for: list[str] = []
    while now < 6.0:
        for _ in range(6):  # six a millisecond, where 32 in 12 ms can be carried
            try:
                policy.arrive(make_request(arrival_s=now), now)
            except (TargetMissed, StandingQueue) as error:
                refused_for.append(error.reason)
        now += 0.001
        if now >= batch.cut_s + batch.predicted_s:
            policy.finish(batch, now, ok=True, took_s=batch.predicted_s)
            (batch,) = policy.decide(now).batches
        else:
            policy.decide(now)
    assert refused_for[0] == "target"
    assert refused_for[-1] == "standing"
    assert policy.queue.rows <= 40  # 1.25 batches; the target alone would let some 500 wait


def test_retry_after_of_a_full_queue_is_the_time_until_there_is_room() -> None:
    policy = make_policy(((1, 2.0),), max_batch_size=1, max_queue_size=3)
    occupy(policy)
    policy.arrive(make_request(), 0.0)
    policy.arrive(make_request(), 0.0)
    policy.arrive(make_request(), 0.0)
    with pytest.raises(QueueFull) as caught:
        policy.arrive(make_request(), 0.0)
    assert caught.value.retry_after_s == 2


def test_shapes_that_wait_are_counted_with_what_each_costs() -> None:
    """Requests of five shapes cannot share runs: the sixth waits for five, not for one."""
    policy = make_policy(DEAR, latency_target_s=0.500)
    occupy(policy)
    waiting = 0
    for width in range(4, 60):
        try:
            policy.arrive(make_request(width=width), 0.0)
        except TargetMissed:
            break
        waiting += 1
    # A row of 4 elements takes 10 ms, one of w elements w / 4 times that: 4 + ... + 19 elements take 460 ms.
    assert 14 <= waiting <= 17


def test_run_under_way_is_as_uncertain_as_it_is_long() -> None:
    """A row takes 4.25 ms and may take a fifth more, the running one and one's own: 10.2 ms. A full batch takes 12."""
    policy = make_policy(LINE, latency_target_s=0.011)
    occupy(policy)
    assert admitted(policy, 1) == 1


def test_request_of_another_shape_ends_what_a_prediction_assures() -> None:
    """What waits of one shape says when its batch ends only as long as no other shape runs in between."""
    policy = make_policy(LINE, latency_target_s=0.5)
    occupy(policy)
    assert admitted(policy, 2) == 2
    assert policy.assured is not None
    policy.arrive(make_request(width=5), 0.0)
    assert policy.assured is None
