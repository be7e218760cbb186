"""The core under arbitrary events: invariants 1 to 5, 7 to 9, 14, 16 and 17 of batching.md section 12."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.core_requests import make_request
from support.twins import admit, cost_of, shape_of

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.limits import Limits
from batchserve.core.policy import Decision, Policy
from batchserve.core.request import Request
from batchserve.core.ticket import Entry, EntryState, Outcome, Ticket
from batchserve.errors import DeadlineExceeded, Draining, InvalidRequest, QueueFull


@dataclass(frozen=True)
class Arrival:
    rows: int
    width: int
    timeout_s: float | None
    priority: int
    age_s: float


ARRIVALS = st.builds(
    Arrival,
    rows=st.one_of(st.integers(1, 3), st.integers(1, 20)),
    width=st.sampled_from([4, 4, 4, 5, 6]),
    timeout_s=st.sampled_from([None, None, 0.0001, 0.02, 1.0, 50.0]),
    priority=st.integers(0, 5),
    age_s=st.sampled_from([0.0, 0.0, 0.001, 0.6]),
)
CURVES = st.sampled_from([(), ((1, 0.001), (8, 0.002)), ((1, 0.5),)])
LIMITS = st.builds(
    Limits,
    max_batch_size=st.sampled_from([0, 1, 2, 4, 8]),
    timeout_s=st.sampled_from([0.5, 5.0]),
    max_queue_size=st.sampled_from([1, 10, 30, 100]),
    allow_timeout_override=st.booleans(),
    max_queue_delay_s=st.sampled_from([None, 0.0, 0.01, 1.0]),
    priority_levels=st.integers(1, 3),
    split_large=st.booleans(),
    isolate_failures=st.booleans(),
    slots=st.integers(1, 3),
    run_timeout_s=st.just(1e9),
)


def order_of(entry: Entry) -> tuple[int, float, int]:
    return entry.ticket.level, entry.ticket.deadline_s, entry.number


class PolicyMachine(RuleBasedStateMachine):
    """One policy, and a twin that is fed the same events and must do the same (determinism)."""

    @initialize(limits=LIMITS, points=CURVES, drain_after=st.integers(0, 60))
    def begin(self, limits: Limits, points: tuple[tuple[int, float], ...], drain_after: int) -> None:
        self.drain_after = drain_after  # tickets: an early drain would leave the machine little to explore
        self.limits = limits
        self.curve = CostModel(points, limits.timeout_s)
        self.policy = Policy("m", limits, self.curve)
        self.twin = Policy("m", limits, CostModel(points, limits.timeout_s))
        self.now = 100.0
        self.tickets: list[Ticket] = []
        self.twins: list[Ticket] = []
        self.running: list[tuple[Batch, Batch]] = []
        self.reported: set[int] = set()
        self.drain_until: float | None = None
        self.decision = Decision()

    # --- events ---------------------------------------------------------------------------------------------------

    @rule(volley=st.lists(ARRIVALS, min_size=1, max_size=8))
    def arrive(self, volley: list[Arrival]) -> None:
        """Some requests in one turn of the loop, and then the decision."""
        for arrival in volley:
            self.arrive_one(arrival)
        self.settle()

    def arrive_one(self, arrival: Arrival) -> None:
        timeout_s, age_s = arrival.timeout_s, arrival.age_s

        def request() -> Request:
            return make_request(
                arrival.rows,
                width=arrival.width,
                arrival_s=self.now - age_s,
                timeout_s=timeout_s,
                priority=arrival.priority,
                is_batching=self.limits.max_batch_size > 0,
            )

        mine = request()
        was_idle = len(self.running) < self.limits.slots and not self.policy.queue.entries
        fits = mine.rows <= self.limits.run_rows or (
            self.limits.split_large and mine.rows <= self.limits.max_queue_size
        )
        limit_s = self.limits.timeout_s
        if timeout_s is not None and self.limits.allow_timeout_override:
            limit_s = min(limit_s, timeout_s)
        waiting = self.policy.queue.rows
        ticket, refusal = admit(self.policy, mine, self.now)
        twin, twin_refusal = admit(self.twin, request(), self.now)
        assert refusal is twin_refusal
        if ticket is not None and twin is not None:
            self.tickets.append(ticket)
            self.twins.append(twin)
        # Rules 1 to 5 of section 6, written down a second time.
        if self.drain_until is not None:
            assert refusal is Draining
        elif not fits:
            assert refusal is InvalidRequest
        elif limit_s <= age_s:
            assert refusal is DeadlineExceeded
        elif not was_idle and waiting + mine.rows > self.limits.max_queue_size:
            assert refusal is QueueFull
        else:
            assert refusal is None  # 7, idle never refuses, is the case was_idle of this

    @rule(data=st.data())
    @precondition(lambda self: self.tickets)
    def cancel(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        had_ended = self.tickets[index].outcome is not None
        self.policy.cancel(self.tickets[index])
        self.twin.cancel(self.twins[index])
        if not had_ended:
            assert self.tickets[index].outcome is Outcome.CANCELLED
            self.reported.add(index)
        assert all(entry.state is not EntryState.QUEUED for entry in self.tickets[index].entries)
        self.settle()

    @rule(data=st.data(), ok=st.booleans(), took_s=st.sampled_from([0.0, 0.0005, 0.3]))
    @precondition(lambda self: self.running)
    def finish(self, data: st.DataObject, ok: bool, took_s: float) -> None:
        self.now += took_s
        batch, twin = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        ended = self.policy.finish(batch, self.now, ok=ok)
        twins = self.twin.finish(twin, self.now, ok=ok)
        assert [t.outcome for t in ended] == [t.outcome for t in twins]
        if ok:
            assert all(ticket.outcome is Outcome.COMPLETED for ticket in ended)
        elif self.limits.isolate_failures and len(batch.entries) > 1:
            assert not ended, "nobody fails before it was run alone"
        else:
            assert all(ticket.outcome is Outcome.FAILED for ticket in ended)
        self.note_ended(ended)
        self.settle()

    @rule(passed_s=st.sampled_from([0.0, 0.00001, 0.005, 0.1, 0.6]))
    def tick(self, passed_s: float) -> None:
        self.now += passed_s
        self.settle()

    @rule()
    @precondition(lambda self: self.decision.wake_s is not None)
    def wake(self) -> None:
        self.now = max(self.now, self.decision.wake_s)
        self.settle()
        assert self.decision.wake_s is None or self.decision.wake_s > self.now, "a wake-up that changes nothing"

    @rule(timeout_s=st.sampled_from([0.0, 0.2, 3.0]))
    @precondition(lambda self: len(self.tickets) > self.drain_after)
    def drain(self, timeout_s: float) -> None:
        self.drain_until = self.now + timeout_s
        self.policy.drain(self.drain_until)
        self.twin.drain(self.drain_until)
        self.settle()

    # --- what must hold -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take the decision, hold it against the rules, and start its batches."""
        queued = [e for t in self.tickets if t.outcome is None for e in t.entries if e.state is EntryState.QUEUED]
        self.decision = self.policy.decide(self.now)
        twin = self.twin.decide(self.now)
        assert shape_of(self.decision) == shape_of(twin), "the same events gave other actions"
        self.note_ended(self.decision.ended)
        for ticket in self.decision.ended:
            self.check_ended(ticket)
        waiting = [entry for entry in queued if entry.ticket.outcome is None]
        for batch, double in zip(self.decision.batches, twin.batches, strict=True):
            self.check_batch(batch, waiting)
            waiting = [entry for entry in waiting if entry not in batch.entries]
            self.running.append((batch, double))
        self.check_progress()

    def check_ended(self, ticket: Ticket) -> None:
        assert ticket.error is not None
        # the whole ticket is gone, parts of it included
        assert all(entry.state is not EntryState.QUEUED for entry in ticket.entries)
        if ticket.outcome is Outcome.EXPIRED:
            is_hopeless = self.now + cost_of(self.policy, self.twin, ticket.request.key).mean(1) > ticket.deadline_s
            holds_others_down = bool(self.decision.batches)
            assert is_hopeless or holds_others_down, "expired without need"
        elif ticket.outcome is Outcome.REFUSED:
            assert self.drain_until is not None
            assert self.drain_until <= self.now
        else:
            assert ticket.outcome is Outcome.FAILED  # a repeated run it has no time left for
            assert ticket.deadline_s <= self.now

    def check_batch(self, batch: Batch, waiting: list[Entry]) -> None:
        size = self.limits.run_rows
        assert 1 <= batch.rows <= size
        assert batch.rows == sum(entry.rows for entry in batch.entries)
        assert len({entry.ticket.request.key for entry in batch.entries}) == 1
        assert 0 <= batch.slot < self.limits.slots
        assert all(batch.slot != other.slot for other, _ in self.running)
        for entry in batch.entries:
            assert entry.ticket.outcome is None, "no run for who has ended"
            assert entry.ticket.deadline_s > self.now, "no dead work"
            assert not any(entry in other.entries for other, _ in self.running), "in two batches"
        if batch.reason == "isolate":
            return
        if batch.reason == "deadline":
            size = batch.rows  # smaller, for its head would be late otherwise
        if batch.reason == "full":
            same = [e for e in waiting if e.ticket.request.key == batch.entries[0].ticket.request.key]
            assert batch.rows == size or len(same) > len(batch.entries)
        key = batch.entries[0].ticket.request.key
        first = min(waiting, key=order_of)
        if not self.limits.max_queue_delay_s and not self.decision.ended:  # who ended may have been the first
            assert first in batch.entries, "the first in queue order goes first, whatever its shape"
        mine = sorted((entry for entry in waiting if entry.ticket.request.key == key), key=order_of)
        assert mine[0] in batch.entries, "the head is in every batch of its key"
        for position, entry in enumerate(mine):
            if entry not in batch.entries and position <= 16:
                before = sum(e.rows for e in mine[:position] if e in batch.entries)
                assert entry.rows > size - before, "passed over although it fitted"

    def check_progress(self) -> None:
        deadlines = [entry.ticket.deadline_s for entry in self.policy.queue.everything()]
        if deadlines:  # expiry has a timer of its own, also while every slot is busy
            assert self.decision.wake_s is not None, "nobody would expire what waits"
            assert self.decision.wake_s <= min(deadlines)
        idle = self.limits.slots - len(self.running)
        if not idle or not self.policy.queue.entries:
            return
        assert self.limits.max_queue_delay_s != 0, "a slot is idle while work waits"
        assert self.drain_until is None, "held while draining"
        assert self.decision.wake_s is not None, "a lost wake-up"
        for shape in self.policy.queue.waiting():
            assert shape.rows < self.limits.run_rows, "a full batch is held"
            head = min(
                (e for lane in shape.lanes for _, _, e in lane.heap if e.state is EntryState.QUEUED), key=order_of
            )
            bound = head.ticket.deadline_s - cost_of(self.policy, self.twin, shape.key).hi(
                min(shape.rows + 1, self.limits.run_rows)
            )
            if self.limits.max_queue_delay_s is not None:
                bound = min(bound, head.ticket.request.arrival_s + self.limits.max_queue_delay_s)
            assert self.decision.wake_s <= bound, "held longer than it may be"

    def note_ended(self, ended: list[Ticket]) -> None:
        for ticket in ended:
            index = self.tickets.index(ticket)
            assert index not in self.reported, "ended twice"
            self.reported.add(index)

    @invariant()
    def conservation(self) -> None:
        if not hasattr(self, "policy"):
            return
        counters, policy = self.policy.counters, self.policy
        assert counters.received == counters.ended + policy.queued_requests + policy.running_requests
        open_tickets = [ticket for ticket in self.tickets if ticket.outcome is None]
        assert len(open_tickets) == policy.queued_requests + policy.running_requests
        assert len(self.reported) == len(self.tickets) - len(open_tickets)
        queued = [e for t in open_tickets for e in t.entries if e.state is EntryState.QUEUED]
        assert policy.queue.rows == sum(entry.rows for entry in queued)
        assert policy.queue.entries == len(queued)
        assert policy.queue.size_bytes >= 0
        if not policy.queue.entries:
            assert policy.queue.size_bytes == 0

    def teardown(self) -> None:
        """Drain ends: the core is empty at the timeout, once the batches that run then are back."""
        if not hasattr(self, "policy"):
            return
        self.drain(timeout_s=1.0)
        for _ in range(10_000):
            if not self.running or self.now >= self.drain_until:
                break
            batch, twin = self.running.pop(0)
            self.now += 0.01
            self.note_ended(self.policy.finish(batch, self.now, ok=True))
            self.twin.finish(twin, self.now, ok=True)
            self.settle()
        self.now = max(self.now, self.drain_until)
        self.settle()
        while self.running:
            batch, twin = self.running.pop(0)
            self.note_ended(self.policy.finish(batch, self.now, ok=False))
            self.twin.finish(twin, self.now, ok=False)
            self.settle()
        assert self.policy.is_empty
        assert self.policy.counters.received == self.policy.counters.ended
        assert self.decision.wake_s is None


PolicyMachine.TestCase.settings = settings(settings.default, stateful_step_count=60)
TestPolicy = PolicyMachine.TestCase
