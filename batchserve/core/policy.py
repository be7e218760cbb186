"""The rules: who is let in, when a batch is cut and what goes into it (batching.md sections 4, 6, 7 and 10).

A plain synchronous object. Events come in with the time they happened at; what is to be done comes out. It reads no
clock, sleeps never and touches no socket and no runtime. The engine drives it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from batchserve.core.batch import Batch, halves
from batchserve.core.counters import Counters
from batchserve.core.queue import Queue, ShapeQueue
from batchserve.core.ticket import Entry, EntryState, Outcome, Ticket
from batchserve.errors import DeadlineExceeded, Draining, ExecutionFailed, InvalidRequest, QueueFull

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchserve.core.cost import CostModel
    from batchserve.core.limits import Limits
    from batchserve.core.request import Request
    from batchserve.errors import RequestError

__all__ = ["Decision", "Policy"]

MIN_HOLD_S = 20e-6
"""A hold that would end sooner is not begun (batching.md section 7.3)."""


MIN_RUNS_TO_HOLD = 5
"""Without a measured curve nothing is held before so many runs (batching.md section 7.3)."""


@dataclass(slots=True)
class Decision:
    """What is to be done now.

    Attributes:
        batches: To be started, each on its slot.
        ended: Tickets that ended without a run; each has its outcome and error.
        wake_s: Ask again at this moment, whatever happens until then; None if only an event can change anything.
    """

    batches: list[Batch] = field(default_factory=list)
    ended: list[Ticket] = field(default_factory=list)
    wake_s: float | None = None


class Policy:
    """The decision core of one model version.

    Events: `arrive`, `cancel`, `finish`, `drain`, and `decide` as the tick that follows each of them. Times given must
    not go backwards.

    Args:
        name: The model's name, for messages.
        limits: Its configuration.
        cost: What its runs cost; every successful run is fed to it.
    """

    def __init__(self, name: str, limits: Limits, cost: CostModel) -> None:
        self.name = name
        self.limits = limits
        self.counters = Counters()
        self.queue = Queue(limits.priority_levels)
        self.queued_requests = 0
        self.running_requests = 0
        self.cost = cost
        self._middle_level = (limits.priority_levels + 1) // 2
        self._max_rows = limits.run_rows
        self._idle = list(range(limits.slots))
        self._retries: deque[list[Entry]] = deque()
        self._numbers = 0
        self._drain_until_s: float | None = None

    @property
    def is_draining(self) -> bool:
        """True once `drain` was called."""
        return self._drain_until_s is not None

    @property
    def is_empty(self) -> bool:
        """True if nothing waits and nothing runs."""
        return not self.queue.entries and not self._retries and len(self._idle) == self.limits.slots

    # --- events ---------------------------------------------------------------------------------------------------

    def arrive(self, request: Request, now: float) -> Ticket:
        """Admit a request, or say why not (batching.md section 6, rules 1 to 5 and 9).

        Returns:
            Its ticket, queued. The next `decide` may start it.

        Raises:
            Draining: Rule 1.
            InvalidRequest: Rule 2: more rows than one run takes, and it may not or cannot be split.
            DeadlineExceeded: Rule 3: the deadline has passed already.
            QueueFull: Rule 5.
        """
        counters, limits = self.counters, self.limits
        counters.received += 1
        if self._drain_until_s is not None:
            counters.refused["drain"] += 1
            raise Draining(f"model '{self.name}' is being unloaded or the server is shutting down: try another replica")
        rows = request.rows
        if rows > self._max_rows and (problem := limits.oversize(rows)):
            counters.invalid += 1
            raise InvalidRequest(f"model '{self.name}': {problem}")
        timeout_s = limits.timeout_s if request.timeout_s is None else limits.timeout_of(request)
        if request.arrival_s + timeout_s <= now:
            counters.expired += 1
            raise self._deadline_error(timeout_s)
        queue = self.queue
        if (queue.entries or not self._idle) and queue.rows + rows > limits.max_queue_size:
            counters.refused["queue"] += 1
            raise QueueFull(
                f"the queue of model '{self.name}' is full: {queue.rows} rows wait, {rows} more would pass "
                f"max_queue_size = {limits.max_queue_size}; retry later"
            )
        level = limits.level_of(request) if request.priority else self._middle_level
        ticket = Ticket(request, now, request.arrival_s + timeout_s, level)
        self._enqueue(ticket)
        self.queued_requests += 1
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket whose client left. Its queued entries leave at once; a run of it goes on for nothing."""
        if ticket.outcome is None:
            self._end(ticket, Outcome.CANCELLED)
            self.counters.cancelled += 1

    def finish(self, batch: Batch, now: float, *, ok: bool, took_s: float | None = None) -> list[Ticket]:
        """Take a batch's slot back and settle its entries.

        Args:
            batch: As it was started.
            now: When it came back.
            ok: True if every entry has its outputs. Otherwise the batch is queued again in halves, or its requests
                fail (batching.md section 10).
            took_s: Seconds its run took, for the cost model; None if that was not measured.

        Returns:
            Tickets that ended: completed ones, or failed ones with their error.
        """
        heappush(self._idle, batch.slot)
        for entry in batch.entries:
            entry.ticket.running -= 1
        ended: list[Ticket] = []
        if ok:
            self.counters.executions += 1
            if took_s is not None:
                self.cost.observe(batch.rows, took_s)
            for entry in batch.entries:
                self._complete(entry, now, ended)
            return ended
        self.counters.failed_executions += 1
        alive = [entry for entry in batch.entries if entry.ticket.outcome is None]
        if self.limits.isolate_failures and len(batch.entries) > 1:
            self._retries.extend(half for half in halves(alive) if half)
        else:
            self._fail(alive, ended)
        return ended

    def drain(self, until_s: float) -> None:
        """Stop admission and holding; what waits is finished, or given up at `until_s`. May be called again."""
        self._drain_until_s = until_s

    def count_refused(self, reason: str) -> None:
        """Count a request that was turned away before it got here."""
        self.counters.received += 1
        self.counters.refused[reason] += 1

    def count_invalid(self) -> None:
        """Count a request of this model that was found invalid before it got here."""
        self.counters.received += 1
        self.counters.invalid += 1

    # --- the decision ---------------------------------------------------------------------------------------------

    def decide(self, now: float) -> Decision:
        """Expire what is too late, start what can start, and say when to ask again (batching.md section 7)."""
        decision = Decision()
        self._expire(now, decision)
        hold_until_s = None
        while self._idle:
            entries = self._next_retry(now, decision.ended)
            if entries:
                self._start(entries, "isolate", decision, now)
                continue
            shape, reason, hold_until_s = self._choose(now)
            if shape is None:
                break
            entries = self.queue.take(shape, self._max_rows)
            rows = sum(entry.rows for entry in entries)
            self._start(entries, "full" if rows >= self._max_rows or shape.rows else reason, decision, now)
        decision.wake_s = self._wake(hold_until_s)
        return decision

    def _choose(self, now: float) -> tuple[ShapeQueue | None, str, float | None]:
        """Pick the shape whose batch starts now; if none, say until when all are held.

        Returns:
            The shape, the reason for its cut should it not be full, and None; or None, "" and the end of the hold.
        """
        first = self.queue.first()
        if first is None:
            return None, "", None
        if self.is_draining:
            return first, "drain", None
        if not self.limits.max_queue_delay_s or self._is_unmeasured():  # 0, or auto
            return first, "shape" if self.queue.has_other(first) else "idle", None
        return self._choose_held(now)

    def _is_unmeasured(self) -> bool:
        """True while too few runs were seen to say when a hold must end (batching.md section 7.3)."""
        return self.cost.is_empty and self.counters.executions < MIN_RUNS_TO_HOLD

    def _choose_held(self, now: float) -> tuple[ShapeQueue | None, str, float | None]:
        """Apply the classic timer: a shape goes when it is full or its hold has ended (batching.md section 7.3)."""
        best: tuple[tuple[int, float, int], ShapeQueue, str] | None = None
        hold_until_s = None
        for shape in self.queue.waiting():
            until_s, reason = self._hold(shape)
            if shape.rows < self._max_rows and until_s - now > MIN_HOLD_S:
                hold_until_s = until_s if hold_until_s is None else min(hold_until_s, until_s)
                continue
            head = shape.head
            order = (head.ticket.level, head.ticket.deadline_s, head.number)
            if best is None or order < best[0]:
                best = (order, shape, reason)
        if best is None:
            return None, "", hold_until_s
        return best[1], best[2], None

    def _hold(self, shape: ShapeQueue) -> tuple[float, str]:
        """Say until when a part-filled batch of this shape may wait, and which limit that is."""
        delay_s = self.limits.max_queue_delay_s
        assert delay_s is not None, "only a configured delay holds"
        head = shape.head
        # Who was admitted first need not have arrived first: a large body is decoded while others overtake it. The head
        # has the earliest deadline, which under one timeout is the earliest arrival.
        oldest_s = min(shape.oldest.ticket.request.arrival_s, head.ticket.request.arrival_s)
        timer_s = oldest_s + delay_s
        latest_s = head.ticket.deadline_s - self.cost.mean(min(shape.rows + 1, self._max_rows))
        return (timer_s, "timer") if timer_s <= latest_s else (latest_s, "deadline")

    def _expire(self, now: float, decision: Decision) -> None:
        """End what is past its deadline, and at the end of the drain all that waits."""
        if self._drain_until_s is not None and now >= self._drain_until_s:
            self._give_up(decision)
        while (earliest := self.queue.next_deadline()) is not None and earliest[0] <= now:
            ticket = earliest[1].ticket
            self._end(ticket, Outcome.EXPIRED, self._deadline_error(ticket.deadline_s - ticket.request.arrival_s))
            self.counters.expired += 1
            decision.ended.append(ticket)

    def _give_up(self, decision: Decision) -> None:
        waiting = [*self.queue.everything(), *(entry for half in self._retries for entry in half)]
        self._retries.clear()
        for ticket in {id(entry.ticket): entry.ticket for entry in waiting}.values():
            if ticket.outcome is None:
                error = Draining(f"model '{self.name}' stopped before the request could run: try another replica")
                self._end(ticket, Outcome.REFUSED, error)
                self.counters.refused["drain"] += 1
                decision.ended.append(ticket)

    def _wake(self, hold_until_s: float | None) -> float | None:
        """The earliest moment at which time alone changes what `decide` says."""
        moments = [] if hold_until_s is None else [hold_until_s]
        if (earliest := self.queue.next_deadline()) is not None:
            moments.append(earliest[0])
        if self._drain_until_s is not None and (self.queue.entries or self._retries):
            moments.append(self._drain_until_s)
        return min(moments, default=None)

    # --- moving entries -------------------------------------------------------------------------------------------

    def _enqueue(self, ticket: Ticket) -> None:
        rows, size = ticket.request.rows, self._max_rows
        if rows <= size:
            entry = Entry(ticket, 0, rows, self._numbers)
            self._numbers += 1
            ticket.entries = (entry,)
            ticket.pending = 1
            self.queue.push(entry)
            return
        ticket.entries = tuple(
            Entry(ticket, first, min(size, rows - first), self._numbers + part)
            for part, first in enumerate(range(0, rows, size))
        )
        ticket.pending = len(ticket.entries)
        self._numbers += ticket.pending
        for entry in ticket.entries:
            self.queue.push(entry)

    def _start(self, entries: list[Entry], reason: str, decision: Decision, now: float) -> None:
        for entry in entries:
            ticket = entry.ticket
            ticket.running += 1
            if not ticket.is_started:
                ticket.is_started = True
                self.queued_requests -= 1
                self.running_requests += 1
        self.counters.batches[reason] += 1
        decision.batches.append(Batch(entries, reason, heappop(self._idle), now))

    def _next_retry(self, now: float, ended: list[Ticket]) -> list[Entry]:
        """Return the next half of a failed batch that somebody still waits for; empty if there is none.

        A run again must begin before the deadline, as any run: who has no time left for it fails now.
        """
        while self._retries:
            alive = [entry for entry in self._retries.popleft() if entry.ticket.outcome is None]
            self._fail((entry for entry in alive if entry.ticket.deadline_s <= now), ended)
            if again := [entry for entry in alive if entry.ticket.outcome is None]:
                return again
        return []

    def _complete(self, entry: Entry, now: float, ended: list[Ticket]) -> None:
        ticket = entry.ticket
        ticket.pending -= 1
        if ticket.fault:
            self._fail((entry,), ended, ticket.fault)
        elif ticket.outcome is None and ticket.pending == 0:
            self._end(ticket, Outcome.COMPLETED)
            counters = self.counters
            counters.completed += 1
            counters.rows += ticket.request.rows
            counters.late += now > ticket.deadline_s
            ended.append(ticket)

    def _fail(self, entries: Iterable[Entry], ended: list[Ticket], why: str = "") -> None:
        for entry in entries:
            ticket = entry.ticket
            if ticket.outcome is None:  # two parts of one request may ride in one batch
                self._end(
                    ticket,
                    Outcome.FAILED,
                    ExecutionFailed(f"model '{self.name}' failed on this request{': ' if why else ''}{why}"),
                )
                self.counters.failed += 1
                ended.append(ticket)

    def _end(self, ticket: Ticket, outcome: Outcome, error: RequestError | None = None) -> None:
        """Give a ticket its one outcome and take its waiting entries out of the queue."""
        assert ticket.outcome is None, f"ended twice: {ticket.outcome} and {outcome}"
        ticket.outcome = outcome
        ticket.error = error
        if ticket.is_started:
            self.running_requests -= 1
        else:
            self.queued_requests -= 1
        if outcome is not Outcome.COMPLETED:
            for entry in ticket.entries:
                if entry.state is EntryState.QUEUED:
                    self.queue.remove(entry)

    def _deadline_error(self, timeout_s: float) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"model '{self.name}': the request's timeout of {timeout_s * 1e3:g} ms passed before its run began"
        )
