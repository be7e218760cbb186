"""The slots of one model: which are idle, what runs on the others, and when each will be free."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.batch import Batch
    from batchserve.core.device import Device

__all__ = ["Slots"]

STUCK_ESTIMATES = 10
"""A run that takes so many times its upper estimate, and `run_timeout`, is stuck (batching.md section 10)."""


class Slots:
    """The instances of one model, on a device that others may use too.

    Invariant: every slot is idle or has one running batch, and the device's count of free slots says the same. One
    thread.

    Args:
        count: How many.
        run_timeout_s: No run is stuck sooner.
        device: Whose slots they are.

    Attributes:
        stuck_at_s: When the next of the runs will have taken too long, None if none is under way.
    """

    def __init__(self, count: int, run_timeout_s: float, device: Device) -> None:
        self.count = count
        self.stuck_at_s: float | None = None
        self._run_timeout_s = run_timeout_s
        self._device = device
        self._idle = list(range(count))
        self._running: dict[int, Batch] = {}

    @property
    def idle(self) -> int:
        """How many are idle, as far as the model itself is concerned."""
        return len(self._idle)

    @property
    def can_start(self) -> bool:
        """True if a batch can start now, on the model's own slots and on the device's."""
        return bool(self._idle) and self._device.free > 0

    @property
    def is_settled(self) -> bool:
        """True if nothing runs but what was given up as stuck."""
        return not self._running or all(batch.is_stuck for batch in self._running.values())

    @property
    def is_stuck(self) -> bool:
        """True while a slot is out of service because its run does not come back."""
        return any(batch.is_stuck for batch in self._running.values())

    takes_anybody = can_start
    """True if whoever comes now is let in unasked, since an idle slot never refuses (batching.md section 6)."""

    def next_index(self) -> int:
        """Take the idle slot that the next batch is to run on."""
        return heapq.heappop(self._idle)

    def start(self, batch: Batch) -> None:
        """Note that a batch runs on the slot that was taken for it."""
        self._running[batch.slot] = batch
        self._device.free -= 1
        stuck_at_s = self._stuck_at(batch)
        if self.stuck_at_s is None or stuck_at_s < self.stuck_at_s:
            self.stuck_at_s = stuck_at_s

    def finish(self, batch: Batch) -> None:
        """Take a batch's slot back."""
        del self._running[batch.slot]
        heapq.heappush(self._idle, batch.slot)
        self._device.free += 1
        self._find_stuck_at()

    def give_up(self, now: float) -> list[Batch]:
        """Declare the runs stuck that have taken too long; their slots stay out of service until they come back."""
        stuck = [run for run in self._running.values() if not run.is_stuck and now >= self._stuck_at(run)]
        for batch in stuck:
            batch.is_stuck = True
        self._find_stuck_at()
        return stuck

    def busy_until(self, now: float) -> list[float]:
        """Predict when each running batch will have ended."""
        return [max(now, run.cut_s + run.predicted_s) for run in self._running.values() if not run.is_stuck]

    def first_run_s(self, now: float) -> float:
        """Return what the whole run was expected to take that will end first; 0 if a slot is idle, or all are stuck."""
        if self._idle:
            return 0.0
        running = [run for run in self._running.values() if not run.is_stuck]
        return min([(max(now, run.cut_s + run.predicted_s), run.predicted_s) for run in running], default=(now, 0.0))[1]

    def least_run_s(self) -> float:
        """Return the least that `first_run_s` can become until a run starts or ends."""
        if self._idle:
            return 0.0
        return min([run.predicted_s for run in self._running.values() if not run.is_stuck], default=0.0)

    def free_times(self, now: float) -> list[float]:
        """Predict when each slot can take a batch: moments, ascending, `now` for idle ones; never empty."""
        own = [now] * len(self._idle) + sorted(self.busy_until(now))
        if not own:
            return [now + self._run_timeout_s]
        if not self._device.is_contended:
            return own
        lanes = self._device.free_times(now)
        return [max(pair) for pair in zip(own, lanes, strict=False)] or own

    def _find_stuck_at(self) -> None:
        running = self._running
        if running:
            running_s = [self._stuck_at(batch) for batch in running.values() if not batch.is_stuck]
            self.stuck_at_s = min(running_s, default=None)
        else:
            self.stuck_at_s = None

    def _stuck_at(self, batch: Batch) -> float:
        return batch.cut_s + max(STUCK_ESTIMATES * batch.upper_s, self._run_timeout_s)
