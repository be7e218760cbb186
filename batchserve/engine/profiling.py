"""Profiles a model's next batches: they run on a second session that the runtime watches, all others as ever."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchserve.errors import DeadlineExceeded

if TYPE_CHECKING:
    from batchserve.backends.base import Profiled, Session
    from batchserve.core.tensors import Array

__all__ = ["CountedRuns", "profile"]


async def profile(
    name: str,
    session: Session,
    use: Callable[[Session | CountedRuns], None],
    batches: int,
    timeout_s: float,
) -> bytes:
    """Let the runtime write down a model's next batches. Event loop only.

    Args:
        name: The model's name, for errors.
        session: What runs it.
        use: Makes another session run every batch that begins from now on.
        batches: How many are written down.
        timeout_s: Seconds after which what was seen so far is enough.

    Raises:
        ModelLoadError: The session cannot be profiled.
        DeadlineExceeded: No batch ran in that time.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    profiled = await asyncio.to_thread(session.profiled)
    counted = CountedRuns(session, profiled, batches, lambda: loop.call_soon_threadsafe(done.set))
    use(counted)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), timeout_s)
    finally:
        use(session)
        trace = await asyncio.to_thread(_end, counted, profiled)
    if not counted.done:
        raise DeadlineExceeded(
            f"no batch of model '{name}' ran within {timeout_s:g} s: send requests while it is profiled"
        )
    return trace


def _end(counted: CountedRuns, profiled: Profiled) -> bytes:
    counted.stop()
    return profiled.end()


class CountedRuns:
    """Takes a session's place for so many runs, which go to a profiled one. `run` from any thread.

    Args:
        session: Runs what comes afterwards.
        profiled: Runs the first ones.
        runs: How many.
        on_done: Called once, on any thread, when all of them have ended.
    """

    def __init__(self, session: Session, profiled: Profiled, runs: int, on_done: Callable[[], object]) -> None:
        self._session = session
        self._profiled = profiled
        self._left = runs
        self._running = 0
        self._on_done = on_done
        self._changed = threading.Condition()
        self.done = 0

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Run once; see `Session.run`."""
        with self._changed:
            is_profiled = self._left > 0
            self._left -= is_profiled
            self._running += is_profiled
        if not is_profiled:
            return self._session.run(inputs, output_mask)
        try:
            return self._profiled.run(inputs, output_mask)
        finally:
            with self._changed:
                self._running -= 1
                self.done += 1
                is_over = not self._left and not self._running
                self._changed.notify_all()
            if is_over:
                self._on_done()

    def interrupt(self, thread: int) -> None:
        """Interrupt the run on a thread, if it is one of the session's own; see `Session.interrupt`."""
        self._session.interrupt(thread)

    def stop(self) -> None:
        """Profile no further run, and wait for those under way. Blocks; may be called again."""
        with self._changed:
            self._left = 0
            self._changed.wait_for(lambda: not self._running)
