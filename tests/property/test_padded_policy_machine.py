"""A model that pads, under arbitrary events: limits, order and counts hold whatever the lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.core_requests import make_request

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.core.policy import Policy
from batchserve.core.ticket import Entry, EntryState, Ticket
from batchserve.errors import RequestError

RULES = st.builds(
    PadRule,
    axes=st.just(((1,),)),
    values=st.just((0,)),
    mask=st.just(0),
    outputs=st.just(((1,),)),
    multiple=st.sampled_from([1, 8]),
    max_tokens=st.sampled_from([None, 64, 400]),
)
CURVES = st.sampled_from(
    [
        (),
        tuple((2**n, 0.004 + 2e-6 * 2**n) for n in range(11)),
        tuple((2**n, 1e-4 + 1e-5 * 2**n) for n in range(11)),
    ]
)


@dataclass(frozen=True)
class Arrival:
    length: int
    rows: int
    timeout_s: float | None
    priority: int


ARRIVALS = st.builds(
    Arrival,
    length=st.one_of(st.integers(1, 20), st.integers(0, 300)),
    rows=st.sampled_from([1, 1, 1, 2, 5]),
    timeout_s=st.sampled_from([None, None, 0.003, 0.02, 0.2]),
    priority=st.integers(0, 3),
)


class PaddedMachine(RuleBasedStateMachine):
    """One policy that pads."""

    @initialize(
        rule=RULES,
        points=CURVES,
        size=st.sampled_from([1, 4, 40]),
        levels=st.integers(1, 3),
        delay_s=st.sampled_from([None, 0.0, 0.01]),
        slots=st.integers(1, 2),
        is_fair=st.booleans(),
    )
    def begin(
        self,
        rule: PadRule,
        points: tuple[tuple[int, float], ...],
        size: int,
        levels: int,
        delay_s: float | None,
        slots: int,
        is_fair: bool,
    ) -> None:
        self.rule = rule
        self.limits = Limits(
            max_batch_size=size,
            timeout_s=1.0,
            max_queue_size=200,
            max_queue_delay_s=delay_s,
            priority_levels=levels,
            slots=slots,
            is_fair=is_fair,
            latency_target_s=0.1,
            shed=True,
            pad=rule,
        )
        self.policy = Policy("m", self.limits, CostModel(points, 0.1))
        self.now = 50.0
        self.tickets: list[Ticket] = []
        self.running: list[Batch] = []

    @rule(volley=st.lists(ARRIVALS, min_size=1, max_size=12), client=st.sampled_from(["a", "b"]))
    def arrive(self, volley: list[Arrival], client: str) -> None:
        for arrival in volley:
            request = make_request(
                arrival.rows,
                width=arrival.length,
                arrival_s=self.now,
                timeout_s=arrival.timeout_s,
                priority=min(arrival.priority, self.limits.priority_levels),
            )
            key = ((-1,),) if arrival.length else ((0,),)
            request = replace(request, key=key, length=arrival.length, client=client)
            try:
                self.tickets.append(self.policy.arrive(request, self.now))
            except RequestError:
                continue
        self.settle()

    @rule(data=st.data(), ok=st.booleans(), took_s=st.sampled_from([1e-4, 0.004, 0.03]))
    @precondition(lambda self: self.running)
    def finish(self, data: st.DataObject, ok: bool, took_s: float) -> None:
        self.now += took_s
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.policy.finish(batch, self.now, ok=ok, took_s=took_s)
        self.settle()

    @rule(data=st.data())
    @precondition(lambda self: self.tickets)
    def cancel(self, data: st.DataObject) -> None:
        self.policy.cancel(data.draw(st.sampled_from(self.tickets)))
        self.settle()

    @rule(passed_s=st.sampled_from([1e-5, 0.002, 0.05]))
    def tick(self, passed_s: float) -> None:
        self.now += passed_s
        self.settle()

    def settle(self) -> None:
        waiting = self.queued()
        decision = self.policy.decide(self.now)
        for batch in decision.batches:
            self.check(batch, waiting)
            waiting = [entry for entry in waiting if entry not in batch.entries]
            self.running.append(batch)
        assert len(self.running) <= self.limits.slots
        if self.policy.queue.entries and len(self.running) < self.limits.slots:
            assert self.limits.max_queue_delay_s != 0, "a slot is idle while work waits"
            assert decision.wake_s is not None, "a lost wake-up"
            assert decision.wake_s > self.now

    def check(self, batch: Batch, waiting: list[Entry]) -> None:
        assert len({entry.ticket.request.key for entry in batch.entries}) == 1
        assert len({id(entry) for entry in batch.entries}) == len(batch.entries)
        assert batch.rows <= self.limits.run_rows
        if batch.reason != "isolate" and len(batch.entries) > 1 and self.rule.max_tokens is not None:
            assert batch.tokens <= self.rule.max_tokens
        assert batch.length >= max(entry.length for entry in batch.entries)
        assert batch.predicted_s > 0
        for entry in batch.entries:
            assert entry.ticket.outcome is None or entry.is_part, "no run for who has ended"
            assert entry.ticket.deadline_s > self.now, "no dead work"
            assert not any(entry in other.entries for other in self.running), "in two batches"
        if batch.reason == "isolate":
            return
        left = [entry for entry in waiting if entry not in batch.entries and entry.state is EntryState.QUEUED]
        key, worst = batch.entries[0].ticket.request.key, max(entry.ticket.level for entry in batch.entries)
        best = min(entry.ticket.level for entry in batch.entries)
        if worst > best:
            assert not [e for e in left if e.ticket.request.key == key and e.ticket.level == best], "priority"

    def queued(self) -> list[Entry]:
        return [
            entry
            for ticket in self.tickets
            if ticket.outcome is None
            for entry in ticket.entries
            if entry.state is EntryState.QUEUED
        ]

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "policy"):
            return
        policy, queued = self.policy, self.queued()
        counters = policy.counters
        assert counters.received == counters.ended + policy.queued_requests + policy.running_requests
        assert policy.queue.rows == sum(entry.rows for entry in queued)
        assert policy.queue.entries == len(queued)
        tokens = sum(shape.tokens for shape in policy.queue.waiting())
        assert tokens == sum(entry.rows * entry.length for entry in queued)
        assert {id(entry) for entry in policy.queue.everything()} == {id(entry) for entry in queued}

    def teardown(self) -> None:
        """Everything ends once nothing new comes."""
        if not hasattr(self, "policy"):
            return
        self.policy.drain(self.now + 100)
        self.settle()
        for _ in range(10_000):
            if not self.running:
                break
            self.now += 1e-4
            self.policy.finish(self.running.pop(0), self.now, ok=True, took_s=1e-4)
            self.settle()
        assert self.policy.is_empty


PaddedMachine.TestCase.settings = settings(settings.default, stateful_step_count=40)
TestPaddedPolicy = PaddedMachine.TestCase
