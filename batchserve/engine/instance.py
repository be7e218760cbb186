"""One instance of a model: a thread that gathers, runs and splits batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from batchserve.core.batch import Batch, gather, join_parts, scatter
from batchserve.engine.affinity import pin

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.core.ticket import Ticket
    from batchserve.engine.profiling import CountedRuns

__all__ = ["Execution", "Instance"]

_join_lock = threading.Lock()
"""Guards the question "was mine the last part?" of split requests, whose parts may end on several threads at once."""


@dataclass(slots=True)  # not frozen: one is made for each batch, in a quarter of the time
class Execution:
    """How one batch went. Nobody writes to it.

    Attributes:
        start_s: The thread took it up (monotonic).
        run_start_s: Its arrays were gathered.
        run_end_s: The runtime returned; the moment of failure if it failed.
        end_s: Its outputs were split off; the batch went back.
        error: None if every entry has its outputs.
    """

    start_s: float
    run_start_s: float
    run_end_s: float
    end_s: float
    error: Exception | None


class Instance:
    """A thread that runs the batches it is handed, one after the other.

    `start` and `stop` are called on the event loop, everything else happens on the thread; `on_done` is called on the
    event loop again. One hand-over each way per batch.

    Args:
        name: For the thread.
        session: Shared with the model's other instances.
        is_batching: Whether axis 0 of every tensor is the batch.
        loop: Where `on_done` is called.
        on_done: Takes the batch and how it went.
        cores: Where the thread is kept; anywhere if there are none.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        *,
        is_batching: bool,
        loop: asyncio.AbstractEventLoop,
        on_done: Callable[[Batch, Execution], None],
        cores: Sequence[int] = (),
    ) -> None:
        self._session: Session | CountedRuns = session
        self._is_batching = is_batching
        self._loop = loop
        self._on_done = on_done
        self._cores = cores
        self._inbox: SimpleQueue[Batch | None] = SimpleQueue()
        # A daemon, because a run that hangs must not keep the process from stopping at the second signal.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def use(self, session: Session | CountedRuns) -> None:
        """Run every batch that begins from now on with another session."""
        self._session = session

    def start(self, batch: Batch) -> None:
        """Hand a batch over. Returns at once."""
        self._inbox.put(batch)

    def stop(self) -> None:
        """Let the thread end once it has done what it was handed. Returns at once."""
        self._inbox.put(None)

    def interrupt(self) -> None:
        """Ask its run to end. Returns at once; the batch comes back as every other does, if it ever does."""
        assert self._thread.ident is not None, "the thread was started"
        self._session.interrupt(self._thread.ident)

    def join(self) -> None:
        """Wait for the thread's end. Blocks: not on the event loop."""
        self._thread.join()

    def _work(self) -> None:
        pin(self._cores)
        while (batch := self._inbox.get()) is not None:
            execution = self.execute(batch)
            try:
                self._loop.call_soon_threadsafe(self._on_done, batch, execution)
            except RuntimeError:  # the loop is closed: the process is ending and nobody waits any more
                return
            del batch, execution  # the arrays must not outlive the batch while the thread waits for the next one

    def execute(self, batch: Batch) -> Execution:
        """Gather, run and split a batch on the calling thread: the instance's own, or the loop's while that is idle."""
        start_s = run_start_s = time.monotonic()
        try:
            inputs = gather(batch)
            run_start_s = time.monotonic()
            outputs = self._session.run(inputs, batch.output_mask)
            run_end_s = time.monotonic()
            scatter(batch, outputs, is_batching=self._is_batching)
            if batch.has_parts:
                for entry in batch.entries:
                    if entry.is_part:
                        _join_if_last(entry.ticket)
        except Exception as error:  # noqa: BLE001  # the thread must not die; the scheduler logs it
            end_s = time.monotonic()
            return Execution(start_s, run_start_s, end_s, end_s, error)
        return Execution(start_s, run_start_s, run_end_s, time.monotonic(), None)


def _join_if_last(ticket: Ticket) -> None:
    """Join a split request's outputs on the thread that brought its last part, off the event loop."""
    with _join_lock:
        if ticket.is_joined or any(entry.outputs is None for entry in ticket.entries):
            return
        ticket.is_joined = True
    join_parts(ticket)
