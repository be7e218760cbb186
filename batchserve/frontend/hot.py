"""What the connections of one server share on the way from socket to queue."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import ref

from batchserve.errors import RequestError
from batchserve.frontend.buffers import BufferPool
from batchserve.frontend.connection import HotConnection
from batchserve.frontend.habits import Habits
from batchserve.frontend.heads import HeadCache
from batchserve.frontend.replies import error_reply, json_reply

if TYPE_CHECKING:
    from batchserve.config import ServerConfig
    from batchserve.engine.model import Model
    from batchserve.frontend.app import App
    from batchserve.frontend.guard import GuardedServer
    from batchserve.frontend.habits import Habit
    from batchserve.frontend.heads import Head
    from batchserve.frontend.services import Services

__all__ = ["HotPath"]

SCRATCH_BYTES = 256 << 10
"""What one read of a head, or of a head with a small body, may bring."""

MAX_IDLE_BUFFER_BYTES = 128 << 20
"""Body buffers kept for the next request."""


class HotPath:
    """Shared by all connections. Event loop only.

    Args:
        services: Configuration and helper threads.
        app: The aiohttp application; it answers what is out of the ordinary, and its limits hold for both ways.

    Attributes:
        scratch: The read buffer that connections share; empty between two calls of the loop.
        pool: Buffers for large bodies.
        heads: Heads seen before.
        count: Counts an answer by its status.
        is_plain: True if the configuration adds nothing to an answer, and nobody wants to know of it.
        errors: The latest errors, for the console.
    """

    def __init__(self, services: Services, app: App) -> None:
        self.config = services.config
        self.executor = services.pool
        self.access_log = services.access_log
        self.tracer = services.tracer
        self.loop = asyncio.get_running_loop()
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.pool = BufferPool(min(MAX_IDLE_BUFFER_BYTES, services.config.max_inflight_bytes))
        self.heads = HeadCache(services.config.client_header)
        self.is_plain = not services.config.server_timing and services.access_log is None
        self.inference = app.inference
        self.budget = app.budget
        self.count = app.count
        self.errors = app.console.errors
        self._app = app
        self._repository = services.repository
        self._habits = Habits()
        self._connections: set[HotConnection] = set()
        self._sweep_s = _sweep_interval(services.config)
        self._sweep_timer: asyncio.TimerHandle | None = None

    def make(self, server: GuardedServer) -> HotConnection:
        """Make the protocol of a new connection."""
        return HotConnection(self, server)

    def opened(self, connection: HotConnection) -> None:
        """Watch a connection's time from now on."""
        self._connections.add(connection)
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(self._sweep_s, self._sweep)

    def ended(self, connection: HotConnection) -> None:
        """Watch a connection no longer."""
        self._connections.discard(connection)

    def _sweep(self) -> None:
        """Look at all connections' deadlines: one timer for all costs nothing per request."""
        now = time.monotonic()
        for connection in tuple(self._connections):
            connection.check_time(now)
        self._sweep_timer = self.loop.call_later(self._sweep_s, self._sweep) if self._connections else None

    def close(self) -> None:
        """Stop watching."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    @property
    def is_leaving(self) -> bool:
        """True once the server drains: every answer announces the end of its connection."""
        return self._app.is_leaving or self._repository.is_draining

    def model_for(self, head: Head, connection: HotConnection) -> Model | None:
        """Return the model that a request goes to; None if aiohttp has to answer it, whatever the answer is."""
        route = head.route
        if route is None or not head.length or connection.is_surplus or self.is_leaving:
            return None
        if head.length > self.config.max_body_size_bytes:
            return None
        if self.budget.held_bytes + head.length > self.budget.limit_bytes:
            return None
        return self._repository.find(route.target, route.version)

    def probe(self, head: Head, connection: HotConnection) -> bytes | None:
        """Return the whole answer to a probe; None if the request is none, or aiohttp has to answer it."""
        route = head.route
        if route is None or head.length or connection.is_surplus or self.is_leaving or self.access_log is not None:
            return None
        request_id = "" if head.trace is None else head.trace.request_id
        try:
            status, value = self._app.probe(route)
        except RequestError as error:
            self.count(error.status)
            return error_reply(error, request_id, is_closing=not head.is_keep_alive)
        self.count(status)
        return json_reply(status, value, request_id, is_closing=not head.is_keep_alive)

    def habit_of(self, data: bytes, end: int, head: Head, model: Model) -> Habit | None:
        """Learn from an inference request what the next one that begins like it comes to.

        Args:
            data: What one read brought: the request, and nothing else.
            end: Length of its head.
            head: Its head.
            model: The version it went to.
        """
        start = end + head.json_bytes
        if start == end or start >= len(data) or not head.is_keep_alive or head.trace is not None:
            return None  # a trace belongs to one request
        plan = self.inference.info(model).plans.find(data[end:start], head.length)
        if plan is None:
            return None
        return self._habits.learn(data[:start], head, ref(model), plan, self._repository.generation)

    def model_of(self, habit: Habit) -> Model | None:
        """Return the version that a request of this habit goes to; None if it is not to be read by it now."""
        if habit.generation != self._repository.generation:
            return None
        if self.budget.held_bytes + habit.head.length > self.budget.limit_bytes:
            return None
        return habit.model()

    def current(self, head: Head) -> Model | None:
        """Return what serves a request now: while its body came, its model may have been replaced or unloaded."""
        route = head.route
        return None if route is None else self._repository.find(route.target, route.version)


def _sweep_interval(config: ServerConfig) -> float:
    """Say how often times are looked at: a time-out may be a quarter late, and at most half a second."""
    shortest_s = min(config.header_timeout_s, config.body_timeout_s, config.idle_timeout_s)
    return min(0.5, max(0.01, shortest_s / 4))
