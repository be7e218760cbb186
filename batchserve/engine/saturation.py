"""Keeps a model's runs going as a saturated engine does, to measure how many there are in a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from batchserve.engine.affinity import pin, share_of
from batchserve.errors import BackendError

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.core.tensors import Array

__all__ = ["ROW_S", "saturate"]

ROW_S = 20e-6
"""Work of the event loop for each row, done on the cores that the runs want: about what a small request costs."""


def saturate(
    session: Session,
    inputs: Sequence[Array],
    mask: int,
    rows: int,
    streams: int,
    window_s: float,
    row_s: float = ROW_S,
    cores: Sequence[int] = (),
) -> float:
    """Run the same inputs on so many threads for a while, as the engine does. Blocks.

    The calling thread plays the event loop: it hands the next run over and then works on the answers of the last one.
    Each stream's rate is taken over its own time, so that a run that ends late does not count as idleness of others.

    Args:
        session: Nothing else runs on it.
        inputs: Of `rows` rows; they ran before.
        mask: Outputs, as for `Session.run`.
        rows: Rows of a run.
        streams: Runs at once.
        window_s: No run begins later than so many seconds after the first.
        row_s: Seconds that the event loop works for each row.
        cores: Where the streams are kept, shared out; anywhere if there are none.

    Returns:
        Runs in a second, of all streams together.

    Raises:
        BackendError: A run failed.
    """
    done: SimpleQueue[tuple[int, BackendError | None]] = SimpleQueue()
    inboxes = [SimpleQueue[bool]() for _ in range(streams)]

    def work(index: int) -> None:
        pin(share_of(cores, index, streams))
        error = None
        while inboxes[index].get() and error is None:
            try:
                session.run(inputs, mask)
            except BackendError as failure:
                error = failure
            done.put((index, error))

    # Daemons, ended whatever happens: a signal may raise anywhere here, and a thread that waits would keep the process.
    threads = [
        threading.Thread(target=work, args=(index,), name=f"calibrate-{index}", daemon=True) for index in range(streams)
    ]
    runs, spans_s, running = [0] * streams, [0.0] * streams, streams
    problem: BackendError | None = None
    try:
        for thread in threads:
            thread.start()
        start_s = time.perf_counter()
        for inbox in inboxes:
            inbox.put(True)
        while running:
            index, error = done.get()
            now_s = time.perf_counter()
            runs[index] += 1
            spans_s[index] = now_s - start_s
            problem = problem or error
            goes_on = problem is None and now_s - start_s < window_s
            inboxes[index].put(goes_on)
            running -= not goes_on
            while time.perf_counter() - now_s < rows * row_s:
                pass
    finally:
        for inbox in inboxes:
            inbox.put(False)
        for thread in threads:
            if thread.ident is not None:  # it was started
                thread.join()
    if problem is not None:
        raise problem
    return sum(count / span_s for count, span_s in zip(runs, spans_s, strict=True))
