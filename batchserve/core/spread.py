"""The slots of a model on several devices, and what a slower one takes: nothing that would be late there.

All slots pull from one queue. The quickest idle one is asked first and takes what it would if it were alone. A slower
one takes the first requests in order that it would still answer in time; those before them wait for a quicker one.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from batchserve.core.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchserve.core.batch import Batch
    from batchserve.core.cost import CostModel
    from batchserve.core.device import Device
    from batchserve.core.speeds import Speeds
    from batchserve.core.ticket import Entry

__all__ = ["SlotAhead", "SpreadSlots", "in_time", "largest_in_time"]


class SlotAhead(NamedTuple):
    """When a slot can take a batch, for predictions.

    Attributes:
        free_s: That moment.
        factor: What a batch takes there, as a multiple of the curve.
        run_s: What its running batch was expected to take; 0 if it is idle.
    """

    free_s: float
    factor: float
    run_s: float


class SpreadSlots(Slots):
    """The instances of one model on several devices; see `Slots`. No other model has slots of this device.

    Args:
        count: How many.
        run_timeout_s: No run is stuck sooner.
        device: Whose slots they are.
        speeds: Which device each is on, and how quick that is.
    """

    def __init__(self, count: int, run_timeout_s: float, device: Device, speeds: Speeds) -> None:
        super().__init__(count, run_timeout_s, device)
        self.speeds = speeds

    @property
    def next_factor(self) -> float:
        """What a batch takes on the slot that comes next, as a multiple of the curve. One must be idle."""
        return self.speeds.of(self._next())

    @property
    def takes_anybody(self) -> bool:
        """True if one of the quickest slots is idle: who comes may still be late on another."""
        return self.can_start and self.next_factor == 1.0

    @property
    def quickest(self) -> int:
        """How many slots are as quick as the quickest."""
        return sum(self.speeds.of(slot) == 1.0 for slot in range(self.count))

    def next_index(self) -> int:
        """Take the quickest idle slot; of equally quick ones one on the device that has least to do."""
        slot = self._next()
        self._idle.remove(slot)
        heapq.heapify(self._idle)
        return slot

    def _next(self) -> int:
        speeds = self.speeds
        busy = [0] * speeds.devices
        for slot in self._running:
            busy[speeds.device_of(slot)] += 1
        return min(self._idle, key=lambda slot: (speeds.of(slot), busy[speeds.device_of(slot)], slot))

    def on_quickest(self, batch: Batch, took_s: float, cost: CostModel) -> float | None:
        """Take in what a run took, and return what it would have taken on the quickest device.

        Args:
            batch: That ran.
            took_s: Seconds of its run.
            cost: What runs cost there, as it is known without this one.

        Returns:
            None if nothing follows for the quickest device.
        """
        if cost.is_empty:
            return None if self.speeds.device_of(batch.slot) else took_s
        factor = self.speeds.observe(batch.slot, took_s / cost.run(max(1, batch.tokens)))
        return took_s / factor if factor else None

    def ahead(self, now: float) -> list[SlotAhead]:
        """Predict when each slot that is in service can take a batch; never empty."""
        of = self.speeds.of
        found = [SlotAhead(now, of(slot), 0.0) for slot in self._idle]
        for slot, run in self._running.items():
            if not run.is_stuck:
                found.append(SlotAhead(max(now, run.cut_s + run.predicted_s), of(slot), run.predicted_s))
        return found or [SlotAhead(now + self._run_timeout_s, 1.0, 0.0)]

    def capacity(self, cost: CostModel, useful: int, horizon_s: float) -> float:
        """Return the batches that can count on running at once, in slots of the quickest device.

        A slower one counts for the rows per second of the largest batch that it runs within the horizon.
        """
        best = useful / cost.mean(useful)
        total = 0.0
        for slot in range(self.count):
            factor = self.speeds.of(slot)
            rows = useful if factor == 1.0 else cost.largest_within(horizon_s / factor, useful)
            if rows:
                total += rows / cost.mean(rows) / factor / best
        return total

    def sooner_elsewhere(self, factor: float, here_s: float, seconds: float, deadline_s: float, now: float) -> float:
        """Say until when a batch should wait for a quicker slot that is at work.

        Args:
            factor: Of the slot that is idle.
            here_s: When it would end there.
            seconds: What it takes on the quickest slot.
            deadline_s: Of its head.
            now: The moment.

        Returns:
            The moment at which a running batch that is worth waiting for should be over at the latest; 0 if there is
            none, or if the head might be late then.
        """
        until_s = 0.0
        for slot, run in self._running.items():
            own = self.speeds.of(slot)
            latest_s = run.cut_s + run.upper_s
            if own >= factor or run.is_stuck or latest_s <= now:
                continue
            end_s = max(now, run.cut_s + run.predicted_s) + own * seconds
            if end_s < here_s and latest_s + own * seconds <= deadline_s:
                until_s = max(until_s, latest_s) if until_s else latest_s
        return until_s

    def is_quicker_at_work(self, factor: float) -> bool:
        """Tell whether a batch runs on a quicker slot: then what cannot start here can count on that one."""
        return any(self.speeds.of(slot) < factor and not run.is_stuck for slot, run in self._running.items())


def largest_in_time(entries: Sequence[Entry], most: int, seconds_of: Callable[[int], float], now: float) -> int:
    """Find the most rows that could run together so that none of them is late; 0 if none can.

    Args:
        entries: What could be taken.
        most: Most rows of one run.
        seconds_of: An upper value of what a run of so many rows takes; rises with them.
        now: The moment.
    """
    order = sorted((entry.ticket.deadline_s, entry.rows) for entry in entries)
    deadlines = [deadline_s for deadline_s, _ in order]
    after = [*accumulate(rows for _, rows in reversed(order))][::-1]  # rows of an entry and all with later deadlines

    def is_possible(rows: int) -> bool:
        at = bisect_left(deadlines, now + seconds_of(rows))
        return at < len(after) and after[at] >= rows

    low, high = 0, min(most, after[0] if after else 0) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_possible(middle):
            low = middle
        else:
            high = middle
    return low


def in_time(entries: Sequence[Entry], rows: int, end_s: float) -> list[Entry]:
    """Choose the first entries in order that may end at `end_s`, up to so many rows."""
    chosen, left = [], rows
    for entry in entries:
        if entry.rows <= left and entry.ticket.deadline_s >= end_s:
            chosen.append(entry)
            left -= entry.rows
            if not left:
                break
    return chosen
