"""When a batch that could start waits for more (batching.md section 7.3)."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import NamedTuple

from support.core_requests import make_request
from support.policies import LINE, make_policy

from batchserve.core.batch import Batch
from batchserve.core.policy import Policy
from batchserve.errors import Refused


class Served(NamedTuple):
    last_s: float  # when the last request of all came
    batches: list[Batch]


def serve_volleys(policy: Policy, volleys: int, *, size: int, every_s: float, gap_s: float) -> Served:
    """Let volleys come and be served, timers included."""
    running: list[Batch] = []
    batches: list[Batch] = []
    decision = policy.decide(0.0)

    def advance(until_s: float) -> None:
        nonlocal decision
        while True:
            ends = min((batch.cut_s + batch.predicted_s for batch in running), default=math.inf)
            now = min(ends, math.inf if decision.wake_s is None else decision.wake_s)
            if now > until_s:
                return
            for batch in [run for run in running if run.cut_s + run.predicted_s <= now]:
                running.remove(batch)
                policy.finish(batch, now, ok=True, took_s=batch.predicted_s)
            decision = policy.decide(now)
            running.extend(decision.batches)
            batches.extend(decision.batches)

    now = 0.0
    for volley in range(volleys):
        for index in range(size):
            now = volley * every_s + index * gap_s
            advance(now)
            policy.arrive(make_request(arrival_s=now), now)
            decision = policy.decide(now)
            running.extend(decision.batches)
            batches.extend(decision.batches)
        advance(now + every_s / 2)
    return Served(now, batches)


def test_lone_requests_far_apart_are_never_held() -> None:
    policy = make_policy(LINE)
    for step in range(100):
        now = step * 0.5
        policy.arrive(make_request(arrival_s=now), now)
        (batch,) = policy.decide(now).batches
        assert batch.held_s == 0.0
        policy.finish(batch, now + 0.00425, ok=True, took_s=0.00425)


def test_volley_is_joined_once_its_gaps_are_known() -> None:
    """Sixteen within a millisecond: started at once the first runs alone, and the others wait for it."""
    eager = serve_volleys(make_policy(LINE, max_queue_delay_s=0.0), 20, size=16, every_s=0.5, gap_s=0.00006)
    assert [batch.rows for batch in eager.batches[-2:]] == [1, 15]
    joined = serve_volleys(make_policy(LINE), 20, size=16, every_s=0.5, gap_s=0.00006)
    assert joined.batches[-2].rows >= 8
    assert sum(batch.rows for batch in joined.batches[-2:]) == 16


def test_hold_ends_at_its_own_time_and_says_how_long_it_was() -> None:
    policy = make_policy(LINE)
    last = serve_volleys(policy, 20, size=16, every_s=0.5, gap_s=0.00006).last_s
    now = last + 0.5
    policy.arrive(make_request(arrival_s=now), now)
    decision = policy.decide(now)
    assert decision.batches == [], "the first of a volley waits for the rest"
    assert decision.wake_s is not None
    assert 0 < decision.wake_s - now < 0.001
    (batch,) = policy.decide(decision.wake_s).batches
    assert batch.held_s == decision.wake_s - now


def test_small_batches_do_not_take_every_slot_when_the_next_ones_would_be_late() -> None:
    """Reason (a): two slots, a target of little more than a run, and load for half of them."""
    policy = make_policy(LINE, latency_target_s=0.016, slots=2)
    now = 0.0
    held = 0
    running = []
    for step in range(2000):
        now = step * 0.0005
        for batch in [run for run in running if run.cut_s + run.predicted_s <= now]:
            running.remove(batch)
            policy.finish(batch, now, ok=True, took_s=batch.predicted_s)
        with suppress(Refused):
            policy.arrive(make_request(arrival_s=now), now)
        decision = policy.decide(now)
        running += decision.batches
        held += policy.slots.idle > 0 and policy.queue.rows > 0
    assert held > 50


def test_nothing_is_held_while_another_shape_waits() -> None:
    policy = make_policy(LINE)
    last = serve_volleys(policy, 10, size=16, every_s=0.5, gap_s=0.00006).last_s
    now = last + 0.5
    policy.arrive(make_request(width=5, arrival_s=now), now)
    policy.arrive(make_request(width=4, arrival_s=now), now)
    assert len(policy.decide(now).batches) == 1


def test_delay_of_zero_holds_nothing() -> None:
    policy = make_policy(LINE, max_queue_delay_s=0.0)
    last = serve_volleys(policy, 10, size=16, every_s=0.5, gap_s=0.00006).last_s
    now = last + 0.5
    policy.arrive(make_request(arrival_s=now), now)
    assert len(policy.decide(now).batches) == 1
