"""What the compared policies share: a first-come-first-served queue, slots, and tickets that end once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from batchserve.core.batch import Batch
from batchserve.core.policy import Decision
from batchserve.core.request import Request
from batchserve.core.ticket import Entry, EntryState, Outcome, Ticket
from batchserve.errors import DeadlineExceeded, QueueFull

__all__ = ["FifoPolicy"]


class FifoPolicy:
    """Requests in order of arrival; a subclass says how many of them go when a slot is free.

    Args:
        slots: Batches that may run at once.
        max_batch_size: Most rows in one of them.
        max_queue_size: Requests that may wait; more are refused.
        timeout_s: What has waited so long is dropped when it is looked at; None to keep everything.
        latency_target_s: What the users want, for the policies that know of it.
    """

    def __init__(
        self,
        *,
        slots: int = 1,
        max_batch_size: int,
        max_queue_size: int = 1_000_000,
        timeout_s: float | None = None,
        latency_target_s: float | None = None,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.timeout_s = timeout_s
        self.latency_target_s = latency_target_s
        self.queue: deque[Entry] = deque()
        self._idle = list(range(slots))
        heapify(self._idle)
        self._numbers = 0

    # --- what a subclass says -------------------------------------------------------------------------------------

    def choose(self, now: float) -> tuple[int, float | None]:
        """Say how many of the queued requests start now, and when to ask again if none.

        A slot is free and something waits.
        """
        raise NotImplementedError

    def learn(self, rows: int, took_s: float) -> None:
        """Hear of a run."""

    # --- the driver's interface -----------------------------------------------------------------------------------

    def arrive(self, request: Request, now: float) -> Ticket:
        """Queue a request.

        Raises:
            QueueFull: `max_queue_size` wait.
        """
        if len(self.queue) >= self.max_queue_size:
            raise QueueFull("the queue is full")
        deadline_s = request.arrival_s + (self.timeout_s if self.timeout_s is not None else float("inf"))
        ticket = Ticket(request, now, deadline_s, 1)
        entry = Entry(ticket, 0, request.rows, self._numbers)
        self._numbers += 1
        ticket.entries = (entry,)
        self.queue.append(entry)
        return ticket

    def finish(
        self, batch: Batch, now: float, *, ok: bool, took_s: float | None = None, overhead_s: float = 0.0
    ) -> list[Ticket]:
        """Take a batch back; all of it shares its fate."""
        heappush(self._idle, batch.slot)
        if ok and took_s is not None:
            self.learn(batch.rows, took_s)
        tickets = [entry.ticket for entry in batch.entries]
        for ticket in tickets:
            ticket.outcome = Outcome.COMPLETED if ok else Outcome.FAILED
        return tickets

    def decide(self, now: float) -> Decision:
        """Start what `choose` says, on every free slot."""
        decision = Decision()
        while self._idle and self.queue:
            decision.ended += self.drop(now)
            if not self.queue:
                break
            count, decision.wake_s = self.choose(now)
            if not count:
                break
            entries = [self.queue.popleft() for _ in range(count)]
            for entry in entries:
                entry.state = EntryState.TAKEN
            decision.batches.append(Batch(entries, "idle", heappop(self._idle), now))
            decision.wake_s = None
        return decision

    def drop(self, now: float) -> list[Ticket]:
        """Give up what has waited for `timeout_s`."""
        dropped = []
        while self.queue and self.queue[0].ticket.deadline_s <= now:
            dropped.append(self.expire_head())
        return dropped

    # --- helpers --------------------------------------------------------------------------------------------------

    def expire_head(self) -> Ticket:
        """Take the head out of the queue without a run."""
        entry = self.queue.popleft()
        entry.state = EntryState.GONE
        entry.ticket.outcome = Outcome.EXPIRED
        entry.ticket.error = DeadlineExceeded("it waited for too long")
        return entry.ticket

    def fitting(self, max_rows: int) -> Iterator[tuple[int, int]]:
        """Give (requests, rows) for each longer run of the queue that fits into one batch of one shape."""
        rows, key = 0, self.queue[0].ticket.request.key
        for count, entry in enumerate(self.queue, 1):
            rows += entry.rows
            if (rows > max_rows and count > 1) or entry.ticket.request.key != key:
                return
            yield count, rows

    def most(self, max_rows: int) -> int:
        """Count the requests at the head of the queue that fit into one batch."""
        count = 0
        for count, _ in self.fitting(max_rows):  # noqa: B007 - the last one is wanted
            pass
        return count

    def waited_s(self, now: float) -> float:
        """Seconds that the head has waited."""
        return now - self.queue[0].ticket.request.arrival_s
