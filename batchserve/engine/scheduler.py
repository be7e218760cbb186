"""Drives one model's queue to its instances: turns the policy's decisions into hand-overs, timers and replies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchserve.core.request import Phases, Request, Response
from batchserve.core.ticket import Outcome, Ticket
from batchserve.engine.affinity import share_of
from batchserve.engine.events import BatchEnded, RequestsEnded, TracedRequest
from batchserve.engine.instance import Execution, Instance
from batchserve.engine.placement import Placement
from batchserve.errors import BackendError, Draining, InternalError, OutOfMemory, Refused, RequestError, WorkerDied
from batchserve.timer import Timer

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.core.batch import Batch
    from batchserve.core.limits import Limits
    from batchserve.core.policy import Decision, Policy
    from batchserve.engine.devices import DeviceGroup
    from batchserve.engine.profiling import CountedRuns

__all__ = ["Release", "Reply", "Scheduler"]

Reply = Callable[[Response | RequestError], None]
Release = Callable[[], None]

_COMPLETED = Outcome.COMPLETED  # an Enum's members are slow to look up

logger = logging.getLogger(__name__)


class Scheduler:
    """The asyncio side of a `Policy`.

    Owns the instances and the timer of one model version. Event loop only. Arrivals only mark it dirty; the decision
    is taken once at the end of the loop's turn, so requests read in the same turn share a batch at no cost in time.

    Args:
        name: The model's name and version, for threads and the log.
        policy: Its rules and queue.
        sessions: What runs the batches, by device: slot `i` is on device `i % len(sessions)`.
        placement: Says which of them run on the loop's own thread.
        group: The models on the device it runs on; `policy` has joined that device.
        loop: The event loop.
        on_batch: Hears of each execution.
        on_ended: Hears of requests that ended without an answer.
        cores: Where its instances' threads are kept, shared out; anywhere if there are none.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        sessions: Sequence[Session],
        placement: Placement,
        group: DeviceGroup,
        *,
        loop: asyncio.AbstractEventLoop,
        on_batch: Callable[[BatchEnded], None],
        on_ended: Callable[[RequestsEnded], None],
        cores: Sequence[int] = (),
    ) -> None:
        self.policy = policy
        self._name = name
        self._loop = loop
        self._on_batch = on_batch
        self._on_ended = on_ended
        self._marked_s: float | None = None
        self._is_closed = False
        self._placement = placement
        self._group = group
        self._devices = len(sessions)
        self._empty: asyncio.Future[None] | None = None
        self._stuck: set[int] = set()
        self._timer = Timer(loop, self._turn)
        self._instances = [
            Instance(
                f"{name}#{index}",
                sessions[index % len(sessions)],
                is_batching=policy.limits.max_batch_size > 0,
                loop=loop,
                on_done=self._batch_done,
                cores=share_of(cores, index, policy.limits.slots),
            )
            for index in range(policy.limits.slots)
        ]

    def submit(self, request: Request, reply: Reply, release: Release | None = None) -> Ticket:
        """Queue a request.

        Args:
            request: Checked against the signature.
            reply: Called exactly once with the answer or the error, later on the event loop; not called if the
                request is cancelled.
            release: Called exactly once, on the event loop, when the request has ended and no run reads its arrays
                any more; after `reply`. The memory they lie in may be used again then.

        Raises:
            RequestError: It was refused: neither `reply` nor `release` will be called.
        """
        now = time.monotonic()
        try:
            ticket = self.policy.arrive(request, now)
        except (Refused, Draining):
            self.policy.counters.note_refusal(time.monotonic() - request.arrival_s)
            raise
        ticket.reply = reply
        ticket.release = release
        if self._marked_s is None:
            self._mark(now)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Drop a request whose client left. Nothing happens if it has ended."""
        if ticket.outcome is not None:
            return
        self.policy.cancel(ticket)
        ticket.reply = None
        _release(ticket)
        self._on_ended(RequestsEnded("cancelled", (ticket.request.arrival_s,), time.monotonic()))
        self._turn()  # if it was the head, or the last of a drain, something may have changed

    def reconfigure(self, limits: Limits) -> None:
        """Go on with other limits; see `Policy.reconfigure`. What they change for those that wait is done now."""
        self.policy.reconfigure(limits)
        self._turn()

    def start_drain(self, timeout_s: float) -> None:
        """Stop admission now; what waits is finished within `timeout_s`, the rest given up then.

        May be called again with less time.
        """
        self.policy.drain(time.monotonic() + timeout_s)
        self._turn()

    def use(self, session: Session | CountedRuns) -> None:
        """Run every batch that begins from now on with another session; on the first device, if there are several."""
        for instance in self._instances[:: self._devices]:
            instance.use(session)

    async def drained(self) -> None:
        """Wait until nothing waits or runs. Cancelling the wait leaves the drain going."""
        if self.policy.is_empty:
            return
        if self._empty is None:
            self._empty = self._loop.create_future()
        await asyncio.shield(self._empty)

    async def close(self) -> None:
        """End the instances' threads. Only when drained; waits for them without holding the loop.

        A thread whose run is stuck is left to itself: it ends when its run does, or with the process.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._group.leave(self.policy)
        self._timer.close()
        for instance in self._instances:
            instance.stop()
        for index, instance in enumerate(self._instances):
            if index not in self._stuck:
                await asyncio.to_thread(instance.join)

    def _mark(self, now: float) -> None:
        """Have a decision taken at the end of this turn of the loop."""
        self._marked_s = now
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Take the decision and carry it out."""
        now = time.monotonic()
        lag_s = 0.0 if self._marked_s is None else now - self._marked_s
        self._marked_s = None
        if not self._is_closed:
            self._group.decide(self.policy, now, lag_s)

    def carry_out(self, decision: Decision, now: float, lag_s: float = 0.0) -> None:
        """Start the batches of a decision, write the answers of those that ended without one, and set the timer."""
        here = []
        for batch in decision.batches:
            if self._placement.is_in_place(batch.tokens, lag_s):
                here.append(batch)
            else:
                self._instances[batch.slot].start(batch)
        self._set_timer(decision.wake_s)
        for batch in decision.stuck:
            self._note_stuck(batch, now)
        if decision.ended:
            self._reply_errors(decision.ended)
        for batch in here:
            self._run_here(batch)
        if self._empty is not None and not self._empty.done() and self.policy.is_empty:
            self._empty.set_result(None)

    def _set_timer(self, wake_s: float | None) -> None:
        stuck_at_s = self.policy.slots.stuck_at_s
        if stuck_at_s is not None and (wake_s is None or stuck_at_s < wake_s):
            wake_s = stuck_at_s
        self._timer.wake_at(wake_s)

    def _note_stuck(self, batch: Batch, now: float) -> None:
        logger.error(
            "a run of model %s with %d rows has not come back for %.3g s: its requests fail, it is asked to end, and "
            "its slot is out of service until it does",
            *(self._name, batch.rows, now - batch.cut_s),
        )
        self._stuck.add(batch.slot)
        self._instances[batch.slot].interrupt()

    def _run_here(self, batch: Batch) -> None:
        """Run a batch on the loop's own thread. What waits behind it is decided on in the loop's next turn."""
        execution = self._instances[batch.slot].execute(batch)
        batch.cut_s = execution.start_s  # it may have waited for another one that ran here, which is none of its cost
        self.policy.counters.in_place += 1
        now = time.monotonic()
        ended = self._finish(batch, execution, now)
        if not self.policy.is_empty and self._marked_s is None:
            self._mark(now)
        self._settle(batch, execution, ended, now)

    def _batch_done(self, batch: Batch, execution: Execution) -> None:
        """Take a batch back from its instance's thread."""
        now = time.monotonic()
        self._placement.observe_hop(execution.start_s - batch.cut_s + now - execution.end_s)
        ended = self._finish(batch, execution, now)
        self._turn()  # the next batch is handed over before the answers of this one are written
        self._settle(batch, execution, ended, now)

    def _finish(self, batch: Batch, execution: Execution, now: float) -> list[Ticket]:
        ok = execution.error is None
        if batch.is_stuck:
            self._stuck.discard(batch.slot)
            logger.warning(
                "the stuck run of model %s came back after %.3g s: its slot is in service again",
                *(self._name, now - batch.cut_s),
            )
        if execution.error is not None:
            self._log_failure(batch, execution.error)
        took_s = execution.run_end_s - execution.run_start_s
        return self.policy.finish(
            batch,
            now,
            ok=ok,
            took_s=None if batch.is_stuck else took_s,  # what it took says nothing of the next one
            overhead_s=now - batch.cut_s - took_s,
            out_of_memory=isinstance(execution.error, OutOfMemory | MemoryError),
            has_crashed=isinstance(execution.error, WorkerDied),
        )

    def _settle(self, batch: Batch, execution: Execution, ended: list[Ticket], now: float) -> None:
        """Write the answers of a batch and tell of it."""
        completed = ended
        for ticket in ended:
            if ticket.outcome is not _COMPLETED:
                completed = [ticket for ticket in ended if ticket.outcome is _COMPLETED]
                break
        start_s, run_start_s, run_end_s = execution.start_s, execution.run_start_s, execution.run_end_s
        for ticket in completed:
            phases = Phases(ticket.request.arrival_s, ticket.admitted_s, start_s, run_start_s, run_end_s, now)
            self._reply(ticket, Response(ticket.result(), phases, batch.rows))
        if len(completed) < len(ended):
            self._reply_errors([ticket for ticket in ended if ticket.outcome is not _COMPLETED])
        for entry in batch.entries:
            _release(entry.ticket)
        self._on_batch(_event(batch, execution, completed, now, time.monotonic()))

    def _reply_errors(self, tickets: Sequence[Ticket]) -> None:
        by_outcome: dict[str, list[float]] = {}
        for ticket in tickets:
            assert ticket.outcome is not None, "ended without an outcome"
            by_outcome.setdefault(ticket.outcome.value, []).append(ticket.request.arrival_s)
            self._reply(ticket, ticket.error or InternalError("the server failed on this request"))
            _release(ticket)
        now = time.monotonic()
        for outcome, arrivals_s in by_outcome.items():
            self._on_ended(RequestsEnded(outcome, arrivals_s, now))

    def _reply(self, ticket: Ticket, result: Response | RequestError) -> None:
        reply, ticket.reply = ticket.reply, None
        if reply is None:
            return
        try:
            reply(result)
        except Exception:  # one client's connection must not keep the others of the batch from their answers
            logger.exception("a reply of model %s could not be delivered", self._name)

    def _log_failure(self, batch: Batch, error: Exception) -> None:
        if batch.is_stuck:
            return
        may_repeat = self.policy.limits.isolate_failures and not isinstance(error, WorkerDied)
        will_repeat = len(batch.entries) > 1 and may_repeat
        names = [entry.ticket.request.trace.request_id for entry in batch.entries if entry.ticket.request.trace]
        logger.warning(
            "a run of model %s with %d rows of %d requests failed%s: %s",
            self._name,
            batch.rows,
            len(batch.entries),
            ", it is run again in halves" if will_repeat else "",
            error,
            exc_info=None if isinstance(error, BackendError) else error,
            extra={"request_ids": names} if names else None,
        )


