"""The rules put together: who is let in, when a batch is cut and what goes into it (batching.md sections 4 to 10).

A plain synchronous object. Events come in with the time they happened at; what is to be done comes out. It reads no
clock, sleeps never and touches no socket and no runtime. The engine drives it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from batchserve.core import forming, slower
from batchserve.core.admission import Assured, Missed, check_room
from batchserve.core.arrivals import Rate
from batchserve.core.backlog import Backlog
from batchserve.core.batch import Batch, halves
from batchserve.core.costs import ShapeCosts
from batchserve.core.device import Device
from batchserve.core.fairness import FairShare
from batchserve.core.holding import Holder
from batchserve.core.ledger import Ledger
from batchserve.core.lengths import Lengths
from batchserve.core.queue import Queue
from batchserve.core.shape_queue import ShapeQueue
from batchserve.core.sizing import Sizing
from batchserve.core.slots import Slots
from batchserve.core.spread import SpreadSlots
from batchserve.core.ticket import Entry, Ticket
from batchserve.errors import Draining, InvalidRequest

if TYPE_CHECKING:
    from batchserve.core.cost import CostModel
    from batchserve.core.counters import Counters
    from batchserve.core.limits import Limits
    from batchserve.core.request import Request
    from batchserve.core.speeds import Speeds

__all__ = ["Decision", "Policy"]

MIN_RUNS_TO_HOLD = 5
"""Without a measured curve nothing is held before so many runs (batching.md section 7.3)."""


@dataclass(slots=True)
class Decision:
    """What is to be done now.

    Attributes:
        batches: To be started, each on its slot.
        ended: Tickets that ended without a run; each has its outcome and error.
        stuck: Batches that were given up: their slots are out of service until `finish` is told of them after all.
        wake_s: Ask again at this moment, whatever happens until then; None if only an event can change anything.
    """

    batches: list[Batch] = field(default_factory=list)
    ended: list[Ticket] = field(default_factory=list)
    stuck: list[Batch] = field(default_factory=list)
    wake_s: float | None = None


class Policy:
    """The decision core of one model version.

    Events: `arrive`, `cancel`, `finish`, `drain`, and `decide` as the tick that follows each of them; models that share
    a device are decided on together, by `Device.decide`. Times given must not go backwards.

    Args:
        name: The model's name, for messages.
        limits: Its configuration.
        cost: What its runs cost, by rows or, if it pads, by rows times length; every successful run is fed to it.
        device: Where it runs, shared with others; None for one of its own.
        speeds: The devices that its slots are on, if there are several: then `device` stands for all of them, and is
            shared with nobody.

    Attributes:
        cost: What its runs cost by rows; if it pads, by rows of the mean length.
        lengths: What they cost by length, and what runs together; None if it does not pad.
        queue: What waits.
        slots: Where it runs.
        spread: The same, if they are on several devices; else None.
        arrivals: How many rows come in.
        sizing: The batch sizes in use.
        backlog: What waits, in seconds of work.
        fair: The clients' accounts; None without fairness between clients.
        parallel: Batches that can count on running at once, a fraction where others need the device too.
        virtual_s: Device seconds received, divided by the weight (batching.md section 8).
        charged_s: What the last batch added to that.
        decided_s: When it was last decided on.
        assured: Whom rule 7 need not be worked out for; None since something else than an arrival changed.
        missed: Who need not be refused one by one; None since then.
    """

    def __init__(
        self, name: str, limits: Limits, cost: CostModel, device: Device | None = None, speeds: Speeds | None = None
    ) -> None:
        self.name = name
        self.limits = limits
        self.lengths = Lengths(limits.pad, cost, limits.horizon_s) if limits.pad is not None else None
        self.cost = cost if self.lengths is None else self.lengths.by_rows
        self.device = device or Device(limits.slots)
        self.queue = Queue(limits.priority_levels, is_fair=limits.is_fair)
        self.spread = None if speeds is None else SpreadSlots(limits.slots, limits.run_timeout_s, self.device, speeds)
        self.slots = self.spread or Slots(limits.slots, limits.run_timeout_s, self.device)
        self.arrivals = Rate(limits.latency_target_s)
        self.sizing = Sizing(self.cost, limits.run_rows)
        self.fair = FairShare(limits.client_weights, limits.max_clients) if limits.is_fair else None
        self.parallel = float(limits.slots)
        self.virtual_s = self.charged_s = 0.0
        self.decided_s = 0.0
        self.assured: Assured | None = None
        self.missed: Missed | None = None
        self._costs = ShapeCosts(self.cost, limits.horizon_s)
        self.backlog = Backlog(self.queue, self.sizing, self._costs, self.cost, self.lengths)
        self._ledger = Ledger(name, self.queue, self.fair)
        self._holder = Holder(self.queue, self.slots, self.sizing, self.backlog.cost_of)
        self._middle_level = (limits.priority_levels + 1) // 2
        self._max_rows = limits.run_rows
        self._wait_s = limits.wait_s
        self._retries: deque[list[Entry]] = deque()
        self._numbers = 0
        self._drain_until_s: float | None = None
        self.device.join(self)

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals since it was made."""
        return self._ledger.counters

    @property
    def queued_requests(self) -> int:
        """Requests of which nothing was started."""
        return self._ledger.queued

    @property
    def running_requests(self) -> int:
        """Requests that were started and have not ended."""
        return self._ledger.running

    @property
    def is_draining(self) -> bool:
        """True once `drain` was called."""
        return self._drain_until_s is not None

    @property
    def is_empty(self) -> bool:
        """True if nothing waits, and nothing runs but what was given up as stuck."""
        return not self.queue.entries and not self._retries and self.slots.is_settled

    @property
    def is_backlogged(self) -> bool:
        """True if something waits."""
        return bool(self.queue.entries or self._retries)

    @property
    def can_start(self) -> bool:
        """True if something waits, and there is a slot for it."""
        return self.is_backlogged and self.slots.can_start

    # --- events ---------------------------------------------------------------------------------------------------

    def arrive(self, request: Request, now: float) -> Ticket:
        """Admit a request, or say why not (batching.md section 6).

        Returns:
            Its ticket, queued. The next `decide` may start it.

        Raises:
            Draining: Rule 1.
            InvalidRequest: Rule 2: more rows than one run takes, and it may not or cannot be split.
            DeadlineExceeded: Rule 3: the deadline has passed already.
            QueueFull: Rule 5.
            TargetMissed: Rule 7.
            StandingQueue: Rule 8.
        """
        counters, limits = self._ledger.counters, self.limits
        counters.received += 1
        if self._drain_until_s is not None:
            counters.refused["drain"] += 1
            raise Draining(f"model '{self.name}' is being unloaded or the server is shutting down: try another replica")
        rows = request.rows
        if rows > self._max_rows and (problem := limits.oversize(rows)):
            counters.invalid += 1
            raise InvalidRequest(f"model '{self.name}': {problem}")
        self.arrivals.note(rows, now)
        timeout_s = self._wait_s if request.timeout_s is None else limits.timeout_of(request)
        if request.arrival_s + timeout_s <= now:
            counters.expired += 1
            raise self._ledger.deadline_error(timeout_s)
        shape = self.queue.shape(request.key)
        if limits.max_queue_delay_s is None:
            shape.gaps.note(now)
        level = limits.level_of(request) if request.priority else self._middle_level
        ticket = Ticket(request, now, request.arrival_s + timeout_s, level)
        if self.queue.entries or not self.slots.takes_anybody:
            check_room(self, shape, ticket, now)
        if not (self.queue.entries or self._retries):
            self.device.wake(self)
        self._enqueue(ticket, shape)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket whose client left. Its queued entries leave at once; a run of it goes on for nothing."""
        if ticket.outcome is None:
            self._ledger.cancel(ticket)

    def finish(
        self,
        batch: Batch,
        now: float,
        *,
        ok: bool,
        took_s: float | None = None,
        overhead_s: float = 0.0,
        out_of_memory: bool = False,
        has_crashed: bool = False,
    ) -> list[Ticket]:
        """Take a batch's slot back and settle its entries.

        Args:
            batch: As it was started.
            now: When it came back.
            ok: True if every entry has its outputs. Otherwise the batch is queued again in halves, or its requests
                fail (batching.md section 10).
            took_s: Seconds its run took, for the cost model; None if that was not measured.
            overhead_s: Seconds it spent on the way there and back: little if it ran in place.
            out_of_memory: True if it failed because there was no memory for so many rows.
            has_crashed: True if it took its process along: it is not run again, lest it does so once for each half.

        Returns:
            Tickets that ended: completed ones, or failed ones with their error.
        """
        self.assured = self.missed = None
        self.slots.finish(batch)
        counters = self._ledger.counters
        for entry in batch.entries:
            entry.ticket.running -= 1
        ended: list[Ticket] = []
        if ok:
            counters.executions += 1
            if self.lengths is not None:
                counters.tokens += batch.tokens
                counters.padding += batch.padding
            if took_s is not None and self.spread is not None:
                key = batch.entries[0].ticket.request.key
                curve = self._costs.of(key) if self.lengths is None else self.lengths.by_tokens
                took_s = self.spread.on_quickest(batch, took_s, curve)
            if took_s is not None and counters.executions > 1:  # the first run after a load pays for more than itself
                if self.lengths is not None:
                    self.lengths.observe(batch, took_s, overhead_s)
                else:
                    self._costs.observe(batch.entries[0].ticket.request.key, batch.rows, took_s, overhead_s)
                if self.fair is not None:
                    self.fair.settle(batch, took_s + overhead_s)
            self._ledger.complete(batch.entries, now, ended)
            return ended
        counters.failed_executions += 1
        alive = [entry for entry in batch.entries if entry.ticket.outcome is None]
        may_halve = self.limits.isolate_failures and not has_crashed
        if out_of_memory and batch.rows > 1:
            self.sizing.halve(batch.rows, now)
            may_halve = may_halve or batch.reason != "isolate"
        if may_halve and len(batch.entries) > 1:
            self._retries.extend(half for half in halves(alive) if half)
        else:
            self._ledger.fail(alive, ended)
        return ended

    def drain(self, until_s: float) -> None:
        """Stop admission and holding; what waits is finished, or given up at `until_s`. May be called again."""
        self._drain_until_s = until_s

    def reconfigure(self, limits: Limits) -> None:
        """Go on with other limits from the next decision. Deadlines that were given out stay.

        Args:
            limits: Differs in `Limits.RECONFIGURABLE` only.
        """
        assert limits == self.limits.reconfigured(limits), "only some limits can change while a model serves"
        if limits.latency_target_s != self.limits.latency_target_s:
            self.arrivals = Rate(limits.latency_target_s)
        self.limits = limits
        self._wait_s = limits.wait_s

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
        decision = self.begin(now)
        while self.can_start and self.start_next(decision, now):
            pass
        return self.end(decision)

    def begin(self, now: float) -> Decision:
        """Open a decision: bring the sizes up to date, expire what is too late, give up what is stuck."""
        decision = Decision()
        self.decided_s = now
        self.assured = self.missed = None
        self._holder.until_s = None
        if self.sizing.is_due(now):
            if self.spread is None:
                self.parallel = self.device.slots_of(self, now)
            else:
                self.parallel = self.spread.capacity(self.cost, self.sizing.useful, self.limits.horizon_s)
            self.sizing.refresh(self.arrivals.per_second(now), self.parallel, self.limits.horizon_s, now)
        stuck_at_s = self.slots.stuck_at_s
        if stuck_at_s is not None and now >= stuck_at_s:
            decision.stuck = self.slots.give_up(now)
            for batch in decision.stuck:
                self._ledger.fail(batch.entries, decision.ended, "its run did not come back in time")
        if self._drain_until_s is not None and now >= self._drain_until_s:
            retries = [entry for half in self._retries for entry in half]
            self._retries.clear()
            self._ledger.give_up([*self.queue.everything(), *retries], decision.ended)
        while (earliest := self.queue.next_deadline()) is not None and earliest[0] <= now:
            self._ledger.expire(earliest[1].ticket, decision.ended)
        return decision

    def start_next(self, decision: Decision, now: float) -> bool:
        """Start one batch, if one is to start now. There must be a slot for it.

        Returns:
            False if nothing started: nothing waits any more, or what waits is held.
        """
        if self._retries and (again := self._next_retry(now, decision.ended)):
            self._start(again, "isolate", decision, now)
            return True
        may_hold = not self.is_draining and not self._is_unmeasured()
        if self.spread is not None and self.spread.next_factor > 1:
            return self._start_slower(self.spread, decision, now, may_hold=may_hold)
        while (chosen := self._holder.choose(self.limits, now, may_hold=may_hold)) is not None:
            shape, reason = chosen
            cost = self.backlog.cost_of(shape)
            alone_s = cost.mean(1) if self.lengths is None else self.lengths.alone_s(shape.head)
            if not cost.is_empty and forming.is_hopeless(shape, alone_s, now) and not self._is_lone():
                self._ledger.expire(shape.head.ticket, decision.ended, is_early=True)
                continue
            if self.lengths is not None:
                return self._start_window(self.lengths, shape, reason, decision, now, may_hold=may_hold)
            selection = forming.select(shape, cost, self.sizing, now, partial(self._give_up, decision))
            if may_hold and self._is_held(shape, selection, now):
                return False
            self._cut(shape, selection.rows, "drain" if self.is_draining else reason, decision, now)
            return True
        return False

    def end(self, decision: Decision) -> Decision:
        """Close a decision: say when time alone changes what it would be."""
        wake_s = self._holder.until_s
        if (earliest := self.queue.next_deadline()) is not None and (wake_s is None or earliest[0] < wake_s):
            wake_s = earliest[0]
        until_s = self._drain_until_s
        if until_s is not None and self.is_backlogged and (wake_s is None or until_s < wake_s):
            wake_s = until_s
        decision.wake_s = wake_s
        return decision

    def wanted(self, now: float) -> float:
        """Return the slots that the model's load takes at its most efficient, as a number."""
        size = self.sizing.useful
        return self.arrivals.per_second(now) * self.cost.mean(size) / size

    # --- inside ---------------------------------------------------------------------------------------------------

    def _enqueue(self, ticket: Ticket, shape: ShapeQueue) -> None:
        rows, size, length = ticket.request.rows, self._max_rows, ticket.request.length
        if self.lengths is not None:
            self.lengths.note(length)
        if not shape.rows:
            shape.held_since_s = None
        if self.fair is not None:
            full = self.sizing.useful
            if self.lengths is None:
                row_s = self.backlog.cost_of(shape).mean(full) / full
            else:
                row_s = self.lengths.row_s(length, full)
            self.fair.charge(ticket, rows * row_s)
        if rows <= size:
            ticket.entries = (Entry(ticket, 0, rows, self._numbers, length),)
        else:
            ticket.entries = tuple(
                Entry(ticket, first, min(size, rows - first), self._numbers + part, length)
                for part, first in enumerate(range(0, rows, size))
            )
        ticket.pending = len(ticket.entries)
        self._numbers += ticket.pending
        for entry in ticket.entries:
            self.queue.push(entry, ticket.tag, shape)
        self._ledger.admit()

    def _is_unmeasured(self) -> bool:
        """True while too few runs were seen to say when a hold must end (batching.md section 7.3)."""
        return self.cost.is_empty and self.counters.executions < MIN_RUNS_TO_HOLD

    def _is_lone(self) -> bool:
        """True if nothing but one request waits or runs: it is tried while its deadline is ahead."""
        return self.queue.entries == 1 and self.device.free == self.device.slots

    def _give_up(self, decision: Decision, entry: Entry) -> None:
        self._ledger.expire(entry.ticket, decision.ended, is_early=True)

    def _is_held(self, shape: ShapeQueue, selection: forming.Selection, now: float) -> bool:
        limits = self.limits
        if limits.max_queue_delay_s is not None or not selection.may_wait:
            return False
        rate, target_s = self.arrivals, limits.latency_target_s
        # A slower device is no place for those who come while the quickest ones are taken.
        parallel = self.parallel if self.spread is None else float(self.spread.quickest)
        return self._holder.is_held(shape, selection.rows, rate, parallel, target_s, now)

    def _cut(self, shape: ShapeQueue, rows: int, reason: str, decision: Decision, now: float) -> None:
        useful = self.sizing.useful
        if rows < min(shape.rows, useful):
            reason = "deadline"  # more wait, but with them it would be too late for the head
        cost = self.backlog.cost_of(shape)
        if self.limits.preferred_batch_sizes:
            rows = forming.whole_steps(rows, shape, self.limits, cost, self.sizing.need, now)
        before = shape.rows
        entries = self.queue.take(shape, rows)
        if reason != "deadline" and (before - shape.rows >= useful or shape.rows):
            reason = "full"
        batch = self._start(entries, reason, decision, now, cost)
        self._end_hold(shape, batch, now)

    def _start_window(
        self, lengths: Lengths, shape: ShapeQueue, reason: str, decision: Decision, now: float, *, may_hold: bool
    ) -> bool:
        """Start the window of lengths that comes next, unless it is all that waits and is held (section 9)."""
        useful = self.sizing.useful
        entries = lengths.next_batch(self.queue, shape, self.limits, useful, now)
        rows = sum(entry.rows for entry in entries)
        may_wait = rows < useful and len(entries) == shape.entries
        if may_hold and self._is_held(shape, forming.Selection(rows, may_wait), now):
            return False
        # The lengths of those that wait on are too different.
        self._start_picked(shape, entries, (reason, "shape"), decision, now)
        return True

    def _start_slower(self, spread: SpreadSlots, decision: Decision, now: float, *, may_hold: bool) -> bool:
        """Start what the next slot, which is slower than others, still answers in time, if there is such a thing."""
        chosen = self._holder.choose(self.limits, now, may_hold=may_hold)
        if chosen is None:
            return False
        first, reason = chosen
        shape, entries, until_s = slower.choose(self, spread, first, now, may_hold=may_hold)
        if until_s is not None:
            self._holder.wait_until(until_s)
        if not entries:
            return False
        self._start_picked(shape, entries, (reason, "deadline"), decision, now)
        return True

    def _start_picked(
        self, shape: ShapeQueue, entries: list[Entry], reasons: tuple[str, str], decision: Decision, now: float
    ) -> None:
        """Start entries that were chosen out of a shape's order.

        Args:
            shape: Theirs.
            entries: Still in the queue.
            reasons: For the cut if nobody of the shape waits on, and if somebody does.
            decision: It is noted there.
            now: The moment.
        """
        for level in {entry.ticket.level for entry in entries}:
            self.queue.pick(shape, [entry for entry in entries if entry.ticket.level == level])
        reason = reasons[bool(shape.rows)]
        if self.is_draining:
            reason = "drain"
        elif sum(entry.rows for entry in entries) >= self.sizing.useful:
            reason = "full"
        batch = self._start(entries, reason, decision, now, self.backlog.cost_of(shape))
        self._end_hold(shape, batch, now)

    def _end_hold(self, shape: ShapeQueue, batch: Batch, now: float) -> None:
        if shape.held_since_s is not None:
            batch.held_s, shape.held_since_s = now - shape.held_since_s, None

    def _next_retry(self, now: float, ended: list[Ticket]) -> list[Entry]:
        """Return the next half of a failed batch that somebody still waits for; empty if there is none.

        A run again must begin before the deadline, as any run: who has no time left for it fails now.
        """
        while self._retries:
            alive = [entry for entry in self._retries.popleft() if entry.ticket.outcome is None]
            self._ledger.fail((entry for entry in alive if entry.ticket.deadline_s <= now), ended)
            if again := [entry for entry in alive if entry.ticket.outcome is None]:
                return again
        return []

    def _start(
        self, entries: list[Entry], reason: str, decision: Decision, now: float, cost: CostModel | None = None
    ) -> Batch:
        cost = cost or self.cost
        self._ledger.start(entries)
        self.counters.batches[reason] += 1
        batch = Batch(entries, reason, self.slots.next_index(), now, self.limits.pad)
        if self.lengths is not None:
            cost = self.lengths.by_tokens
        batch.predicted_s = cost.mean(max(1, batch.tokens))
        self.device.charge(self, batch.predicted_s)
        if self.spread is not None:
            batch.predicted_s *= self.spread.speeds.of(batch.slot)
        batch.upper_s = cost.q * batch.predicted_s
        self.slots.start(batch)
        decision.batches.append(batch)
        return batch
