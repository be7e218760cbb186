"""One model on several devices: which slot is asked first, what a slower one takes, and what is learnt of it."""

from __future__ import annotations

import pytest
from support.core_requests import make_request
from support.policies import LINE

from batchserve.core.cost import CostModel
from batchserve.core.device import Device
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy
from batchserve.core.speeds import Speeds
from batchserve.core.spread import in_time, largest_in_time
from batchserve.core.ticket import Entry, Ticket
from batchserve.errors import TargetMissed

FACTORS = (1.0, 4.0)


def make(factors: tuple[float, ...] = FACTORS, instances: int = 1, **changes: object) -> Policy:
    """Make a policy whose runs take 4.25 ms for one row and 12 ms for 32, times the factor of the device."""
    slots = instances * len(factors)
    settings: dict[str, object] = {"max_batch_size": 32, "timeout_s": 10.0, "max_queue_size": 1024, "slots": slots}
    settings |= changes
    settings.setdefault("shed", settings.get("latency_target_s") is not None)
    limits = Limits(**settings)  # type: ignore[arg-type]
    cost = CostModel(LINE, limits.horizon_s)
    return Policy("m", limits, cost, Device(slots), Speeds(len(factors), factors))


def come(policy: Policy, now: float, rows: int = 1, timeout_s: float | None = None) -> Ticket:
    return policy.arrive(make_request(rows, arrival_s=now, timeout_s=timeout_s), now)


# --- which slot -------------------------------------------------------------------------------------------------------


def test_quickest_idle_slot_is_taken_first() -> None:
    policy = make((1.0, 4.0, 2.0), max_queue_delay_s=0.0)
    slots = []
    for _ in range(3):
        come(policy, 0.0)
        slots += [batch.slot for batch in policy.decide(0.0).batches]
    assert slots == [0, 2, 1]


def test_equally_quick_devices_are_filled_evenly() -> None:
    """Slots 0 and 2 are on the first device, 1 and 3 on the second, which is slower by no more than noise."""
    policy = make((1.0, 1.04), instances=2, max_queue_delay_s=0.0)
    running = []
    for _ in range(3):
        come(policy, 0.0)
        running += policy.decide(0.0).batches
    assert [batch.slot for batch in running] == [0, 1, 2]
    policy.finish(running[0], 0.01, ok=True)
    come(policy, 0.01)
    come(policy, 0.01, rows=32)
    assert sorted(batch.slot for batch in policy.decide(0.01).batches) == [0, 3]


def test_batch_on_a_slower_slot_is_expected_to_take_as_much_longer() -> None:
    policy = make(max_queue_delay_s=0.0)
    batches = []
    for _ in range(2):
        come(policy, 0.0)
        batches += policy.decide(0.0).batches
    assert [batch.predicted_s for batch in batches] == pytest.approx([0.00425, 0.017])
    assert policy.slots.busy_until(0.0) == pytest.approx([0.00425, 0.017])


# --- what a slower one takes ------------------------------------------------------------------------------------------


def test_slower_slot_takes_nothing_that_would_be_late_there() -> None:
    """32 rows take it 48 ms: they wait for the quick one, which begins with them after its run."""
    policy = make(max_queue_delay_s=0.0)
    come(policy, 0.0)
    (first,) = policy.decide(0.0).batches
    hurried = [come(policy, 0.0, timeout_s=0.016) for _ in range(3)]
    decision = policy.decide(0.0)
    assert not decision.batches
    assert decision.wake_s == pytest.approx(0.016)
    policy.finish(first, 0.00425, ok=True)
    (second,) = policy.decide(0.00425).batches
    assert second.slot == 0
    assert [entry.ticket for entry in second.entries] == hurried


def test_slower_slot_passes_over_the_head_for_those_that_it_answers_in_time() -> None:
    policy = make(max_queue_delay_s=0.0)
    come(policy, 0.0)
    policy.decide(0.0)
    come(policy, 0.0, timeout_s=0.016)
    patient = [come(policy, 0.0, timeout_s=1.0) for _ in range(3)]
    (batch,) = policy.decide(0.0).batches
    assert batch.slot == 1
    assert [entry.ticket for entry in batch.entries] == patient
    assert policy.queue.rows == 1


def test_slower_slot_takes_fewer_rows_if_more_would_be_late() -> None:
    policy = make(max_queue_delay_s=0.0)
    come(policy, 0.0)
    policy.decide(0.0)
    for _ in range(32):
        come(policy, 0.0, timeout_s=0.035)
    (batch,) = policy.decide(0.0).batches
    assert 1 < batch.rows < 32
    assert 0.0 + batch.upper_s <= 0.035


def test_request_waits_for_the_quick_slot_if_it_is_answered_sooner_there() -> None:
    policy = make()
    come(policy, 0.0)
    (first,) = policy.decide(0.0).batches
    come(policy, 0.001)
    decision = policy.decide(0.001)
    assert not decision.batches
    assert decision.wake_s == pytest.approx(first.upper_s)
    late_s = decision.wake_s + 1e-6  # the run takes longer than nine of ten: nobody knows when it will be over
    assert [batch.slot for batch in policy.decide(late_s).batches] == [1]


def test_more_than_one_batch_that_waits_is_worth_the_slower_slot() -> None:
    policy = make()
    come(policy, 0.0)
    policy.decide(0.0)
    for _ in range(40):
        come(policy, 0.001)
    (batch,) = policy.decide(0.001).batches
    assert (batch.slot, batch.rows) == (1, 32)


