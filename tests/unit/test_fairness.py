"""Fairness between the clients of one model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from support.core_requests import make_request
from support.policies import DEAR, make_policy, occupy

from batchserve.core.fairness import FairShare
from batchserve.core.policy import Policy
from batchserve.core.request import Request
from batchserve.core.ticket import Outcome
from batchserve.errors import QueueFull


def of(client: str, now: float = 0.0, rows: int = 1, **more: object) -> Request:
    return replace(make_request(rows, arrival_s=now, **more), client=client)  # type: ignore[arg-type]


def serve(policy: Policy, runs: int, now: float = 1.0) -> Counter[str]:
    """Finish what runs and start what comes next, so many times; count whose requests were started."""
    served: Counter[str] = Counter()
    for _ in range(runs):
        (batch,) = policy.slots._running.values()
        now += batch.predicted_s
        policy.finish(batch, now, ok=True, took_s=batch.predicted_s)
        for started in policy.decide(now).batches:
            served.update(entry.ticket.request.client for entry in started.entries)
    return served


def test_flooding_client_does_not_keep_another_one_waiting() -> None:
    policy = make_policy(DEAR, max_batch_size=1, is_fair=True)
    occupy(policy)
    for _ in range(100):
        policy.arrive(of("flood"), 0.0)
    policy.arrive(of("quiet"), 0.0)
    assert serve(policy, 2) == {"flood": 1, "quiet": 1}


def test_without_fairness_the_order_is_that_of_arrival() -> None:
    policy = make_policy(DEAR, max_batch_size=1)
    occupy(policy)
    for _ in range(5):
        policy.arrive(of("flood"), 0.0)
    policy.arrive(of("quiet"), 0.0)
    assert serve(policy, 5) == {"flood": 5}


def test_clients_share_by_weight() -> None:
    policy = make_policy(DEAR, max_batch_size=1, is_fair=True, client_weights={"gold": 3.0})
    occupy(policy)
    for _ in range(60):
        policy.arrive(of("gold"), 0.0)
        policy.arrive(of("plain"), 0.0)
    assert serve(policy, 40) == {"gold": 30, "plain": 10}


def test_client_with_larger_requests_gets_fewer_of_them() -> None:
    policy = make_policy(DEAR, max_batch_size=4, is_fair=True)
    occupy(policy)
    for _ in range(40):
        policy.arrive(of("large", rows=4), 0.0)
        for _ in range(4):
            policy.arrive(of("small"), 0.0)
    served = serve(policy, 30)
    assert served["small"] == pytest.approx(4 * served["large"], abs=5)


def test_client_is_charged_with_what_its_requests_really_took() -> None:
    """Two clients, two shapes; the runs of one of them take ten times what was thought."""
    policy = make_policy(DEAR, max_batch_size=1, is_fair=True)
    occupy(policy)
    for _ in range(5):
        policy.arrive(of("dear", width=5), 0.0)
        policy.arrive(of("cheap", width=4), 0.0)
    now, spent = 1.0, Counter[str]()
    for _ in range(150):
        (batch,) = policy.slots._running.values()
        client = batch.entries[0].ticket.request.client
        took_s = 0.100 if client == "dear" else 0.010
        now += took_s
        spent[client] += took_s
        policy.finish(batch, now, ok=True, took_s=took_s)
        policy.decide(now)
        policy.arrive(of(client, now, width=5 if client == "dear" else 4), now)
    assert spent["dear"] < 3 * spent["cheap"]


def test_deadlines_are_kept_although_they_are_not_the_order() -> None:
    policy = make_policy(DEAR, max_batch_size=1, is_fair=True)
    occupy(policy)
    for _ in range(5):
        policy.arrive(of("flood"), 0.0)
    hurried = policy.arrive(of("flood", timeout_s=0.5), 0.0)
    decision = policy.decide(0.0)
    assert decision.wake_s == 0.5
    assert policy.decide(0.5).ended == [hurried]
    assert hurried.outcome is Outcome.EXPIRED


def test_flooding_client_leaves_room_in_the_queue() -> None:
    policy = make_policy(DEAR, max_batch_size=1, is_fair=True, max_queue_size=100)
    occupy(policy)
    for _ in range(50):
        policy.arrive(of("flood"), 0.0)
    with pytest.raises(QueueFull, match="50 rows of this client wait, and 50 are left for all"):
        policy.arrive(of("flood"), 0.0)
    for _ in range(25):
        policy.arrive(of("quiet"), 0.0)
    with pytest.raises(QueueFull):
        policy.arrive(of("quiet"), 0.0)


def test_room_is_given_back_however_a_request_ends() -> None:
    policy = make_policy(DEAR, max_batch_size=1, is_fair=True, max_queue_size=4)
    occupy(policy)
    first = policy.arrive(of("a", timeout_s=0.5), 0.0)
    second = policy.arrive(of("a"), 0.0)
    policy.cancel(second)
    policy.decide(0.5)
    assert first.outcome is Outcome.EXPIRED
    policy.arrive(of("a", 0.6), 0.6)
    serve(policy, 1)
    account = policy.fair.account("a")  # type: ignore[union-attr]
    assert account.rows == 0


def test_clients_beyond_the_bound_share_one_account() -> None:
    fair = FairShare({}, 2)
    for name in ("a", "b"):
        fair.account(name).rows = 1
    fair.account("c").rows = 1
    assert fair.account("c") is fair.account("d")
    assert fair.account("a") is not fair.account("b")


def test_client_without_work_or_debt_is_forgotten() -> None:
    fair = FairShare({}, 2)
    first = fair.account("a")
    fair.account("b")
    fair.account("c")
    assert fair.account("a") is not first
