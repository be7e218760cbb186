"""The books of one model: every admitted request gets its one outcome here, and is counted (batching.md section 4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from batchserve.core.counters import Counters
from batchserve.core.ticket import Entry, EntryState, Outcome, Ticket
from batchserve.errors import DeadlineExceeded, Draining, ExecutionFailed

if TYPE_CHECKING:
    from batchserve.core.fairness import FairShare
    from batchserve.core.queue import Queue
    from batchserve.errors import RequestError

__all__ = ["Ledger"]

_COMPLETED = Outcome.COMPLETED  # an Enum's members are slow to look up


class Ledger:
    """Ends tickets and counts them.

    Invariant between events: received = the outcomes + queued + running (batching.md section 12, conservation).

    Args:
        name: The model's name, for messages.
        queue: Where its entries wait; those of an ended ticket are taken out.
        fair: The clients' accounts, with fairness between them.

    Attributes:
        counters: Totals.
        queued: Requests of which nothing was started.
        running: Requests that were started and have not ended.
    """

    def __init__(self, name: str, queue: Queue, fair: FairShare | None) -> None:
        self.counters = Counters()
        self.queued = 0
        self.running = 0
        self._name = name
        self._queue = queue
        self._fair = fair

    def admit(self) -> None:
        """Count a request that begins to wait."""
        self.queued += 1

    def start(self, entries: Iterable[Entry]) -> None:
        """Note that entries were put into a batch."""
        for entry in entries:
            ticket = entry.ticket
            ticket.running += 1
            if not ticket.is_started:
                ticket.is_started = True
                self.queued -= 1
                self.running += 1
                if self._fair is not None:
                    self._fair.leave(ticket)

    def complete(self, entries: Iterable[Entry], now: float, ended: list[Ticket]) -> None:
        """Note that entries have their outputs; the last one of a request completes it."""
        completed = rows = late = 0
        for entry in entries:
            ticket = entry.ticket
            ticket.pending -= 1
            if ticket.fault:
                self.fail((entry,), ended, ticket.fault)
            elif ticket.outcome is None and ticket.pending == 0:
                ticket.outcome = _COMPLETED
                completed += 1
                rows += ticket.request.rows
                late += now > ticket.deadline_s
                ended.append(ticket)
        self.running -= completed
        counters = self.counters
        counters.completed += completed
        counters.rows += rows
        counters.late += late

    def fail(self, entries: Iterable[Entry], ended: list[Ticket], why: str = "") -> None:
        """End the requests of entries that the model failed on."""
        for entry in entries:
            ticket = entry.ticket
            if ticket.outcome is None:  # two parts of one request may ride in one batch
                text = f"model '{self._name}' failed on this request{': ' if why else ''}{why}"
                self._end(ticket, Outcome.FAILED, ExecutionFailed(text))
                self.counters.failed += 1
                self.counters.failed_rows += ticket.request.rows
                ended.append(ticket)

    def expire(self, ticket: Ticket, ended: list[Ticket], *, is_early: bool = False) -> None:
        """End a request whose deadline has passed or, `is_early`, can no longer be met."""
        self._end(ticket, Outcome.EXPIRED, self.deadline_error(ticket.deadline_s - ticket.request.arrival_s, is_early))
        self.counters.expired += 1
        ended.append(ticket)

    def give_up(self, entries: Iterable[Entry], ended: list[Ticket]) -> None:
        """Refuse what still waits when the time for draining is over."""
        for ticket in {id(entry.ticket): entry.ticket for entry in entries}.values():
            if ticket.outcome is None:
                error = Draining(f"model '{self._name}' stopped before the request could run: try another replica")
                self._end(ticket, Outcome.REFUSED, error)
                self.counters.refused["drain"] += 1
                ended.append(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """End a request whose client left."""
        self._end(ticket, Outcome.CANCELLED)
        self.counters.cancelled += 1

    def deadline_error(self, timeout_s: float, is_early: bool = False) -> DeadlineExceeded:
        """Say that a request had too little time."""
        what = "could not be kept: too little of it was left for a run" if is_early else "passed before its run began"
        return DeadlineExceeded(f"model '{self._name}': the request's timeout of {timeout_s * 1e3:g} ms {what}")

    def _end(self, ticket: Ticket, outcome: Outcome, error: RequestError | None = None) -> None:
        """End a ticket without an answer of its own, and take its waiting entries out of the queue."""
        assert ticket.outcome is None, f"ended twice: {ticket.outcome} and {outcome}"
        ticket.outcome = outcome
        ticket.error = error
        if ticket.is_started:
            self.running -= 1
        else:
            self.queued -= 1
            if self._fair is not None:
                self._fair.leave(ticket)
        for entry in ticket.entries:
            if entry.state is EntryState.QUEUED:
                self._queue.remove(entry)