def test_idle_slower_slot_refuses_what_would_be_late_on_every_slot() -> None:
    """The quick one is busy for 12 ms and the slower one takes 17 ms, but the target is 15 ms."""
    policy = make(latency_target_s=0.015)
    come(policy, 0.0, rows=32)
    policy.decide(0.0)
    with pytest.raises(TargetMissed):
        come(policy, 0.0)
    come(policy, 0.009)  # the quick one will be free soon enough


def test_capacity_counts_a_slower_slot_by_what_it_runs_in_time() -> None:
    tight, wide = make(latency_target_s=0.016), make(latency_target_s=0.5)
    for policy in (tight, wide):
        policy.decide(0.0)
    assert tight.parallel == pytest.approx(1.0)
    assert wide.parallel == pytest.approx(1.25)


def test_drain_leaves_nothing_behind() -> None:
    policy = make()
    come(policy, 0.0)
    (first,) = policy.decide(0.0).batches
    come(policy, 0.001)
    policy.drain(1.0)
    (second,) = policy.decide(0.001).batches
    assert (second.slot, second.reason) == (1, "drain"), "nothing is held while draining"
    policy.finish(first, 0.01, ok=True)
    policy.finish(second, 0.02, ok=True)
    assert policy.is_empty


def test_draining_slower_slot_takes_other_shapes_than_one_that_would_be_late_there() -> None:
    """With the classic timer a shape may be held by its own, but not any more while draining."""
    policy = make(max_queue_delay_s=0.05)
    come(policy, 0.0, rows=32)
    assert [batch.slot for batch in policy.decide(0.0).batches] == [0]
    hurried = policy.arrive(make_request(1, arrival_s=0.001, timeout_s=0.01, width=5), 0.001)
    patient = policy.arrive(make_request(1, arrival_s=0.001, width=4), 0.001)
    assert policy.decide(0.001).batches == []
    policy.drain(1.0)
    (batch,) = policy.decide(0.002).batches
    assert (batch.slot, batch.entries[0].ticket) == (1, patient)
    assert hurried.outcome is None


def test_rows_that_fit_together() -> None:
    entries = [
        Entry(Ticket(make_request(rows), 0.0, end_s, 1), 0, rows, 0) for rows, end_s in ((2, 1.0), (3, 2.0), (4, 9.0))
    ]
    assert largest_in_time(entries, 32, lambda rows: 0.1 * rows, 0.0) == 9
    assert largest_in_time(entries, 32, lambda rows: 0.2 * rows, 0.0) == 7
    assert largest_in_time(entries, 5, lambda rows: 0.2 * rows, 0.0) == 5
    assert largest_in_time(entries, 32, lambda rows: 10.0, 0.0) == 0
    assert largest_in_time([], 32, lambda rows: 0.0, 0.0) == 0
    assert [entry.rows for entry in in_time(entries, 7, 1.5)] == [3, 4]
    assert [entry.rows for entry in in_time(entries, 6, 0.5)] == [2, 3], "what does not fit is passed over"


# --- what is learnt ---------------------------------------------------------------------------------------------------


def test_runs_on_a_slower_device_teach_the_curve_of_the_quickest() -> None:
    """Both take more than was measured: a quarter more on the first, 4.4 times as long as there on the second."""
    policy = make(max_queue_delay_s=0.0)
    for turn in range(200):
        now, running = float(turn), []
        for _ in range(2):
            come(policy, now)
            running += policy.decide(now).batches
        assert [batch.slot for batch in running] == [0, 1]
        for batch, took_s in zip(running, (0.005, 0.022), strict=True):
            policy.finish(batch, now + took_s, ok=True, took_s=took_s)
    assert policy.cost.mean(1) == pytest.approx(0.005, rel=0.02)
    assert policy.spread is not None
    assert policy.spread.speeds.factors == [1.0, pytest.approx(4.4, rel=0.02)]


def test_first_device_is_what_the_curve_is_of() -> None:
    speeds = Speeds(2, (1.0, 2.0))
    assert [speeds.observe(0, ratio) for ratio in (0.5, 3.0, 3.0, 3.0)] == [1.0] * 4
    assert speeds.factors == [1.0, 2.0]


def test_what_is_not_known_is_set_by_the_first_run() -> None:
    speeds = Speeds(2)
    assert [speeds.of(slot) for slot in range(4)] == [1.0] * 4
    assert speeds.observe(1, 3.0) == 0.0, "the curve knows nothing of this device"
    assert [speeds.of(slot) for slot in range(4)] == [1.0, 3.0, 1.0, 3.0]


def test_sudden_change_of_a_device_is_followed_after_three_runs_and_kept_from_the_curve() -> None:
    speeds = Speeds(2, (1.0, 2.0))
    assert [speeds.observe(1, 6.0) for _ in range(3)] == [0.0] * 3
    assert speeds.factors[1] == pytest.approx(6.0)
    assert [speeds.observe(1, ratio) for ratio in (12.0, 2.0, 12.0)] == [0.0] * 3, "no run says much alone"
    assert speeds.factors[1] == pytest.approx(6.0)
    assert speeds.observe(1, 6.6) == pytest.approx(6.0)
    assert speeds.factors[1] == pytest.approx(6.03)


def test_device_that_seems_quicker_than_the_first_counts_as_equal() -> None:
    assert [Speeds(3, (1.0, 0.5, 1.05)).of(slot) for slot in range(3)] == [1.0, 1.0, 1.0]