def _release(ticket: Ticket) -> None:
    """Once a ticket has ended and no run reads its arrays any more, tell their owner and take it apart.

    Ticket and entries refer to each other. Left like that they would wait for the garbage collector, and the arrays and
    outputs with them: at full load it spent a twentieth of the processor's time on nothing else.
    """
    if ticket.outcome is None or ticket.running:
        return
    ticket.entries = ()
    release, ticket.release = ticket.release, None
    if release is not None:
        release()


def _event(
    batch: Batch, execution: Execution, completed: Sequence[Ticket], now: float, answered_s: float
) -> BatchEnded:
    arrivals_s, admissions_s, rows, late, is_named = [], [], 0, 0, False
    for ticket in completed:
        request = ticket.request
        arrivals_s.append(request.arrival_s)
        admissions_s.append(ticket.admitted_s)
        rows += request.rows
        late += now > ticket.deadline_s
        is_named |= request.trace is not None
    event = BatchEnded(  # by position: names would cost a microsecond
        batch.rows,
        len(batch.entries),
        batch.reason,
        batch.slot,
        execution.error is None,
        execution.start_s,
        execution.run_start_s,
        execution.run_end_s,
        now,
        arrivals_s,
        admissions_s,
        rows,
        late,
        batch.predicted_s,
        batch.held_s,
        answered_s,
    )
    event.cut_s, event.padded_share, event.tokens = batch.cut_s, batch.padded_share, batch.tokens
    if is_named:
        traces = [ticket.request.trace for ticket in completed]
        event.trace_ids = [trace.trace_id if trace and trace.is_sampled else "" for trace in traces]
        event.traced = _traced(completed)
    return event


def _traced(completed: Sequence[Ticket]) -> list[TracedRequest]:
    return [
        TracedRequest(trace, ticket.admitted_s, ticket.request.rows)
        for ticket in completed
        if (trace := ticket.request.trace) is not None and trace.span_id
    ]
