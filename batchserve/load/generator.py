"""Applies a plan to a server: sends each request when it is due, whatever has become of those before it.

An open loop does not wait for answers. A request that finds no free connection waits in the generator, and its latency
counts from the moment it was due all the same, so a server that stalls is seen to stall. A closed loop sends the next
request of a connection once the last one is answered.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchserve.load.connection import RECEIVE_BYTES, Connection, Heads
from batchserve.load.tally import Tally
from batchserve.load.tick import Ticks
from batchserve.timer import Timer

if TYPE_CHECKING:
    from batchserve.load.answers import Head
    from batchserve.load.plan import Plan
    from batchserve.load.questions import Question
    from batchserve.load.target import Target

__all__ = ["Applied", "Generator", "Progress"]

FIRST_CONNECTIONS = 32
"""Connections of an open loop that are there before the first request is due."""

MOST_OPENING = 64
"""Connections that are being opened at a time."""

AT_ONCE = 256
"""Requests sent before answers are looked at, if the load is late."""

SLICE = 4096
"""Requests of the schedule that are turned into Python's numbers at a time, in some 0.1 ms."""

FLUSH_S = 0.1

clock = time.monotonic


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    elapsed_s: float
    duration_s: float
    answered: int
    failed: int


@dataclass(frozen=True)
class Applied:
    """A run that has ended.

    Attributes:
        tally: What became of its requests.
        started_at: Wall-clock time of its beginning, seconds since the epoch.
        elapsed_s: From its beginning until the last answer.
        cpu_s: Processor time of this process meanwhile.
        most_waiting: The most requests that were due at one moment and had no connection.
        connections: The most connections at one moment.
        tick_s: The longest tick; 0 if there was none.
    """

    tally: Tally
    started_at: float
    elapsed_s: float
    cpu_s: float
    most_waiting: int
    connections: int
    tick_s: float


