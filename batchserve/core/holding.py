"""Hold or go: which shape's batch comes next, and whether it waits for more rows (batching.md section 7.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from batchserve.core.arrivals import MIN_GAPS, Gaps, Rate

if TYPE_CHECKING:
    from batchserve.core.cost import CostModel
    from batchserve.core.limits import Limits
    from batchserve.core.queue import Queue
    from batchserve.core.shape_queue import ShapeQueue
    from batchserve.core.sizing import Sizing
    from batchserve.core.slots import Slots

__all__ = ["Holder", "until_joined"]

MIN_HOLD_S = 20e-6
"""A hold that would end sooner is not begun."""

_BUSY = 0.3
"""Share of the slots' time that single rows would take, above which eager batches soon occupy them all."""
_EAGER_RUNS = 2
"""Eager batches are followed so many runs far. A size that nearly does its best says nothing instead: where time is
nearly a straight line of the rows it is large, though eager batches are short, and holds for its sake left slots idle
for a tenth to a fifth of the time under overload (simulated with 30 % noise, and seen on a real encoder)."""


class Holder:
    """Decides on holds, and remembers when the earliest of them ends. One thread.

    Args:
        queue: What waits.
        slots: Where it runs.
        sizing: The batch sizes in use.
        cost_of: Tells what runs of a shape cost.

    Attributes:
        until_s: When the earliest hold of the decision under way ends, None if nothing is held.
    """

    def __init__(self, queue: Queue, slots: Slots, sizing: Sizing, cost_of: Callable[[ShapeQueue], CostModel]) -> None:
        self.until_s: float | None = None
        self._queue = queue
        self._slots = slots
        self._sizing = sizing
        self._cost_of = cost_of

    def choose(self, limits: Limits, now: float, *, may_hold: bool) -> tuple[ShapeQueue, str] | None:
        """Pick the shape whose batch comes next, and the reason for its cut should it not be full.

        With the classic timer shapes that are still held are passed over; None if all are, or nothing waits.
        """
        first = self._queue.first()
        if first is None:
            return None
        if not limits.max_queue_delay_s or not may_hold:  # 0, or auto
            return first, "shape" if self._queue.has_other(first) else "idle"
        best: tuple[tuple[int, float, int], ShapeQueue, str] | None = None
        for shape in self._queue.waiting():
            until_s, reason = self._timer_end(shape, limits.max_queue_delay_s)
            if shape.rows < self._sizing.useful and until_s - now > MIN_HOLD_S:
                self._hold(shape, until_s, now)
                continue
            head = shape.head
            order = (head.ticket.level, head.ticket.deadline_s, head.number)
            if best is None or order < best[0]:
                best = (order, shape, reason)
        return None if best is None else best[1:]

    def is_held(
        self, shape: ShapeQueue, rows: int, rate: Rate, parallel: float, target_s: float | None, now: float
    ) -> bool:
        """Hold a part-filled batch that could start, if one of the two reasons says that it pays.

        Args:
            shape: Its shape.
            rows: Its rows, which are all that wait of the shape.
            rate: Of the model's arrivals.
            parallel: Batches that can count on running at once.
            target_s: The latency target, None for none.
            now: The moment.
        """
        if self._queue.has_other(shape):
            return False  # there is something else to run
        cost = self._cost_of(shape)
        wait_s: float | None = None
        if not self._protects_deadline(cost, rate, parallel, target_s, now):
            if self._slots.idle > 1 or shape.gaps.seen < MIN_GAPS:
                return False
            free_s = min([cost.mean(rows), *(moment - now for moment in self._slots.busy_until(now))])
            wait_s = until_joined(shape.gaps, cost, rows, free_s, now)
            if wait_s <= 0:
                return False
            if shape.held_since_s is None:
                shape.hold_end_s = now + free_s + cost.mean(1) - cost.mean(rows + 1)
        until_s = shape.head.ticket.deadline_s - cost.hi(rows + 1)
        if wait_s is not None:
            until_s = min(until_s, now + wait_s, shape.hold_end_s)
        if until_s - now <= MIN_HOLD_S:
            return False
        self._hold(shape, until_s, now)
        return True

    def _protects_deadline(
        self, cost: CostModel, rate: Rate, parallel: float, target_s: float | None, now: float
    ) -> bool:
        """Tell whether starting a small batch now would soon leave no slot for those who come next (reason a)."""
        if parallel <= 1 or target_s is None:
            return False
        useful = self._sizing.useful
        if 2 * cost.hi(useful) <= target_s:  # nor do smaller ones take longer
            return False
        arriving = min(rate.per_second(now) / parallel, useful / cost.mean(useful))  # the rest is turned away
        if arriving * cost.mean(1) <= _BUSY:
            return False
        rows = 1
        for _ in range(_EAGER_RUNS):  # a row runs, what came meanwhile runs, and so on
            rows = min(useful, math.ceil(arriving * cost.mean(rows)))
        return 2 * cost.hi(rows) > target_s

    def _timer_end(self, shape: ShapeQueue, delay_s: float) -> tuple[float, str]:
        """Say until when the classic timer holds a part-filled batch of this shape, and which limit that is."""
        head = shape.head
        # Who was admitted first need not have arrived first: a large body is decoded while others overtake it. The head
        # has the earliest deadline, which under one timeout is the earliest arrival.
        oldest_s = min(shape.oldest.ticket.request.arrival_s, head.ticket.request.arrival_s)
        timer_s = oldest_s + delay_s
        latest_s = head.ticket.deadline_s - self._cost_of(shape).hi(min(shape.rows + 1, self._sizing.useful))
        return (timer_s, "timer") if timer_s <= latest_s else (latest_s, "deadline")

    def wait_until(self, moment_s: float) -> None:
        """Have the decision taken again at a moment, though nothing is held."""
        if self.until_s is None or moment_s < self.until_s:
            self.until_s = moment_s

    def _hold(self, shape: ShapeQueue, until_s: float, now: float) -> None:
        if shape.held_since_s is None:
            shape.held_since_s = now
        self.wait_until(until_s)


def until_joined(gaps: Gaps, cost: CostModel, rows: int, free_s: float, now: float) -> float:
    """Say how long it pays to wait for requests that are about to come (reason b).

    Args:
        gaps: Of the shape's arrivals.
        cost: What its runs cost.
        rows: Rows that wait, and that could start now.
        free_s: Seconds until a slot is free again if they do.
        now: The moment.

    Returns:
        Seconds to wait for the next arrival; 0 if waiting does not pay.
    """
    alone_s, joined_s = cost.mean(rows), cost.mean(rows + 1)
    save_s = free_s + cost.mean(1) - joined_s
    gain_s = save_s - rows * (joined_s - alone_s)
    if gain_s <= 0:
        return 0.0
    best_s = best = 0.0
    for wait_s, chance, expected_s in gaps.ahead(now, save_s):
        value = chance * gain_s - expected_s - 2 * rows * (expected_s + (1 - chance) * wait_s)
        if value > best:
            best_s, best = wait_s, value
    return best_s
