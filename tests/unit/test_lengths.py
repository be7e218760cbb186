"""The policy of a model that pads: what runs together, what it is taken to cost, and who is let in (section 9)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.core_requests import make_request

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.device import Device
from batchserve.core.lengths import Lengths
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.core.policy import Policy
from batchserve.core.request import Request
from batchserve.core.ticket import Outcome, Ticket
from batchserve.errors import TargetMissed

RULE = PadRule(((1,),), (0,), 0, ((1,),), multiple=8)
GPU_LIKE = tuple((2**n, 0.004 + 2e-6 * 2**n) for n in range(3, 13))
"""4 ms, and 2 µs a token."""


def make_policy(
    *,
    points: tuple[tuple[int, float], ...] = GPU_LIKE,
    rule: PadRule = RULE,
    device: Device | None = None,
    **keys: object,
) -> Policy:
    settings: dict[str, object] = {"max_batch_size": 8, "timeout_s": 10.0, "max_queue_size": 1024, **keys}
    settings.setdefault("shed", settings.get("latency_target_s") is not None)
    limits = Limits(**settings, pad=rule)  # type: ignore[arg-type]
    return Policy("m", limits, CostModel(points, limits.horizon_s), device)


def request(length: int, rows: int = 1, *, now: float = 0.0, **keys: object) -> Request:
    """A request as the frontend makes it: its key leaves the length out."""
    made = make_request(rows, width=length, arrival_s=now, **keys)  # type: ignore[arg-type]
    return replace(made, key=((-1,),), length=length)


def occupy(policy: Policy, now: float = 0.0) -> Batch:
    policy.arrive(request(8, now=now), now)
    (batch,) = policy.decide(now).batches
    return batch


def waiting(policy: Policy, *lengths: int, **keys: object) -> tuple[Batch, list[Ticket]]:
    """Requests that wait behind a run."""
    blocker = occupy(policy)
    return blocker, [policy.arrive(request(length, **keys), 0.0) for length in lengths]


def members(batch: Batch) -> list[Ticket]:
    return [entry.ticket for entry in batch.entries]


# --- what runs together -----------------------------------------------------------------------------------------------


def test_requests_of_different_lengths_share_a_run() -> None:
    policy = make_policy()
    blocker, tickets = waiting(policy, 10, 12, 9)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert members(batch) == tickets
    assert (batch.rows, batch.length, batch.tokens) == (3, 16, 48)
    assert batch.padded_share == pytest.approx(1 - 31 / 48)
    assert batch.reason == "idle"
    assert batch.predicted_s == pytest.approx(0.004 + 2e-6 * 48)


def test_full_batch_of_like_lengths_goes_before_a_head_that_can_wait() -> None:
    policy = make_policy()
    blocker, tickets = waiting(policy, 1000, *[10] * 8)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert members(batch) == tickets[1:]
    assert batch.reason == "full"
    policy.finish(batch, 0.008, ok=True)
    (batch,) = policy.decide(0.008).batches
    assert members(batch) == tickets[:1]
    assert (batch.length, batch.padded_share) == (1000, 0.0)  # alone, and so as it came


def test_a_window_cut_for_its_lengths_says_so() -> None:
    policy = make_policy(points=tuple((2**n, 1e-4 + 1e-5 * 2**n) for n in range(13)))
    blocker, tickets = waiting(policy, 16, 16, 900)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert members(batch) == tickets[2:]  # a long row fills a run of this device, and the short ones can wait for it
    assert batch.reason == "shape"


def test_limit_of_tokens_holds_in_the_policy() -> None:
    policy = make_policy(rule=replace(RULE, max_tokens=100))
    blocker, tickets = waiting(policy, 40, 40, 40, 40)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert members(batch) == tickets[:2]


def test_parts_of_a_split_request_have_its_length() -> None:
    policy = make_policy(slots=4)
    policy.arrive(request(20, rows=20), 0.0)
    batches = policy.decide(0.0).batches
    assert [(batch.rows, batch.tokens) for batch in batches] == [(8, 160), (8, 160), (4, 80)]


def test_less_important_requests_fill_rows_that_are_left_without_making_the_run_longer() -> None:
    policy = make_policy(priority_levels=2)
    blocker = occupy(policy)
    first = policy.arrive(request(20, priority=1), 0.0)
    second = policy.arrive(request(12, priority=1), 0.0)
    long = policy.arrive(request(200, priority=2), 0.0)
    short = policy.arrive(request(10, priority=2), 0.0)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert members(batch) == [first, second, short]
    assert batch.length == 24
    assert long.outcome is None
    assert policy.queue.rows == 1


def test_less_important_requests_wait_while_a_more_important_one_is_left_out() -> None:
    policy = make_policy(priority_levels=2)
    blocker = occupy(policy)
    for length in (1000, *[10] * 5):
        policy.arrive(request(length, priority=1), 0.0)
    minor = policy.arrive(request(10, priority=2), 0.0)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert [entry.length for entry in batch.entries] == [10] * 5
    assert minor not in members(batch)


def test_an_unpadded_run_is_not_made_a_padded_one_by_less_important_requests() -> None:
    """Its length need not be a multiple, so a shorter row must not join it."""
    policy = make_policy(priority_levels=2)
    blocker = occupy(policy)
    policy.arrive(request(20, priority=1), 0.0)
    policy.arrive(request(10, priority=2), 0.0)
    policy.arrive(request(20, priority=2), 0.0)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert [entry.length for entry in batch.entries] == [20, 20]


def test_entries_that_are_not_picked_stay_in_order() -> None:
    """Three long rows waste less of a run than four short ones; one of them has left meanwhile."""
    policy = make_policy()
    blocker, tickets = waiting(policy, *[10] * 4, *[1000] * 3)
    policy.cancel(tickets[5])
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    assert members(batch) == [tickets[4], tickets[6]]
    assert (policy.queue.rows, policy.queue.entries) == (4, 4)
    shape = policy.queue.shape(((-1,),))
    assert shape.tokens == 40
    assert shape.head.ticket is tickets[0]
    policy.finish(batch, 0.01, ok=True)
    (batch,) = policy.decide(0.01).batches
    assert members(batch) == tickets[:4]


def test_a_failed_batch_is_halved_with_its_lengths() -> None:
    policy = make_policy()
    blocker, _ = waiting(policy, 10, 12, 30, 31)
    policy.finish(blocker, 0.004, ok=True)
    (batch,) = policy.decide(0.004).batches
    policy.finish(batch, 0.008, ok=False)
    (half,) = policy.decide(0.008).batches
    assert (half.reason, half.rows, half.length) == ("isolate", 2, 16)
    assert half.predicted_s == pytest.approx(0.004 + 2e-6 * 32)


def admit_until_refused(policy: Policy, length: int) -> int:
    for count in range(1000):
        try:
            policy.arrive(request(length), 0.0)
        except TargetMissed:
            return count
    raise AssertionError("everything was let in")


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_head_is_hopeless_by_its_own_length() -> None:
    """Two milliseconds are left: enough for nothing at 4 ms a run, though a short row's tokens cost next to nothing."""
    policy = make_policy()
    blocker, (late, patient) = (
        occupy(policy),
        [
            policy.arrive(request(1000, timeout_s=0.009), 0.0),
            policy.arrive(request(10), 0.0),
        ],
    )
    policy.finish(blocker, 0.0045, ok=True)
    decision = policy.decide(0.0045)  # 4.5 ms are left, and 1000 tokens take 6
    assert decision.ended == [late]
    assert late.outcome is Outcome.EXPIRED
    assert members(decision.batches[0]) == [patient]


