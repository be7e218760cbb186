"""Load at a fixed rate, from a thread of its own: requests leave when they are due, whether or not others are back.

A request that is due while all connections are busy waits for the next one that is free, and its latency counts from
when it was due.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from loadtest.client import LoadError
from loadtest.wire import read_head

__all__ = ["Paced"]

PATIENCE_S = 30.0
STEP_S = 0.001


class Paced:
    """A load that goes on from `start` to `stop`; a context manager that does both.

    Args:
        port: Where the server listens on this machine.
        requests: Whole HTTP requests, sent in turns; or a function that writes the next one.
        per_s: How many times a second.
        connections: How many to open.
        burst: How many requests leave at each of those times.
        reopens: True if a connection that the server closes is opened again, and what was asked on it is lost.

    Attributes:
        statuses: Answers so far by status.
        latencies_s: Seconds of each 200 answer, from when it was due.
        is_failed: Set if the server closed a connection or was not there; `error` says more.
    """

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes] | Callable[[], bytes],
        per_s: float,
        connections: int = 8,
        burst: int = 1,
        *,
        reopens: bool = False,
    ) -> None:
        self.statuses: Counter[int] = Counter()
        self.latencies_s: list[float] = []
        self.error = ""
        self._port = port
        self._next = requests if callable(requests) else itertools.cycle(requests).__next__
        self._per_s = per_s
        self._connections = connections
        self._burst = burst
        self._reopens = reopens
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="paced", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the load and wait until every answer is there.

        Raises:
            LoadError: The server was not there, or closed a connection.
        """
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        if self.error:
            raise LoadError(self.error)

    def _work(self) -> None:
        try:
            asyncio.run(self._run())
        except (OSError, LoadError, TimeoutError) as error:
            self.error = f"the load at {self._per_s:g} requests a second broke: {error}"

    async def _run(self) -> None:
        free: deque[_Connection] = deque()
        everything = [await self._open(free) for _ in range(self._connections)]
        due: deque[float] = deque()
        moments = self._moments()
        coming = next(moments)
        while not self._stopping.is_set():
            now = time.monotonic()
            while coming <= now:
                due.append(coming)
                coming = next(moments)
            while due and free:
                free.popleft().ask(self._next(), due.popleft())
            await self._check(everything, free)
            await asyncio.sleep(max(STEP_S, min(coming - time.monotonic(), 0.05)))
        end = time.monotonic() + PATIENCE_S
        while len(free) < self._connections and time.monotonic() < end:
            await self._check(everything, free)
            await asyncio.sleep(STEP_S)
        for connection in everything:
            connection.close()

    def _moments(self) -> Iterator[float]:
        first = time.monotonic()
        return (first + number // self._burst / self._per_s for number in itertools.count())

    async def _open(self, free: deque[_Connection]) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self, free), "127.0.0.1", self._port)
        return connection

    async def _check(self, connections: list[_Connection], free: deque[_Connection]) -> None:
        for place, connection in enumerate(connections):
            if connection.is_lost:
                if not self._reopens:
                    raise LoadError("the server closed a connection")
                if connection in free:
                    free.remove(connection)
                connections[place] = await self._open(free)


class _Connection(asyncio.Protocol):
    """One connection, which is free or waits for one answer."""

    def __init__(self, load: Paced, free: deque[_Connection]) -> None:
        self.is_lost = False
        self._load = load
        self._free = free
        self._received = bytearray()
        self._wanted = 0
        self._status = 0
        self._due_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def ask(self, request: bytes, due_s: float) -> None:
        assert self._transport is not None, "only connected ones are free"
        self._due_s = due_s
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._wanted:
            end = self._received.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            self._status, headers = read_head(bytes(self._received[:end]))
            self._wanted = end + int(headers["content-length"])
        if len(self._received) < self._wanted:
            return
        self._load.statuses[self._status] += 1
        if self._status == 200:
            self._load.latencies_s.append(time.monotonic() - self._due_s)
        self._received.clear()
        self._wanted = 0
        self._free.append(self)
