"""The core with slots on several devices under arbitrary events: as on one, but for what slower ones do."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import initialize
from property.test_policy_machine import CURVES, LIMITS, PolicyMachine
from support.twins import cost_of

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.device import Device
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy
from batchserve.core.slower import MARGIN
from batchserve.core.speeds import Speeds
from batchserve.core.ticket import Entry

FACTORS = st.lists(st.sampled_from([1.02, 2.0, 4.0, 50.0]), min_size=0, max_size=2)


class SeveralDevicesMachine(PolicyMachine):
    """One policy on several devices, and its twin."""

    @initialize(limits=LIMITS, points=CURVES, drain_after=st.integers(0, 60), factors=FACTORS)
    def begin(
        self, limits: Limits, points: tuple[tuple[int, float], ...], drain_after: int, factors: list[float]
    ) -> None:
        # Who finds only a slower slot idle may have to wait, so the room in the queue counts for him.
        limits = replace(limits, max_queue_size=max(30, limits.max_queue_size))
        super().begin(limits, points, drain_after)
        self.speeds = Speeds(1 + len(factors), (1.0, *factors))
        self.policy, self.twin = (
            Policy("m", limits, CostModel(points, limits.timeout_s), Device(limits.slots), speeds)
            for speeds in (self.speeds, Speeds(1 + len(factors), (1.0, *factors)))
        )

    def seconds_of(self, rows: int, slot: int, key: object) -> float:
        """Upper value by which a slower slot takes something."""
        cost = cost_of(self.policy, self.twin, key)  # type: ignore[arg-type]
        return self.speeds.of(slot) * (1 + MARGIN * (cost.q - 1)) * cost.mean(rows)

    def check_batch(self, batch: Batch, waiting: list[Entry]) -> None:
        if self.speeds.of(batch.slot) == 1.0 or batch.reason == "isolate":
            super().check_batch(batch, waiting)
            return
        assert 1 <= batch.rows <= self.limits.run_rows
        assert len({entry.ticket.request.key for entry in batch.entries}) == 1
        assert all(batch.slot != other.slot for other, _ in self.running)
        end_s = self.now + self.seconds_of(batch.rows, batch.slot, batch.entries[0].ticket.request.key)
        for entry in batch.entries:
            assert entry.ticket.outcome is None, "no run for who has ended"
            assert entry.ticket.deadline_s >= end_s, "taken by a slower device, where it may well be late"
            assert not any(entry in other.entries for other, _ in self.running), "in two batches"

    def check_progress(self) -> None:
        busy = {batch.slot for batch, _ in self.running}
        idle = [slot for slot in range(self.limits.slots) if slot not in busy]
        if not idle or not self.policy.queue.entries or any(self.speeds.of(slot) == 1.0 for slot in idle):
            super().check_progress()
            return
        assert self.decision.wake_s is not None, "nobody would expire what waits"
        assert self.decision.wake_s <= min(entry.ticket.deadline_s for entry in self.policy.queue.everything())
        quickest = min(idle, key=self.speeds.of)
        if self.limits.max_queue_delay_s == 0 or self.drain_until is not None:
            for entry in self.policy.queue.everything():
                end_s = self.now + self.seconds_of(entry.rows, quickest, entry.ticket.request.key)
                assert entry.ticket.deadline_s < end_s, "a slower slot is idle although it would be in time"


SeveralDevicesMachine.TestCase.settings = settings(settings.default, stateful_step_count=60)
TestSeveralDevices = SeveralDevicesMachine.TestCase