def test_admission_counts_the_rows_ahead_by_their_lengths() -> None:
    """200 short rows ahead take 25 runs of about 4 ms; as many long ones take far longer, and are refused sooner."""
    admitted = {}
    for length in (8, 1000):
        policy = make_policy(latency_target_s=0.1)
        occupy(policy)
        admitted[length] = admit_until_refused(policy, length)
    assert 120 < admitted[8] < 200
    assert 15 < admitted[1000] < 45


# --- costs ------------------------------------------------------------------------------------------------------------


def test_costs_are_learnt_by_tokens_and_seen_by_rows_of_the_mean_length() -> None:
    cost = CostModel((), 10.0)
    lengths = Lengths(RULE, cost, 10.0)
    policy = make_policy(points=())
    batch = Batch([policy.arrive(request(100, rows=4), 0.0).entries[0]], "idle", 0, pad=RULE)
    lengths.observe(batch, 0.010, 0.001)
    assert cost.points == ((400.0, 0.010),)
    assert lengths.by_rows.points == ((pytest.approx(4.0), pytest.approx(0.010)),)
    assert lengths.by_rows.mean(4) == pytest.approx(cost.mean(400))
    assert lengths.by_rows.hi(4) == pytest.approx(cost.hi(400))


def test_first_request_says_how_long_rows_are_until_runs_are_seen() -> None:
    lengths = Lengths(RULE, CostModel(GPU_LIKE, 10.0), 10.0)
    lengths.note(100)
    assert lengths.by_rows.mean(8) == pytest.approx(0.004 + 2e-6 * 800)


def test_curve_of_arrays_is_that_of_the_cost_model() -> None:
    cost = CostModel(GPU_LIKE, 10.0)
    curve = Lengths(RULE, cost, 10.0)._curve
    at = np.array([1, 5, 8, 100, 777, 4096, 9999, 10**6])
    assert curve.means(at).tolist() == pytest.approx([cost.mean(tokens) for tokens in at.tolist()])
    cost.observe(100, 0.5, 0.001)
    assert curve.means(at).tolist() == pytest.approx([cost.mean(tokens) for tokens in at.tolist()])
    assert curve.q == cost.q


def test_requests_are_charged_by_their_own_tokens() -> None:
    batch = Batch(
        [ticket.entries[0] for ticket in waiting(make_policy(), 10, 30)[1]],
        "idle",
        0,
        pad=RULE,
    )
    assert [batch.part_of(entry) for entry in batch.entries] == [pytest.approx(0.25), pytest.approx(0.75)]


def test_a_part_filled_window_may_be_held_by_the_classic_timer() -> None:
    policy = make_policy(max_queue_delay_s=0.01)
    policy.arrive(request(10), 0.0)
    policy.arrive(request(20), 0.0)
    decision = policy.decide(0.0)
    assert not decision.batches
    assert decision.wake_s == pytest.approx(0.01)
    (batch,) = policy.decide(0.01).batches
    assert (batch.rows, batch.reason) == (2, "timer")
