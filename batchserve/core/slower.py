"""What a slower device takes while a quicker one is at work: only what it still answers in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchserve.core import forming
from batchserve.core.spread import in_time, largest_in_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.cost import CostModel
    from batchserve.core.policy import Policy
    from batchserve.core.shape_queue import ShapeQueue
    from batchserve.core.spread import SpreadSlots
    from batchserve.core.ticket import Entry

__all__ = ["MARGIN", "choose"]

_WORTH_IT = 0.8
"""A batch that deadlines keep below this share of what would come together in time is not begun yet."""

MARGIN = 2.0
"""Distances from the mean to the upper value that a run may take without anybody being late.

Elsewhere few are as near to their deadlines as those that are just in time here, and nobody gains by taking them."""


def choose(
    policy: Policy, slots: SpreadSlots, first: ShapeQueue, now: float, *, may_hold: bool
) -> tuple[ShapeQueue, list[Entry], float | None]:
    """Choose what runs now on the idle slot that comes next, which is slower than others.

    Requests that would be late here are passed over: a quicker slot takes them, and sooner, for what leaves the queue
    behind them. What is chosen is left in the queue.

    Args:
        policy: The model.
        slots: Its slots; one is idle.
        first: The shape that comes next.
        now: The moment.
        may_hold: False while draining, and before enough is known.

    Returns:
        A shape and its entries, in order, none if nothing is to start; and when to ask again, None if only an event can
        change anything.
    """
    delay_s = policy.limits.max_queue_delay_s
    may_wait = may_hold and delay_s is None
    # A timer of its own may hold another shape.
    others = [] if may_hold and delay_s else [shape for shape in policy.queue.waiting() if shape is not first]
    for shape in (first, *others):
        entries = _of_shape(policy, slots, shape, now, may_wait=may_wait)
        if not entries:
            continue
        if may_wait and (until_s := _sooner_elsewhere(policy, slots, shape, entries, now)):
            return shape, [], until_s
        return shape, entries, None
    return first, [], None


def _of_shape(policy: Policy, slots: SpreadSlots, shape: ShapeQueue, now: float, *, may_wait: bool) -> list[Entry]:
    factor = slots.next_factor
    if policy.lengths is not None:
        return policy.lengths.next_in_time(policy.queue, shape, policy.limits, policy.sizing.useful, now, factor)
    may_wait = may_wait and slots.is_quicker_at_work(factor)
    return _in_time(policy, policy.backlog.cost_of(shape), shape, factor, now, may_wait=may_wait)


def _sooner_elsewhere(
    policy: Policy, slots: SpreadSlots, shape: ShapeQueue, entries: Sequence[Entry], now: float
) -> float:
    """Say until when to wait for a quicker slot that is at work; 0 if that does not pay.

    It may while all that waits fits into one batch.
    """
    if policy.queue.rows > policy.sizing.useful or policy.queue.has_other(shape):
        return 0.0
    cost, factor = policy.backlog.cost_of(shape), slots.next_factor
    here_s = now + factor * cost.mean(sum(entry.rows for entry in entries))
    return slots.sooner_elsewhere(factor, here_s, cost.hi(shape.rows), shape.head.ticket.deadline_s, now)


def _in_time(
    policy: Policy, cost: CostModel, shape: ShapeQueue, factor: float, now: float, *, may_wait: bool
) -> list[Entry]:
    useful = policy.sizing.useful
    upper = factor * (1 + MARGIN * (cost.q - 1))

    def seconds_of(rows: int) -> float:
        return upper * cost.mean(rows)

    if policy.queue.latest_s() < now + seconds_of(1):
        return []
    entries = [
        entry
        for entry in policy.queue.peek_all(shape)
        if entry.rows <= useful and entry.ticket.deadline_s >= now + seconds_of(entry.rows)
    ]
    rows = largest_in_time(entries, useful, seconds_of, now)
    if may_wait and rows < min(useful, shape.rows) and rows < _WORTH_IT * _coming_together(policy, cost, factor, now):
        return []
    if policy.limits.preferred_batch_sizes and rows:
        rows = forming.whole_steps(rows, shape, policy.limits, cost, policy.sizing.need, now)
    return in_time(entries, rows, now + seconds_of(rows)) if rows else []


def _coming_together(policy: Policy, cost: CostModel, factor: float, now: float) -> int:
    """Find the most rows that are let in during what a run of so many leaves of the target."""
    useful = policy.sizing.useful
    rate = min(policy.arrivals.per_second(now), policy.parallel * useful / cost.mean(useful))
    low, high = 0, useful + 1
    while high - low > 1:
        middle = (low + high) // 2
        if middle <= rate * (policy.limits.horizon_s - factor * cost.hi(middle)):
            low = middle
        else:
            high = middle
    return low
