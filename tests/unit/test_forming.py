"""How many rows a batch takes under deadlines, and preferred sizes (batching.md sections 7.2 and 7.4)."""

from __future__ import annotations

import pytest
from support.core_requests import make_request
from support.policies import DEAR, LINE, make_policy, occupy

from batchserve.core.forming import select
from batchserve.core.policy import Policy
from batchserve.core.shape_queue import ShapeQueue
from batchserve.core.ticket import Entry, Outcome


def waiting(deadlines_s: list[float]) -> tuple[Policy, ShapeQueue]:
    """A policy with requests of one row that wait behind a run, by deadline."""
    policy = make_policy(DEAR)
    occupy(policy)
    tickets = [policy.arrive(make_request(timeout_s=deadline_s), 0.0) for deadline_s in deadlines_s]
    return policy, policy.queue.shape(tickets[0].request.key)


def test_batch_is_no_larger_than_its_head_has_time_for() -> None:
    policy, shape = waiting([0.061] * 10)
    given_up: list[Entry] = []
    selection = select(shape, policy.cost, policy.sizing, 0.0, given_up.append)
    assert selection == (5, False)  # 1.2 * 10 ms a row within 61 ms
    assert not given_up


def test_cut_for_the_deadline_says_so() -> None:
    policy, _ = waiting([0.070] * 10)
    (batch,) = policy.slots._running.values()
    policy.finish(batch, 0.009, ok=True)
    policy.sizing.refresh(1.0, 1.0, 10.0, 0.009)
    (batch,) = policy.decide(0.009).batches
    assert (batch.rows, batch.reason) == (5, "deadline")


def test_head_that_cannot_finish_is_expired_at_once() -> None:
    policy = make_policy(DEAR)
    blocker = occupy(policy)
    late = policy.arrive(make_request(timeout_s=0.015), 0.0)
    patient = policy.arrive(make_request(), 0.0)
    policy.finish(blocker, 0.010, ok=True)
    decision = policy.decide(0.010)
    assert decision.ended == [late]
    assert late.outcome is Outcome.EXPIRED
    assert "could not be kept" in str(late.error)
    assert [entry.ticket for entry in decision.batches[0].entries] == [patient]


def test_lone_request_is_tried_while_its_deadline_is_ahead() -> None:
    policy = make_policy(DEAR)
    policy.arrive(make_request(timeout_s=0.005), 0.0)
    assert len(policy.decide(0.0).batches) == 1


def test_unmeasured_model_expires_nothing_early() -> None:
    policy = make_policy(())
    blocker = occupy(policy)
    policy.arrive(make_request(timeout_s=0.005), 0.0)
    policy.arrive(make_request(timeout_s=0.005), 0.0)
    policy.finish(blocker, 0.001, ok=True)
    assert policy.decide(0.001).batches[0].rows == 2


def test_a_few_old_requests_are_given_up_for_the_many_behind_them() -> None:
    """Under a load that takes batches of eight, two requests that leave time for two rows only are let go."""
    policy, shape = waiting([0.025, 0.026, *[1.0] * 10])
    policy.sizing.need = 8
    given_up: list[Entry] = []

    def give_up(entry: Entry) -> None:
        given_up.append(entry)
        policy.cancel(entry.ticket)

    assert select(shape, policy.cost, policy.sizing, 0.0, give_up) == (10, False)
    assert [entry.number for entry in given_up] == [1, 2]


def test_nobody_is_given_up_while_a_small_batch_carries_the_load() -> None:
    policy, shape = waiting([0.025, 0.026, *[1.0] * 10])
    policy.sizing.need = 2
    given_up: list[Entry] = []
    assert select(shape, policy.cost, policy.sizing, 0.0, given_up.append) == (2, False)
    assert not given_up


def test_last_one_that_waits_is_not_given_up() -> None:
    policy, shape = waiting([0.011])
    policy.sizing.need = 8
    given_up: list[Entry] = []
    assert select(shape, policy.cost, policy.sizing, 0.0, given_up.append) == (1, False)
    assert not given_up


@pytest.mark.parametrize(("queued", "size"), [(9, 8), (8, 8), (31, 16), (3, 3), (40, 32)])
def test_preferred_size_not_above_what_waits_is_taken(queued: int, size: int) -> None:
    policy = make_policy(LINE, preferred_batch_sizes=(8, 16, 32))
    blocker = occupy(policy)
    for _ in range(queued):
        policy.arrive(make_request(), 0.0)
    policy.finish(blocker, 0.01, ok=True)
    assert policy.decide(0.01).batches[0].rows == size


def test_preferred_size_makes_nobody_late() -> None:
    policy = make_policy(LINE, preferred_batch_sizes=(8,))
    blocker = occupy(policy)
    for _ in range(9):
        policy.arrive(make_request(timeout_s=0.015), 0.0)  # time for one run, not for a second after it
    policy.finish(blocker, 0.005, ok=True)
    assert policy.decide(0.005).batches[0].rows == 9


def test_rest_of_a_split_request_is_not_given_up_while_a_part_of_it_starts() -> None:
    """Found by Hypothesis: the part that was cut in the same step would have run for nothing."""
    policy = make_policy(LINE, max_batch_size=8, slots=3, priority_levels=3)
    occupy(policy)
    policy.arrive(make_request(), 0.0)
    split = policy.arrive(make_request(9, timeout_s=0.0001, priority=3), 0.0)
    decision = policy.decide(0.0)
    for batch in decision.batches:
        assert all(entry.ticket.outcome is None for entry in batch.entries)
    assert split.outcome is not Outcome.EXPIRED or not split.is_started
