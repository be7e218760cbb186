"""Several models on one device under arbitrary events: all 17 invariants of batching.md section 12 but two.

11 (share) and 15 (cost) need runs of their own: `test_device_share.py` and `tests/unit/test_policy_effort.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.core_requests import make_request
from support.twins import admit, cost_of, shape_of

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.device import Device
from batchserve.core.limits import Limits
from batchserve.core.policy import Decision, Policy
from batchserve.core.ticket import Entry, EntryState, Outcome, Ticket
from batchserve.errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    QueueFull,
    StandingQueue,
    TargetMissed,
)


@dataclass(frozen=True)
class Arrival:
    rows: int
    width: int
    timeout_s: float | None
    priority: int
    age_s: float
    client: str


ARRIVALS = st.builds(
    Arrival,
    rows=st.one_of(st.just(1), st.integers(1, 3), st.integers(1, 20)),
    width=st.sampled_from([4, 4, 4, 4, 5]),
    timeout_s=st.sampled_from([None, None, None, 0.0001, 0.02, 1.0]),
    priority=st.integers(0, 3),
    age_s=st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.6]),
    client=st.sampled_from(["", "a", "b"]),
)
CURVES = st.sampled_from([(), ((1, 0.001), (8, 0.002)), ((1, 0.02), (4, 0.021)), ((2, 0.004), (4, 0.005), (8, 0.03))])
LIMITS = st.builds(
    Limits,
    max_batch_size=st.sampled_from([0, 1, 2, 4, 8]),
    timeout_s=st.sampled_from([0.5, 5.0]),
    max_queue_size=st.sampled_from([1, 10, 30, 100]),
    allow_timeout_override=st.booleans(),
    max_queue_delay_s=st.sampled_from([None, None, None, 0.0, 0.01]),
    priority_levels=st.integers(1, 2),
    split_large=st.booleans(),
    isolate_failures=st.booleans(),
    slots=st.integers(1, 2),
    latency_target_s=st.sampled_from([None, 0.01, 0.05, 0.3]),
    shed=st.booleans(),
    preferred_batch_sizes=st.sampled_from([(), (), (2,), (1, 2)]),
    weight=st.sampled_from([1.0, 1.0, 3.0]),
    run_timeout_s=st.just(1e9),
    is_fair=st.booleans(),
)


@dataclass(eq=False)
class Model:
    """One model, its twin that must do the same, and what has become of its requests."""

    policy: Policy
    twin: Policy
    tickets: list[Ticket] = field(default_factory=list)
    twins: list[Ticket] = field(default_factory=list)
    running: list[tuple[Batch, Batch]] = field(default_factory=list)
    reported: set[int] = field(default_factory=set)
    drain_until: float | None = None
    decision: Decision = field(default_factory=Decision)

    def queued(self) -> list[Entry]:
        alive = [ticket for ticket in self.tickets if ticket.outcome is None]
        return [entry for ticket in alive for entry in ticket.entries if entry.state is EntryState.QUEUED]

    def note_ended(self, ended: list[Ticket]) -> None:
        for ticket in ended:
            index = next(index for index, known in enumerate(self.tickets) if known is ticket)
            assert index not in self.reported, "1: ended twice"
            self.reported.add(index)


def order_of(entry: Entry) -> tuple[int, float, int]:
    ticket = entry.ticket
    return ticket.level, ticket.deadline_s if ticket.tag is None else ticket.tag, entry.number


class DeviceMachine(RuleBasedStateMachine):
    """One to three models on one device, and a twin of it all."""

    @initialize(
        limits=st.lists(st.tuples(LIMITS, CURVES), min_size=1, max_size=3),
        slots=st.integers(1, 3),
        drain_after=st.integers(0, 80),
    )
    def begin(self, limits: list[tuple[Limits, tuple[tuple[int, float], ...]]], slots: int, drain_after: int) -> None:
        self.now = 100.0
        self.drain_after = drain_after
        self.device, self.twin = Device(slots), Device(slots)
        self.models: list[Model] = []
        for number, (one, points) in enumerate(limits):
            policies = [
                Policy(f"m{number}", one, CostModel(points, one.horizon_s), device=device)
                for device in (self.device, self.twin)
            ]
            self.models.append(Model(*policies))

    # --- events ---------------------------------------------------------------------------------------------------

    @rule(data=st.data(), volley=st.lists(ARRIVALS, min_size=1, max_size=8))
    def arrive(self, data: st.DataObject, volley: list[Arrival]) -> None:
        """Some requests in one turn of the loop, and then the decision."""
        model = self.pick(data)
        for arrival in volley:
            self.arrive_one(model, arrival)
        self.settle()

    @rule(data=st.data(), gap_s=st.sampled_from([0.00002, 0.0003, 0.002]), count=st.integers(5, 40))
    def stream(self, data: st.DataObject, gap_s: float, count: int) -> None:
        """Single requests at even gaps: rate, gaps and standing queues come from this."""
        model = self.pick(data)
        for _ in range(count):
            self.now += gap_s
            self.arrive_one(model, Arrival(1, 4, None, 0, 0.0, "a"))
            self.settle()

    def arrive_one(self, model: Model, arrival: Arrival) -> None:
        policy, limits = model.policy, model.policy.limits
        requests = [
            make_request(
                arrival.rows,
                width=arrival.width,
                arrival_s=self.now - arrival.age_s,
                timeout_s=arrival.timeout_s,
                priority=arrival.priority,
                is_batching=limits.max_batch_size > 0,
            )
            for _ in range(2)
        ]
        for request in requests:
            request.client = arrival.client
        rows = requests[0].rows
        is_idle = not policy.queue.entries and len(model.running) < limits.slots and self.free() > 0
        was_backlogged = policy.is_backlogged
        waiting = policy.queue.rows
        ticket, refusal = admit(policy, requests[0], self.now)
        twin, twin_refusal = admit(model.twin, requests[1], self.now)
        assert refusal is twin_refusal, "14: the same events gave other answers"
        if ticket is not None and twin is not None:
            model.tickets.append(ticket)
            model.twins.append(twin)
            if not was_backlogged:
                lag_s = self.device.virtual_s - policy.virtual_s
                assert lag_s <= policy.charged_s + 1e-12, "12: credit for idling"
        limit_s = limits.timeout_s
        if limits.shed and limits.latency_target_s is not None:
            limit_s = min(limit_s, limits.latency_target_s)
        if arrival.timeout_s is not None and limits.allow_timeout_override:
            limit_s = min(limit_s, arrival.timeout_s)
        fits = rows <= limits.run_rows or (limits.split_large and rows <= limits.max_queue_size)
        if model.drain_until is not None:
            assert refusal is Draining
        elif not fits:
            assert refusal is InvalidRequest
        elif limit_s <= arrival.age_s:
            assert refusal is DeadlineExceeded
        elif is_idle:
            assert refusal is None, "7: an idle slot never refuses"
        elif waiting + rows > limits.max_queue_size:
            assert refusal is QueueFull
        elif refusal is not None:
            may_shed = limits.shed and limits.latency_target_s is not None
            allowed = ([TargetMissed, StandingQueue] if may_shed else []) + ([QueueFull] if limits.is_fair else [])
            assert refusal in allowed, f"refused for no reason: {refusal}"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if not model.tickets:
            return
        index = data.draw(st.integers(0, len(model.tickets) - 1))
        had_ended = model.tickets[index].outcome is not None
        model.policy.cancel(model.tickets[index])
        model.twin.cancel(model.twins[index])
        if not had_ended:
            assert model.tickets[index].outcome is Outcome.CANCELLED
            model.reported.add(index)
        assert all(entry.state is not EntryState.QUEUED for entry in model.tickets[index].entries)
        self.settle()

    @rule(
        data=st.data(),
        how=st.sampled_from(["ok", "ok", "ok", "fails", "no memory"]),
        passed_s=st.sampled_from([0.0, 0.0005, 0.01, 0.3]),
        factor=st.sampled_from([None, 0.5, 1.0, 1.0, 1.1, 3.0]),
    )
    @precondition(lambda self: any(model.running for model in self.models))
    def finish(self, data: st.DataObject, how: str, passed_s: float, factor: float | None) -> None:
        self.now += passed_s
        model = data.draw(st.sampled_from([model for model in self.models if model.running]))
        batch, twin = model.running.pop(data.draw(st.integers(0, len(model.running) - 1)))
        took_s = None if factor is None else factor * batch.predicted_s
        ok, no_memory = how == "ok", how == "no memory"
        ended = model.policy.finish(batch, self.now, ok=ok, took_s=took_s, out_of_memory=no_memory)
        twins = model.twin.finish(twin, self.now, ok=ok, took_s=took_s, out_of_memory=no_memory)
        assert [t.outcome for t in ended] == [t.outcome for t in twins]
        if ok:
            assert all(ticket.outcome is Outcome.COMPLETED for ticket in ended)
        elif model.policy.limits.isolate_failures and len(batch.entries) > 1:
            assert not ended, "nobody fails before it was run alone"
        else:
            assert all(ticket.outcome is Outcome.FAILED for ticket in ended)
        model.note_ended(ended)
        self.settle()

    @rule(passed_s=st.sampled_from([0.0, 0.00001, 0.005, 0.1, 0.6, 70.0]))
    def tick(self, passed_s: float) -> None:
        self.now += passed_s
        self.settle()

    @rule()
    @precondition(lambda self: any(model.decision.wake_s is not None for model in self.models))
    def wake(self) -> None:
        moments = [model.decision.wake_s for model in self.models if model.decision.wake_s is not None]
        self.now = max(self.now, min(moments))
        self.settle()
        moments = [model.decision.wake_s for model in self.models if model.decision.wake_s is not None]
        assert all(moment > self.now for moment in moments), "a wake-up that changes nothing"

    @rule(
        data=st.data(),
        target_s=st.sampled_from([None, 0.01, 0.1]),
        delay_s=st.sampled_from([None, 0.0, 0.005]),
        weight=st.sampled_from([1.0, 2.0]),
        shed=st.booleans(),
    )
    def reconfigure(
        self, data: st.DataObject, target_s: float | None, delay_s: float | None, weight: float, shed: bool
    ) -> None:
        model = self.pick(data)
        limits = replace(
            model.policy.limits, latency_target_s=target_s, max_queue_delay_s=delay_s, weight=weight, shed=shed
        )
        model.policy.reconfigure(limits)
        model.twin.reconfigure(limits)
        self.settle()

    @rule(data=st.data(), timeout_s=st.sampled_from([0.0, 0.2, 3.0]))
    @precondition(lambda self: sum(len(model.tickets) for model in self.models) > self.drain_after)
    def drain(self, data: st.DataObject, timeout_s: float) -> None:
        self.drain_one(self.pick(data), timeout_s)
        self.settle()

    def drain_one(self, model: Model, timeout_s: float) -> None:
        model.drain_until = self.now + timeout_s
        model.policy.drain(model.drain_until)
        model.twin.drain(model.drain_until)

    def pick(self, data: st.DataObject) -> Model:
        return self.models[data.draw(st.integers(0, len(self.models) - 1))]

    def free(self) -> int:
        return self.device.slots - sum(len(model.running) for model in self.models)

    # --- what must hold -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take the decision, hold it against the rules, and start its batches."""
        queued = {id(model): model.queued() for model in self.models}
        decisions, twins = self.device.decide(self.now), self.twin.decide(self.now)
        assert [policy for policy, _ in decisions] == [model.policy for model in self.models]
        for model, (_, decision), (_, twin) in zip(self.models, decisions, twins, strict=True):
            assert shape_of(decision) == shape_of(twin), "14: the same events gave other actions"
            model.decision = decision
            model.note_ended(decision.ended)
            for ticket in decision.ended:
                self.check_ended(model, ticket)
            waiting = [entry for entry in queued[id(model)] if entry.ticket.outcome is None]
            for batch, double in zip(decision.batches, twin.batches, strict=True):
                self.check_batch(model, batch, waiting)
                waiting = [entry for entry in waiting if entry not in batch.entries]
                model.running.append((batch, double))
        assert self.free() >= 0, "3: more batches than the device has slots"
        for model in self.models:
            self.check_progress(model)

    def check_ended(self, model: Model, ticket: Ticket) -> None:
        assert ticket.error is not None
        assert all(entry.state is not EntryState.QUEUED for entry in ticket.entries)
        if ticket.outcome is Outcome.EXPIRED:
            is_hopeless = self.now + cost_of(model.policy, model.twin, ticket.request.key).mean(1) > ticket.deadline_s
            holds_others_down = any(
                batch.entries[0].ticket.request.key == ticket.request.key for batch in model.decision.batches
            )
            assert is_hopeless or holds_others_down, "10: expired without need"
        elif ticket.outcome is Outcome.REFUSED:
            assert model.drain_until is not None
            assert model.drain_until <= self.now
        else:
            assert ticket.outcome is Outcome.FAILED  # a repeated run it has no time left for
            assert ticket.deadline_s <= self.now

    def check_batch(self, model: Model, batch: Batch, waiting: list[Entry]) -> None:
        limits = model.policy.limits
        assert 1 <= batch.rows <= limits.run_rows, "3"
        assert batch.rows == sum(entry.rows for entry in batch.entries)
        assert len({entry.ticket.request.key for entry in batch.entries}) == 1, "3: two shapes"
        assert 0 <= batch.slot < limits.slots
        assert all(batch.slot != other.slot for other, _ in model.running)
        assert math.isfinite(batch.predicted_s)
        assert batch.held_s >= 0
        for entry in batch.entries:
            assert entry.ticket.outcome is None or entry.is_part, "8: no run for who has ended"
            assert entry.ticket.deadline_s > self.now, "8: no dead work"
            assert not any(entry in other.entries for other, _ in model.running), "3: in two batches"
        if batch.reason == "isolate":
            return
        key = batch.entries[0].ticket.request.key
        mine = sorted((entry for entry in waiting if entry.ticket.request.key == key), key=order_of)
        assert mine[0] in batch.entries, "9: the head is in every batch of its key"
        preferred = limits.preferred_batch_sizes
        size = batch.rows if batch.reason == "deadline" or preferred else model.policy.sizing.useful
        for position, entry in enumerate(mine):
            if entry not in batch.entries and position <= 16:
                before = sum(e.rows for e in mine[:position] if e in batch.entries)
                assert entry.rows > size - before, "9 and 16: passed over although it fitted"

    def check_progress(self, model: Model) -> None:
        policy, limits, wake_s = model.policy, model.policy.limits, model.decision.wake_s
        entries = policy.queue.everything()
        if entries:
            assert wake_s is not None, "4: nobody would expire what waits"
            assert wake_s <= min(entry.ticket.deadline_s for entry in entries)
        if not entries or self.free() == 0 or len(model.running) == limits.slots:
            return
        # A slot that it may use is idle, and something waits: a hold, and a bounded one.
        assert limits.max_queue_delay_s != 0, "5: a slot is idle while work waits"
        assert model.drain_until is None, "6: held while draining"
        assert wake_s is not None
        for shape in policy.queue.waiting():
            assert shape.rows < policy.sizing.useful, "6: a full batch is held"
            head = min((e for e in entries if e.ticket.request.key == shape.key), key=order_of)
            bound = head.ticket.deadline_s - cost_of(model.policy, model.twin, shape.key).hi(shape.rows + 1)
            if limits.max_queue_delay_s is not None:
                bound = min(bound, head.ticket.request.arrival_s + limits.max_queue_delay_s)
            assert wake_s <= bound, "6: held longer than it may be"
            assert shape.held_since_s is not None, "6: a hold that nobody counts"

    @invariant()
    def conservation(self) -> None:
        for model in getattr(self, "models", ()):
            policy, counters = model.policy, model.policy.counters
            assert counters.received == counters.ended + policy.queued_requests + policy.running_requests, "2"
            alive = [ticket for ticket in model.tickets if ticket.outcome is None]
            assert len(alive) == policy.queued_requests + policy.running_requests, "2"
            assert len(model.reported) == len(model.tickets) - len(alive), "1: ended, and nobody was told"
            queued = model.queued()
            assert policy.queue.rows == sum(entry.rows for entry in queued)
            assert policy.queue.entries == len(queued)
            assert (policy.queue.size_bytes > 0) == bool(queued)

    @invariant()
    def estimates(self) -> None:
        for model in getattr(self, "models", ()):
            sizing, cost = model.policy.sizing, model.policy.cost
            means = [cost.mean(rows) for rows in range(1, 10)]
            assert all(math.isfinite(mean) and mean > 0 for mean in means), "13"
            assert means == sorted(means), "13: more rows are cheaper"
            assert 1.02 <= cost.q <= 2, "13"
            sizes = [1, sizing.need, sizing.planned, sizing.sustain, sizing.useful, model.policy.limits.run_rows]
            assert sizes == sorted(sizes), "13"

    def teardown(self) -> None:
        """17: the core is empty at the drain's timeout, once the batches that run then are back."""
        models = getattr(self, "models", [])
        for model in models:
            self.drain_one(model, 1.0)
        if not models:
            return
        self.settle()
        ends_s = max(model.drain_until for model in models)
        while any(model.running for model in models) and self.now < ends_s:
            self.come_back(next(model for model in models if model.running), ok=True, passed_s=0.01)
        self.now = max(self.now, ends_s)
        self.settle()
        while any(model.running for model in models):
            self.come_back(next(model for model in models if model.running), ok=False, passed_s=0.0)
        for model in models:
            assert model.policy.is_empty, "17"
            assert model.policy.counters.received == model.policy.counters.ended, "2"
            assert model.decision.wake_s is None
            assert self.device.free == self.device.slots

    def come_back(self, model: Model, *, ok: bool, passed_s: float) -> None:
        self.now += passed_s
        batch, twin = model.running.pop(0)
        model.note_ended(model.policy.finish(batch, self.now, ok=ok))
        model.twin.finish(twin, self.now, ok=ok)
        self.settle()


DeviceMachine.TestCase.settings = settings(settings.default, stateful_step_count=60)
TestDevice = DeviceMachine.TestCase
