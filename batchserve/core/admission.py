"""Who is let in: the rules that refuse what could not be answered in time (batching.md section 6, rules 5 to 9)."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, NamedTuple

from batchserve.errors import QueueFull, StandingQueue, TargetMissed

if TYPE_CHECKING:
    from batchserve.core.lengths import Lengths
    from batchserve.core.policy import Policy
    from batchserve.core.shape_queue import ShapeQueue
    from batchserve.core.spread import SpreadSlots
    from batchserve.core.ticket import Ticket

__all__ = ["Assured", "Missed", "check_room"]

_STANDING_TARGETS = 20
_STANDING_BATCHES = 1.25
_STANDING_PADDED = 3.0
"""The same for a model that pads: with less to choose from, its windows hold more padding (simulated at twice the load:
0.73 of the ideal limit and 38 % padding with 1.25 batches, 0.88 and 17 % with 3)."""


_FILLED = 0.8
"""Part of a full batch that a slower device is taken to run at once, for some of what waits would be late there."""


class Assured(NamedTuple):
    """What was found for one request, as far as it says that others of its model are answered in time.

    Whoever would end no further behind is answered by then, or later by what has passed since: until the next decision
    predictions move with the clock at most. It says so for 31 of 32 requests that arrive one after the other, at a
    third of the cost of a prediction.

    Attributes:
        shape: Whom it holds for; nobody of another shape has come since.
        rows: Rows that wait up to the end of the batch that it was predicted to ride in.
        finish_s: When that batch would come back if it were full.
        at_s: When that was found.
    """

    shape: ShapeQueue
    rows: int
    finish_s: float
    at_s: float


class Missed(NamedTuple):
    """Who was refused by rule 7, as far as it says that others of its model are to be refused as well.

    Under overload most of those that arrive between two decisions are like one that was just refused: they are told so
    without a prediction of their own, which costs a quarter.

    Attributes:
        shape: Whom it holds for.
        rows: So many rows each.
        level: Of this priority.
        waiting: While no more and no fewer rows wait, all of them ahead.
        deadline_s: Of the one that was refused; later ones have everybody ahead of them, too.
        least_s: No answer to one of them would come before this, whatever the clock says at its arrival.
        error: What they are told.
    """

    shape: ShapeQueue
    rows: int
    level: int
    waiting: int
    deadline_s: float
    least_s: float
    error: TargetMissed

    def rules_out(self, shape: ShapeQueue, ticket: Ticket, waiting: int) -> bool:
        """Tell whether a request is one of them."""
        return (
            self.deadline_s <= ticket.deadline_s < self.least_s
            and waiting == self.waiting
            and ticket.request.rows == self.rows
            and shape is self.shape
            and ticket.level == self.level
        )


def check_room(policy: Policy, shape: ShapeQueue, ticket: Ticket, now: float) -> None:
    """Refuse a request that does not fit into the queue, or that is predicted to be answered too late.

    Args:
        policy: Its model.
        shape: Where it would wait.
        ticket: Not admitted yet.
        now: The moment.

    Raises:
        QueueFull: Rule 5, or too much of the same client waits.
        TargetMissed: Rule 7.
        StandingQueue: Rule 8.
    """
    limits, queue, rows, fair = policy.limits, policy.queue, ticket.request.rows, policy.fair
    room = limits.max_queue_size - queue.rows
    if rows > room:
        raise _full(
            policy,
            rows - room,
            f"{queue.rows} rows wait, {rows} more would pass max_queue_size = {limits.max_queue_size}",
        )
    if fair is not None:
        ticket.account = account = fair.account(ticket.request.client)
        if not fair.may_wait(account, rows, room):
            raise _full(policy, rows, f"{account.rows} rows of this client wait, and {room} are left for all")
    if limits.latency_target_s is None or not limits.shed or policy.cost.is_empty:
        return  # without any run seen, a prediction would be a guess
    missed = policy.missed
    if missed is not None and fair is None and missed.rules_out(shape, ticket, queue.rows):
        policy.counters.refused["target"] += 1
        missed.error.retry_after_s = _whole_seconds(missed.least_s - ticket.deadline_s)
        raise missed.error.with_traceback(None)  # it would grow with each of them
    assured = policy.assured
    if (
        assured is not None
        and shape is assured.shape
        and queue.rows + rows <= assured.rows
        and assured.finish_s + now - assured.at_s <= ticket.deadline_s
        and not policy.sizing.is_overloaded  # then rule 8 is to be asked
    ):
        return
    if fair is not None and ticket.account is not None:
        before = min(queue.rows, fair.rows_before(ticket.account, policy.cost.mean(1)))
    else:
        before = queue.rows_before(ticket.level, ticket.deadline_s)
    _check_target(policy, shape, ticket, before, now)


def _full(policy: Policy, rows: int, why: str) -> QueueFull:
    policy.counters.refused["queue"] += 1
    error = QueueFull(f"the queue of model '{policy.name}' is full: {why}; retry later")
    error.retry_after_s = _whole_seconds(_drain_s(policy, rows))
    return error


def _check_target(policy: Policy, shape: ShapeQueue, ticket: Ticket, before: int, now: float) -> None:
    target_s, sizing = policy.limits.latency_target_s, policy.sizing
    assert target_s is not None, "only a latency target is checked"
    if policy.spread is None:
        finish_s, least_s = _finish_s(policy, shape, ticket, before, now)
    else:
        finish_s, least_s = _finish_spread_s(policy, policy.spread, shape, ticket, before, now), -math.inf
    late_s = finish_s - ticket.deadline_s
    if late_s > 0:
        policy.counters.refused["target"] += 1
        error = TargetMissed(
            f"model '{policy.name}' could not answer within its latency_target of {target_s * 1e3:g} ms: "
            f"{before} rows wait; retry later"
        )
        error.retry_after_s = _whole_seconds(late_s)
        waiting = policy.queue.rows
        if before == waiting:
            policy.missed = Missed(shape, ticket.request.rows, ticket.level, waiting, ticket.deadline_s, least_s, error)
        raise error
    overloaded_s = now - sizing.overloaded_since_s
    if not sizing.is_overloaded or overloaded_s <= _STANDING_TARGETS * target_s:
        return
    batches = _STANDING_BATCHES if policy.lengths is None else _STANDING_PADDED
    too_many = before - batches * sizing.useful * max(1.0, policy.parallel)  # never less than a whole batch
    if too_many >= 0:
        policy.counters.refused["standing"] += 1
        standing = StandingQueue(
            f"model '{policy.name}' has had more requests than it can answer for {overloaded_s:.3g} s: "
            f"{before} rows wait; retry later"
        )
        standing.retry_after_s = _whole_seconds(_drain_s(policy, too_many))
        raise standing


def _finish_s(policy: Policy, shape: ShapeQueue, ticket: Ticket, before: int, now: float) -> tuple[float, float]:
    """Predict when a request would be answered, in a batch no smaller than the load requires (rule 7).

    Returns:
        The moment, and the least that it can become until the next decision if nobody else is let in.
    """
    sizing, cost = policy.sizing, policy.backlog.cost_of(shape)
    size, rows = sizing.useful, ticket.request.rows
    free = policy.slots.free_times(now)
    policy.assured = None
    if policy.lengths is not None:
        return _finish_padded_s(policy, policy.lengths, shape, ticket, before, now), -math.inf
    doubt_s = least_doubt_s = 0.0
    if policy.backlog.is_mixed:
        own_s = policy.backlog.work_s()
        last = shape.rows % size + rows
        free[0] += own_s / len(free)
    else:
        full, last = _batches_ahead(before, rows, size)
        full_s = cost.mean(size)
        if sizing.is_overloaded:
            full_s = max(full_s, size * cost.mean(sizing.need) / sizing.need)
        own_s = full * full_s
        # Each batch ahead may take longer than its mean, the running one too; not all of them do.
        squares = full / len(free) * full_s**2
        doubt_s = (cost.q - 1) * math.sqrt(squares + policy.slots.first_run_s(now) ** 2)
        # As the clock goes on, another run may become the one that is to end first.
        least_doubt_s = (cost.q - 1) * math.sqrt(squares + policy.slots.least_run_s() ** 2)
        _occupy(free, full, full_s)
    batch_s = cost.hi(max(1, min(last, size), min(size, sizing.planned)))
    least_s = free[0] + least_doubt_s + batch_s
    free[0] += doubt_s
    if not policy.device.is_contended:
        if not policy.backlog.is_mixed and rows <= size:
            policy.assured = Assured(shape, (full + 1) * size, free[0] + cost.hi(size), now)
        return free[0] + batch_s, least_s
    ahead_s = policy.device.ahead_of(policy, ticket.deadline_s - batch_s, own_s, now)
    return free[0] + ahead_s + batch_s, -math.inf


def _finish_padded_s(
    policy: Policy, lengths: Lengths, shape: ShapeQueue, ticket: Ticket, before: int, now: float
) -> float:
    """Do as `_finish_s` for a model that pads: the rows ahead take their ideal times over 0.8 (section 9)."""
    sizing, queue, rows = policy.sizing, policy.queue, ticket.request.rows
    free = policy.slots.free_times(now)
    own_s = policy.backlog.work_s() * before / queue.rows if queue.rows else 0.0
    free[0] += own_s / len(free)
    last = shape.rows % sizing.useful + rows
    batch_s = lengths.upper_s(max(1, min(last, sizing.useful), min(sizing.useful, sizing.planned)))
    return free[0] + policy.device.ahead_of(policy, ticket.deadline_s - batch_s, own_s, now) + batch_s


def _finish_spread_s(
    policy: Policy, slots: SpreadSlots, shape: ShapeQueue, ticket: Ticket, before: int, now: float
) -> float:
    """Do as `_finish_s` for a model on several devices: every batch goes to the slot on which it ends first."""
    sizing, queue, rows = policy.sizing, policy.queue, ticket.request.rows
    size, cost, ahead = sizing.useful, policy.backlog.cost_of(shape), slots.ahead(now)
    if policy.lengths is not None or policy.backlog.is_mixed:
        own_s = policy.backlog.work_s()
        if policy.lengths is not None:
            own_s *= before / queue.rows if queue.rows else 0.0
        last = max(1, min(shape.rows % size + rows, size), min(size, sizing.planned))
        batch_s = cost.hi(last) if policy.lengths is None else policy.lengths.upper_s(last)
        # What slower slots take of it is not counted on: with several shapes or lengths they find less that suits.
        return min(slot.free_s + slot.factor * batch_s for slot in ahead) + own_s / slots.quickest
    full, last = _batches_ahead(before, rows, size)
    full_s = cost.mean(size)
    if sizing.is_overloaded:
        full_s = max(full_s, size * cost.mean(sizing.need) / sizing.need)
    # By slot: the end of one batch more on it, what that takes, its factor, and the squares of what its batches take.
    ends = []
    for free_s, factor, run_s in ahead:
        taken_s = full_s if factor == 1.0 else factor * full_s / _FILLED
        ends.append((free_s + taken_s, taken_s, factor, run_s**2))
    heapq.heapify(ends)
    spread = cost.q - 1
    for _ in range(full):
        end_s, taken_s, factor, squares = ends[0]
        while len(ends) > 1 and factor > 1.0 and end_s + spread * taken_s > ticket.deadline_s:
            heapq.heappop(ends)  # nobody ahead has a later deadline, so a slower slot takes no more of them
            end_s, taken_s, factor, squares = ends[0]
        heapq.heapreplace(ends, (end_s + taken_s, taken_s, factor, squares + taken_s**2))
    batch_s = cost.hi(max(1, min(last, size), min(size, sizing.planned)))
    # Any number of requests may count on the same slower slot, so they count on no less than a full batch there.
    return min(
        end_s + spread * math.sqrt(squares) + (batch_s - taken_s if factor == 1.0 else spread * taken_s)
        for end_s, taken_s, factor, squares in ends
    )


def _batches_ahead(before: int, rows: int, size: int) -> tuple[int, int]:
    """Return the full batches ahead of a request, and the rows of the batch it would ride in."""
    full, last = divmod(before, size)
    last += rows
    if last > size:  # it does not fit beside the last of those before it; a split one fills batches of its own
        full += last // size if rows > size else 1
        last = last % size if rows > size else rows
    return full, last


def _drain_s(policy: Policy, rows: float) -> float:
    """Predict the seconds until so many of the rows that wait have been taken up; 0 before any run was seen."""
    if policy.cost.is_empty:
        return 0.0
    size = policy.sizing.useful
    return rows / size * policy.cost.mean(size) / max(policy.parallel, 0.01)


def _whole_seconds(seconds: float) -> int:
    """Turn a predicted time into what `Retry-After` takes: rounded up, at least 1, at most an hour."""
    return max(1, min(3600, math.ceil(seconds)))


def _occupy(free: list[float], batches: int, seconds: float) -> None:
    """Put batches one after the other on the slot that is free first; `free` is a heap of moments."""
    if len(free) == 1:
        free[0] += batches * seconds
        return
    rounds, rest = divmod(batches, len(free))
    if rounds > 1:  # far ahead every slot gets its turn; only the last few need care
        for index in range(len(free)):
            free[index] += (rounds - 1) * seconds
        rest += len(free)
    else:
        rest = batches
    for _ in range(rest):
        heapq.heapreplace(free, free[0] + seconds)
