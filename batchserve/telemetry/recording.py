"""Writes down when requests came and what they were like, so that the same traffic can be sent again.

One JSON object a line, in rotated files. The first line of a file says when it begins; every other is a request:

    {"format": "batchserve-arrivals/1", "started": "2026-01-01T12:00:00.000Z"}
    {"t": 0.001532, "model": "encoder", "rows": 2, "dims": [[17], [17]], "priority": 1, "client": "5f3a9c01"}

`t` counts from the file's beginning. `dims` are the shapes of the inputs in the model's order, without the batch axis
where there is one. No payload, no address and no client's name is written: `client` is a hash with a salt that only
this process knows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from batchserve.engine.events import NullListener

if TYPE_CHECKING:
    from batchserve.core.request import Request
    from batchserve.core.shapes import ShapeKey
    from batchserve.engine.model import Model

__all__ = ["FORMAT", "Recorder"]

FORMAT = "batchserve-arrivals/1"

CHUNK = 1024
"""Requests that are handed to the writing thread at once."""

FLUSH_S = 1.0

MOST_WAITING = 64
"""Chunks that may wait for the disk; what comes beyond is lost, and said to be."""

logger = logging.getLogger(__name__)

_Arrival = tuple[float, str, int, "ShapeKey", int, int, str]


class Recorder(NullListener):
    """Hears of every request as it is submitted, refused ones too. Event loop only; the files are the executor's.

    Args:
        folder: Where files are written; made if it is not there.
        file_size_bytes: A file that is larger is followed by a new one.
        most_files: The oldest of more recordings in the folder are removed, those of earlier processes too.
        executor: Writes; one thread, so that lines stay in order. Its own if there is none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        file_size_bytes: int,
        most_files: int,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arrivals: list[_Arrival] = []
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="record")
        self._is_own = executor is None
        self._files = _Files(folder, file_size_bytes, most_files, clock)
        self._writing: list[Future[None]] = []
        self._lost = 0
        self._handle: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write down what was noted once a second, however little it is."""
        self.flush()
        self._handle = loop.call_later(FLUSH_S, self.start, loop)

    def arrived(self, model: Model, request: Request) -> None:
        """Note a request."""
        self._arrivals.append(
            (
                request.arrival_s,
                model.name,
                request.rows,
                request.key,
                request.length,
                request.priority,
                request.client,
            )
        )
        if len(self._arrivals) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Hand what was noted to the writing thread."""
        arrivals, self._arrivals = self._arrivals, []
        if not arrivals:
            return
        self._writing = [one for one in self._writing if not one.done()]
        if len(self._writing) >= MOST_WAITING:
            if not self._lost:
                logger.warning("recording: the disk is slower than the requests, so some are not written down")
            self._lost += len(arrivals)
            return
        self._writing.append(self._executor.submit(self._files.write, arrivals))

    def close(self) -> None:
        """Write what was noted and end. Blocks until it is on its way to the disk."""
        if self._handle is not None:
            self._handle.cancel()
        self.flush()
        for one in self._writing:
            one.result()
        self._executor.submit(self._files.close).result()
        if self._is_own:
            self._executor.shutdown()
        if self._lost:
            logger.warning("recording: %d requests were not written down", self._lost)


class _Files:
    """The files of one recorder. One thread only."""

    def __init__(self, folder: Path, file_size_bytes: int, most_files: int, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._file_size_bytes = file_size_bytes
        self._most_files = most_files
        self._clock = clock
        self._salt = secrets.token_bytes(16)
        self._clients: dict[str, str] = {}
        self._file: TextIO | None = None
        self._count = 0
        self._kept: list[Path] = []
        self._start_s = 0.0
        self._has_failed = False

    def write(self, arrivals: list[_Arrival]) -> None:
        """Write lines. What cannot be written is said once: it must not end a server."""
        try:
            file = self._current(arrivals[0][0])
            file.write("".join(map(self._line, arrivals)))
            file.flush()
        except OSError as error:
            if not self._has_failed:
                logger.warning("recording: cannot be written to %s: %s", self._folder, error)
            self._has_failed = True

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _current(self, first_s: float) -> TextIO:
        """Return the file to write to, a new one if the old one is large enough."""
        if self._file is not None and self._file.tell() < self._file_size_bytes:
            return self._file
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._count:
            self._kept = sorted(self._folder.glob("arrivals-*.jsonl"))  # the time comes first in their names
        self._count += 1
        self._start_s = first_s
        began = datetime.fromtimestamp(time.time() - (self._clock() - first_s), UTC)
        path = self._folder / f"arrivals-{began:%Y%m%dT%H%M%S}-{os.getpid()}-{self._count}.jsonl"
        self._file = path.open("w", encoding="utf-8")
        self._file.write(json.dumps({"format": FORMAT, "started": began.isoformat(timespec="milliseconds")}) + "\n")
        self._kept.append(path)
        while len(self._kept) > self._most_files:
            self._kept.pop(0).unlink(missing_ok=True)
        return self._file

    def _line(self, arrival: _Arrival) -> str:
        at_s, model, rows, key, length, priority, client = arrival
        parts: dict[str, object] = {"t": round(at_s - self._start_s, 6), "model": model, "rows": rows}
        # A padded axis stands in the key as -1: requests of all lengths may share a run.
        parts["dims"] = [[length if size < 0 else size for size in shape] for shape in key] if length else key
        if priority:
            parts["priority"] = priority
        if client:
            parts["client"] = self._hashed(client)
        return json.dumps(parts, separators=(",", ":")) + "\n"

    def _hashed(self, client: str) -> str:
        known = self._clients.get(client)
        if known is None:
            if len(self._clients) >= 1 << 16:
                self._clients.clear()
            digest = hashlib.blake2b(client.encode("utf-8", "surrogateescape"), key=self._salt, digest_size=6)
            known = self._clients[client] = digest.hexdigest()
        return known
