"""The way of spans to the process that exports them: written many at once, dropped rather than waited for."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from batchserve.telemetry.tracing import Span

__all__ = ["SpanPipe", "require_opentelemetry"]

FLUSH_S = 0.5
"""Spans are written so long after the first of them, or as soon as there are `FLUSH_SPANS`."""

FLUSH_SPANS = 256

MOST_WAITING_BYTES = 4 << 20
"""What the exporter has not read yet; beyond it spans are dropped."""

RESTART_S = 10.0
"""An exporter that ended is started again, but not sooner than so long after the last start."""

CLOSE_S = 5.0
"""Time for the last spans to be sent when the server ends."""

_log = logging.getLogger("batchserve.tracing")


def require_opentelemetry() -> None:
    """Check that spans can be exported, without importing anything.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    for name in ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            is_there = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            is_there = False
        if not is_there:
            raise ConfigError(
                "server.tracing = true needs OpenTelemetry, which is not installed; "
                "install it with pip install 'batchserve[otel]', or leave tracing off"
            )


class SpanPipe:
    """Starts the exporter and feeds it. Event loop only.

    Life: `start`, then `close`. Spans that come while no exporter runs are dropped; a line in the log says when that
    begins and when it is over.

    Args:
        endpoint: `server.trace_endpoint`.
        command: Starts the exporter; the default is this package's.
    """

    def __init__(self, endpoint: str, command: tuple[str, ...] = ()) -> None:
        module = "batchserve.telemetry.span_exporter"
        self._command = command or (sys.executable, "-m", module, "--endpoint", endpoint)
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starter: asyncio.Task[None] | None = None
        self._started_s = -RESTART_S
        self._spans: list[Span] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_dropping = False
        self._is_closing = False

    async def start(self) -> None:
        """Start the exporter."""
        self._started_s = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the server
        )
        self._watcher = asyncio.create_task(self._watch(self._process))

    def send(self, span: Span) -> None:
        """Take a span. Returns at once."""
        self._spans.append(span)
        if len(self._spans) >= FLUSH_SPANS:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        spans, self._spans = self._spans, []
        if not spans:
            return
        process = self._process
        pipe: Any = None if process is None or process.stdin is None else process.stdin.transport
        if pipe is None or pipe.is_closing() or pipe.get_write_buffer_size() > MOST_WAITING_BYTES:
            self._dropped(len(spans))
            return
        if self._is_dropping:
            self._is_dropping = False
            _log.info("spans are exported again")
        body = msgspec.msgpack.encode(spans)
        pipe.write(len(body).to_bytes(4, "big") + body)

    def _dropped(self, number: int) -> None:
        if not self._is_dropping:
            self._is_dropping = True
            _log.warning("the exporter does not take spans: %d and those that follow are dropped", number)
        if self._process is None and not self._is_closing and time.monotonic() >= self._started_s + RESTART_S:
            self._started_s = time.monotonic()
            self._starter = asyncio.create_task(self.start())

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Log what the exporter says, and its end."""
        assert process.stderr is not None
        while line := await process.stderr.readline():
            _log.warning("%s", line.decode(errors="replace").rstrip())
        status = await process.wait()
        self._process = None
        if not self._is_closing:
            _log.error("the exporter of spans ended with status %d; it is started again when there are spans", status)

    async def close(self) -> None:
        """Let the exporter send what it has, for at most `CLOSE_S`, and end it. May be called again."""
        self._is_closing = True
        self._flush()
        if self._starter is not None:
            await asyncio.gather(self._starter, return_exceptions=True)
        process, watcher = self._process, self._watcher
        if process is None or watcher is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(watcher)
        except TimeoutError:
            _log.warning("the last spans could not be sent within %g s", CLOSE_S)
            process.kill()
            await watcher
