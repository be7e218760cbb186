"""Forming a batch: how many rows (batching.md sections 7.2 and 7.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from batchserve.core.ticket import Entry, EntryState

if TYPE_CHECKING:
    from batchserve.core.cost import CostModel
    from batchserve.core.limits import Limits
    from batchserve.core.shape_queue import ShapeQueue
    from batchserve.core.sizing import Sizing

__all__ = ["Selection", "is_hopeless", "select", "whole_steps"]


class Selection(NamedTuple):
    """How many rows of a shape to run now.

    Attributes:
        rows: At least 1.
        may_wait: True if all that waits fits and there is room for more, so that holding is a question.
    """

    rows: int
    may_wait: bool


def is_hopeless(shape: ShapeQueue, alone_s: float, now: float) -> bool:
    """Tell whether the head of a shape could not finish in time even if it ran alone, for `alone_s`, and at once.

    Before any run was seen nobody should ask: a guess is good enough to plan by, not to turn somebody away.
    """
    head = shape.head.ticket
    # While a part of a split request runs or is about to, the rest is not given up: that run would be for nothing.
    return not head.running and now + alone_s > head.deadline_s


def select(
    shape: ShapeQueue, cost: CostModel, sizing: Sizing, now: float, expire: Callable[[Entry], None]
) -> Selection:
    """Say how many rows of a shape to run now (batching.md section 7.2).

    Args:
        shape: What waits; not empty.
        cost: What its runs cost.
        sizing: The sizes in use.
        now: The moment.
        expire: Ends the request of an entry that keeps too many others from being answered in time.
    """
    slack_s = shape.head.ticket.deadline_s - now
    rows = min(shape.rows, sizing.useful)
    if cost.is_empty or cost.hi(rows) <= slack_s:
        return Selection(rows, may_wait=rows < sizing.useful)
    fitting = cost.largest_within(slack_s, rows)
    # If old requests hold the batch down, a few that are nearly late are given up, so that the many behind are not.
    while fitting < min(sizing.need, shape.rows) and _may_be_given_up(shape):
        expire(shape.head)
        rows = min(shape.rows, sizing.useful)
        fitting = cost.largest_within(shape.head.ticket.deadline_s - now, rows)
    return Selection(max(1, fitting), may_wait=False)


def whole_steps(rows: int, shape: ShapeQueue, limits: Limits, cost: CostModel, need: int, now: float) -> int:
    """Round a size down to a preferred one, if that makes nobody late (batching.md section 7.4)."""
    preferred = limits.preferred_batch_sizes
    if rows in preferred:
        return rows
    smaller = max((size for size in preferred if size < rows), default=0)
    if smaller < max(1, need):
        return rows
    # Who is left behind has a deadline no earlier than the head's: what suits the head suits them.
    left = min(shape.rows - smaller, limits.run_rows)
    if now + cost.mean(smaller) + cost.hi(left) > shape.head.ticket.deadline_s:
        return rows
    return smaller


def _may_be_given_up(shape: ShapeQueue) -> bool:
    """True if others wait behind the head's request, and no part of it runs."""
    ticket = shape.head.ticket
    return not ticket.running and shape.entries > sum(entry.state is EntryState.QUEUED for entry in ticket.entries)
