"""Invariant 15: what one event costs does not grow with the queue. Counted in function calls, so no clock is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from support.core_requests import make_request

from batchserve.core.cost import CostModel
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy
from batchserve.core.ticket import Outcome, Ticket


def calls(act: Callable[[], object]) -> int:
    """Count the calls of Python and C functions that something makes."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def filled(requests: int, **limits: object) -> tuple[Policy, list[Ticket]]:
    """Make a policy whose one slot is busy, with so many requests waiting."""
    settings = {"max_batch_size": 32, "timeout_s": 100.0, "max_queue_size": 10**6} | limits
    policy = Policy("m", Limits(**settings), CostModel([(1, 0.004), (32, 0.006)], 100.0))  # type: ignore[arg-type]
    policy.arrive(make_request(arrival_s=0.0), 0.0)
    policy.decide(0.0)
    tickets = []
    for number in range(requests):
        now = 0.001 + 1e-6 * number
        tickets.append(policy.arrive(make_request(arrival_s=now), now))
    return policy, tickets


LIMITS = pytest.mark.parametrize(
    "limits", [{}, {"latency_target_s": 90.0, "shed": True}, {"is_fair": True}], ids=["plain", "target", "fair"]
)


@LIMITS
def test_arrival_costs_the_same_in_a_long_queue(limits: dict[str, object]) -> None:
    costs = []
    for waiting in (100, 10_000):
        policy, _ = filled(waiting, **limits)
        request = make_request(arrival_s=0.5)
        costs.append(calls(lambda policy=policy, request=request: policy.arrive(request, 0.5)))
    assert costs[1] <= costs[0] + 20


@LIMITS
def test_cancelling_costs_the_same_in_a_long_queue(limits: dict[str, object]) -> None:
    costs = []
    for waiting in (200, 10_000):
        policy, tickets = filled(waiting, **limits)
        middle = tickets[waiting // 4 : 3 * waiting // 4]  # from the middle, where a heap is no help
        costs.append(calls(lambda policy=policy, middle=middle: [policy.cancel(t) for t in middle]) / len(middle))
    assert costs[1] <= 1.5 * costs[0] + 5


@LIMITS
def test_expiry_costs_the_same_in_a_long_queue(limits: dict[str, object]) -> None:
    costs = []
    for waiting in (200, 10_000):
        policy, tickets = filled(waiting, **limits)
        costs.append(calls(lambda policy=policy: policy.decide(1000.0)) / waiting)
        assert all(ticket.outcome is Outcome.EXPIRED for ticket in tickets)
    assert costs[1] <= 1.5 * costs[0] + 5


@LIMITS
def test_decision_costs_the_same_in_a_long_queue(limits: dict[str, object]) -> None:
    """With a free slot and a full batch to cut."""
    costs = []
    for waiting in (10_000, 60_000):  # at rates where sizes have to be looked for in both
        policy, _ = filled(waiting, **limits)
        [batch] = policy.slots._running.values()
        policy.finish(batch, 0.5, ok=True, took_s=0.004)
        costs.append(calls(lambda policy=policy: policy.decide(0.5)))
    assert costs[1] <= 1.3 * costs[0]  # six times as many wait: the heap is 3 levels deeper