class Generator:
    """One run of a plan. Event loop only; to be run once.

    Invariant: a request that was begun ends exactly once, in the tally; `_pending` counts those that have not.

    Args:
        target: The server.
        plan: What to do.
        observe: Told about the progress once a second.
    """

    def __init__(self, target: Target, plan: Plan, observe: Callable[[Progress], None] | None = None) -> None:
        self.scratch = memoryview(bytearray(RECEIVE_BYTES))
        self.heads = Heads()
        self._target = target
        self._plan = plan
        self._observe = observe
        self._is_open_loop = plan.times_s is not None
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._free: list[Connection] = []
        self._waiting: deque[tuple[Question, float]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()
        self._pending = self._turn = self._at = self._sent = 0
        self._slice: list[tuple[float, int]] = []
        self._next_s = 0.0
        self._has_begun = self._is_over = False
        self._end_s = 0.0
        self._most_waiting = self._most_connections = 0
        self._ticks = Ticks()
        self._tick_s = self._longest_tick_s = plan.tick_s or 0.0
        self._start_s = clock()
        self._tally = Tally(plan, self._start_s)

    async def run(self) -> Applied:
        """Apply the plan, until the last request is answered or has failed.

        If the caller is cancelled here, all connections are closed and nothing is reported.
        """
        timer = Timer(self._loop, self._pump)
        self._timer = timer
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection would hold the loop; what is allocated from here on has no cycles
        housekeeping: asyncio.Task[None] | None = None
        try:
            first = FIRST_CONNECTIONS if self._is_open_loop else self._plan.connections
            for _ in range(min(first, self._plan.connections)):
                self._open()
            await asyncio.gather(*self._opening)
            started_at, cpu_s = time.time(), time.process_time()
            self._begin()
            housekeeping = self._loop.create_task(self._keep_house())
            await self._finished.wait()
            elapsed_s = clock() - self._start_s
            self._tally.flush()
            cpu_s = time.process_time() - cpu_s
        finally:
            self._is_over = True
            gc.enable()
            gc.unfreeze()
            timer.close()
            if housekeeping is not None:
                housekeeping.cancel()
            await self._close()
        return Applied(
            self._tally, started_at, elapsed_s, cpu_s, self._most_waiting, self._most_connections, self._longest_tick_s
        )

    # --- what is due ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._start_s = clock()
        self._tally = Tally(self._plan, self._start_s)
        self._end_s = self._start_s + self._plan.duration_s
        self._has_begun = True
        if self._is_open_loop:
            self._advance()
            self._pump()
            if self._tick_s:
                self._tick()
            return
        free, self._free = self._free, []
        for connection in free:
            self._freed(connection)
        self._missing_connections()

    def _advance(self) -> None:
        """Find the next request of the schedule."""
        if not self._slice:
            times_s, which, at = self._plan.times_s, self._plan.which, self._at
            assert times_s is not None
            self._slice = list(zip(times_s[at : at + SLICE].tolist(), which[at : at + SLICE].tolist(), strict=True))[
                ::-1
            ]
            self._at += len(self._slice)
        if self._slice:
            self._next_s = self._start_s + self._slice[-1][0]
        else:
            self._next_s = float("inf")
            self._is_over = True

    def _pump(self) -> None:
        """Send what is due, and arm the timer for the next. Called by the timer, at each tick, and at the beginning.

        With ticks, what is due until the middle of the next one is sent: as much too early as too late on average.
        """
        if self._is_over:
            return
        now = clock()
        until_s = now + self._tick_s / 2
        first_s, questions = self._start_s + self._plan.warmup_s, self._plan.questions
        for _ in range(AT_ONCE):
            if self._next_s > until_s:
                break
            due_s, (_, index) = self._next_s, self._slice.pop()
            if due_s >= first_s:
                self._tally.lags_s.append(now - due_s)
            self._pending += 1
            self._ask(questions[index], due_s)
            self._advance()
        if self._is_over:
            self._check_end()
        elif not self._tick_s:
            self._timer.wake_at(self._next_s)

    def _tick(self) -> None:
        """Sleep until the next tick, whatever comes meanwhile; then send what is due, and let the loop read."""
        tick_s, now = self._tick_s, clock()
        if tick_s and self._next_s > now:  # not behind
            time.sleep(tick_s - (now - self._start_s) % tick_s)
        self._pump()
        if tick_s and not self._finished.is_set():
            self._loop.call_soon(self._tick)

    def _choose_tick(self) -> None:
        """Change over to ticks, to other ones, or away from them, as the latencies since the last time suggest."""
        had_none = not self._tick_s
        self._tick_s = self._ticks.choose((stream.latencies_s for stream in self._tally.streams), FLUSH_S)
        self._longest_tick_s = max(self._longest_tick_s, self._tick_s)
        if had_none and self._tick_s:
            self._tick()

    def _ask(self, question: Question, due_s: float) -> None:
        """Send a request over a free connection, or let it wait for one."""
        free = self._free
        while free:
            connection = free.pop()
            if connection.is_open:
                connection.ask(question, due_s, is_timed=self._is_timed())
                return
        self._waiting.append((question, due_s))
        self._most_waiting = max(self._most_waiting, len(self._waiting))
        self._missing_connections()

    def _is_timed(self) -> bool:
        every = self._plan.timing_every
        self._turn += 1
        return every > 0 and self._turn % every == 0

    def _freed(self, connection: Connection) -> None:
        """Use a connection that has nothing to do."""
        if not connection.is_open:
            self._missing_connections()
        elif self._waiting:
            connection.ask(*self._waiting.popleft(), is_timed=self._is_timed())
        elif self._is_open_loop or not self._has_next():
            self._free.append(connection)
        else:
            self._pending += 1
            self._sent += 1
            which = self._plan.which
            question = self._plan.questions[which[self._sent % len(which)]]
            connection.ask(question, clock(), is_timed=self._is_timed())

    def _has_next(self) -> bool:
        """Say whether a closed loop goes on."""
        if clock() >= self._end_s or self._sent >= self._plan.most_requests:
            self._is_over = True
        return not self._is_over

    # --- what becomes of requests ---------------------------------------------------------------------------------

    def succeeded(self, connection: Connection, question: Question, now: float) -> None:
        """Count a right answer and use the connection again."""
        stream = self._tally.streams[question.stream]
        stream.dues_s.append(connection.due_s)
        stream.latencies_s.append(now - connection.due_s)
        self._pending -= 1
        self._freed(connection)
        if self._is_over:
            self._check_end()

    def failed(self, connection: Connection, question: Question, kind: str, now: float, text: bytes) -> None:
        """Count a request without a right answer and use the connection again if it is there."""
        self._tally.fail(question.stream, connection.due_s, kind, text)
        self._pending -= 1
        self._freed(connection)
        if self._is_over:
            self._check_end()

    def timed(self, head: Head) -> None:
        """Count what the server said about a request."""
        self._tally.time(head)

    def lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._missing_connections()

    def _check_end(self) -> None:
        if not self._pending:
            self._finished.set()

    # --- connections ----------------------------------------------------------------------------------------------

    def _missing_connections(self) -> None:
        """Open what is missing: in an open loop one for each request that waits, in a closed one all."""
        if self._is_over and not self._waiting:
            return
        there = len(self._connections) + len(self._opening)
        wanted = self._plan.connections - there
        if self._is_open_loop:
            wanted = min(wanted, len(self._waiting) - len(self._opening))
        for _ in range(min(wanted, MOST_OPENING - len(self._opening))):
            self._open()

    def _open(self) -> None:
        task = self._loop.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        """Open one connection; a request that waits fails if there is none to be had."""
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self), self._target.host, self._target.port
                )
        except OSError as error:
            kind = "refused connection" if isinstance(error, ConnectionRefusedError) else "no connection"
            if self._waiting:
                question, due_s = self._waiting.popleft()
                self._pending -= 1
                self._tally.fail(question.stream, due_s, kind, str(error).encode())
                if self._is_over:
                    self._check_end()
            elif not self._is_open_loop and not self._is_over:
                self._tally.fail(0, clock(), kind, str(error).encode())
            return
        if not connection.is_open:
            return
        self._connections.add(connection)
        self._most_connections = max(self._most_connections, len(self._connections))
        if self._has_begun:
            self._freed(connection)
        else:
            self._free.append(connection)

    async def _close(self) -> None:
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        self._waiting.clear()
        for connection in list(self._connections):
            connection.abandon()

    # --- now and then ---------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        """Sum up, end what takes too long, replace lost connections, tell of the progress."""
        told_s = self._start_s
        while True:
            await asyncio.sleep(FLUSH_S)
            now = clock()
            if self._is_open_loop and self._plan.tick_s is None:
                self._choose_tick()
            self._tally.flush()
            self._end_late(now)
            self._missing_connections()
            if not self._is_open_loop and now >= self._end_s:
                self._is_over = True
                self._check_end()
            if self._observe is not None and now - told_s >= 1.0:
                told_s = now
                answered = sum(stream.latencies.count for stream in self._tally.streams)
                failed = sum(self._tally.failures().values())
                self._observe(Progress(now - self._start_s, self._plan.duration_s, answered, failed))

    def _end_late(self, now: float) -> None:
        """Give up the requests that have waited for too long, for an answer or for a connection."""
        limit_s = now - self._plan.timeout_s
        for connection in list(self._connections):
            if connection.question is not None and connection.due_s < limit_s:
                connection.give_up()
        while self._waiting and self._waiting[0][1] < limit_s:
            question, due_s = self._waiting.popleft()
            self._pending -= 1
            self._tally.fail(question.stream, due_s, "timeout", b"no connection was free")
        if self._is_over:
            self._check_end()
