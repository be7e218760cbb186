"""aiohttp's connection with the limits it lacks: slow and large heads, stalled readers, too many connections.

What aiohttp 3.14 leaves open, and what is done about it here:

* It has one timer, for idle connections. A head that drips in byte by byte is cut only when that timer happens to
  fire, and then without an answer. Here a head has its own time, and is answered 408.
* It limits each header line and their number, not the head as a whole. Here the whole head is measured: 431.
* When a chunked body turns out to be malformed, the parser drops the body's stream without telling its reader, who
  waits for ever. Here the reader is told.
* It never gives up on a client that does not read its answer. Here a write that makes no progress ends the connection.
* Its answers to malformed requests are plain text. Here they are JSON.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from batchserve.errors import BadFraming, HeadTooLarge, InternalError, RequestError, SlowRequest
from batchserve.frontend.responses import error_response
from batchserve.frontend.trace_headers import new_request_id

if TYPE_CHECKING:
    from aiohttp.http import RawRequestMessage

    from batchserve.config import ServerConfig

__all__ = ["Connection", "GuardedServer", "OpenConnection"]

_log = logging.getLogger(__name__)

READ_BUFFER_BYTES = 64 << 10
"""Of a body nobody has asked for yet, the stream holds twice this before the socket is no longer read."""

LINGER_S = 3.0
"""After an answer that came before the end of its body, what still comes is read away for so long: closing a socket
with unread bytes resets the connection, which can cost the client the answer."""


class OpenConnection(Protocol):
    """What the server needs of a connection, whichever class it is."""

    is_surplus: bool

    @property
    def is_idle(self) -> bool:
        """True if no request is being answered and none waits to be."""
        ...

    def force_close(self) -> None:
        """Close once what was written is sent."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


class Connection(RequestHandler):
    """One client connection. Event loop only.

    Invariant: the head timer runs exactly while a head is awaited that may not take its time: the first one of the
    connection, and one of which a part has come.

    Attributes:
        is_surplus: True if it was opened beyond the limit: its first request is refused.
    """

    def __init__(self, server: GuardedServer, config: ServerConfig, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=config.idle_timeout_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no access log" but does not say so
            max_line_size=config.max_header_size_bytes,
            max_field_size=config.max_header_size_bytes,
            read_bufsize=READ_BUFFER_BYTES,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self.is_surplus = False
        self._server = server
        self._config = config
        self._socket: asyncio.Transport | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the newest request
        self._head_bytes = 0  # of a head that is not complete
        self._is_deaf = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0

    # The connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the first head's time, unless there are far too many connections."""
        self._socket = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._register()
        self._head_timer = self._loop.call_later(self._config.header_timeout_s, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the connection; its handler, if one runs, is cancelled by aiohttp."""
        self._socket = None
        self._stop_head_timer()
        self._stop_stall_timer()
        task = self._task_handler
        super().connection_lost(exc)
        if task is None or task.done():
            self._unregister()
        else:
            task.add_done_callback(lambda _: self._unregister())

    def _register(self) -> None:
        self._server.opened(self)

    def _unregister(self) -> None:
        self._server.ended(self)

    @property
    def is_idle(self) -> bool:
        """True if no request is being answered and none waits to be."""
        return self._waiter is not None and not self._messages

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that answers, while the connection is open."""
        return self._task_handler

    def abort(self) -> None:
        """End the connection now; what was not sent is lost."""
        if self._socket is not None:
            self._socket.abort()

    def close_without_lingering(self) -> None:
        """Do not wait for the rest of the current request's body before closing."""
        self._lingering_time = 0.0

    # Heads

    def data_received(self, data: bytes) -> None:
        """Parse what came, and keep an eye on heads."""
        if self._is_deaf:
            return
        seen = self._request_count
        was_between_requests = self._body.is_eof()
        super().data_received(data)
        new = self._request_count - seen
        if new:
            self._heads_arrived(new, len(data))
        elif was_between_requests and (self._head_bytes or data.strip(b"\r\n")) and not self._upgraded:
            # Empty lines before a request line are no head yet: some clients end a body with one.
            self._head_bytes += len(data)
            if self._head_bytes > self._config.max_header_size_bytes:
                self._refuse_head(self._too_large())
            elif self._head_timer is None:
                self._head_timer = self._loop.call_later(self._config.header_timeout_s, self._head_is_late)

    def _heads_arrived(self, new: int, chunk_bytes: int) -> None:
        limit = self._config.max_header_size_bytes
        if self._head_bytes + chunk_bytes > limit:
            for index in range(len(self._messages) - new, len(self._messages)):
                message = self._messages[index][0]
                if not isinstance(message, _ErrInfo) and _head_size(message) > limit:
                    self._messages[index] = _error(self._too_large())
        self._head_bytes = 0
        self._stop_head_timer()
        message, body = self._messages[-1]
        if isinstance(message, _ErrInfo):
            self._is_deaf = True
            if not self._body.is_eof():
                self._body.set_exception(
                    BadFraming("the body's chunks are malformed; expected HTTP/1.1 framing of chunks")
                )
                self._body.feed_eof()  # or aiohttp reads on for the rest, and logs the exception
        self._body = body

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the request's head is larger than {self._config.max_header_size_bytes} bytes; "
            "send fewer or shorter headers, or raise server.max_header_size"
        )

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._head_bytes and self.is_idle:
            self.force_close()  # nothing was asked, so there is nothing to answer
            return
        self._refuse_head(
            SlowRequest(
                f"the request's head did not arrive within {self._config.header_timeout_s:g} s; "
                "send it at once, or raise server.header_timeout"
            )
        )

    def _refuse_head(self, error: RequestError) -> None:
        """Answer a head that is not complete, after the answers to what came before it, and hear nothing more."""
        self._is_deaf = True
        self._stop_head_timer()
        self._request_count += 1
        self._messages.append(_error(error))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _process_keepalive(self) -> None:
        """Close an idle connection, but not one in the middle of a head: that has its own time."""
        if self._head_bytes:
            self._keepalive_handle = None
            return
        super()._process_keepalive()

    # Writing

    def pause_writing(self) -> None:
        """Watch a client that does not read as fast as it is written to."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Stop watching: the client has read."""
        self._stop_stall_timer()
        super().resume_writing()

    def _watch_writing(self) -> None:
        if self._socket is not None:
            self._unsent_bytes = self._socket.get_write_buffer_size()
            self._stall_timer = self._loop.call_later(self._config.body_timeout_s, self._writing_is_slow)

    def _writing_is_slow(self) -> None:
        if self._socket is not None and self._socket.get_write_buffer_size() >= self._unsent_bytes:
            self.abort()
        else:
            self._watch_writing()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # Errors that never reach the application

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser could not read, in JSON; the connection is closed afterwards."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent, so an error cannot be")
        request_id = new_request_id()
        if isinstance(exc, RequestError):
            error = exc
        elif isinstance(exc, LineTooLong):
            error = self._too_large()
        elif "Too many headers" in str(message):
            error = HeadTooLarge(f"the request has more than {self.max_headers} headers; send fewer")
        elif status < 500:
            error = BadFraming(f"not valid HTTP: {_first_line(message)}; expected an HTTP/1.1 request")
        else:
            extra = {"request_id": request_id}
            _log.error("aiohttp failed while answering %s", request.remote, exc_info=exc, extra=extra)
            error = InternalError("internal error; the server's log has the details")
        _log.debug("%s from %s", error, request.remote, extra={"request_id": request_id})
        response = error_response(error, request_id=request_id)
        response.force_close()
        response.headers[hdrs.CONNECTION] = "close"
        return response


class GuardedServer(web.Server):
    """aiohttp's low-level server, with guarded connections. Event loop only.

    Args:
        handler: Answers one request; cancelled if the client leaves.
        config: Limits and times.
        make: Makes the protocol of each new connection; None for aiohttp's own way.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        config: ServerConfig,
        make: Callable[[GuardedServer], asyncio.BaseProtocol] | None = None,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._config = config
        self._make = make
        self._open: set[OpenConnection] = set()
        self.opened_connections = 0
        """Connections that were ever opened."""
        self._is_finishing = False
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    def __call__(self) -> asyncio.BaseProtocol:  # type: ignore[override]  # not always aiohttp's class
        """Make the protocol of a new connection."""
        return Connection(self, self._config, self._loop) if self._make is None else self._make(self)

    @property
    def open_connections(self) -> frozenset[OpenConnection]:
        """Connections whose socket is open or whose handler still runs."""
        return frozenset(self._open)

    def opened(self, connection: OpenConnection) -> None:
        """Take note of a connection.

        Beyond the limit it may send one request and is told 503. That takes a connection, so beyond twice the limit
        it is closed without a word; so is one that was accepted in the moment in which the server stops listening.
        """
        self._open.add(connection)
        self.opened_connections += 1
        self._all_ended.clear()
        connection.is_surplus = len(self._open) > self._config.max_connections
        if self._is_finishing or len(self._open) > 2 * self._config.max_connections:
            self._loop.call_soon(connection.abort)

    def ended(self, connection: OpenConnection) -> None:
        """Forget a connection whose socket is closed and whose handler has returned."""
        self._open.discard(connection)
        if not self._open:
            self._all_ended.set()

    def close_idle(self) -> None:
        """Close every connection on which nothing is being answered."""
        for connection in self.open_connections:
            if connection.is_idle:
                connection.force_close()

    async def finish(self, timeout_s: float) -> None:
        """Close idle connections and wait for the others, then end those that are left.

        Args:
            timeout_s: Seconds that answers may still take. The application must announce that it closes connections,
                or those that stay busy use all of it.
        """
        self._is_finishing = True
        self.close_idle()
        self._loop.call_soon(self.close_idle)  # those whose task has not had its first turn are idle only after it
        try:
            async with asyncio.timeout(timeout_s):
                await self._all_ended.wait()
        except TimeoutError:
            _log.warning("%d connections did not end within %g s and were cut", len(self._open), timeout_s)
            await self.abort()

    async def abort(self) -> None:
        """End every connection now. Their handlers are cancelled and have returned afterwards."""
        for connection in self.open_connections:
            connection.abort()
        await self._all_ended.wait()


def _error(error: RequestError) -> tuple[_ErrInfo, StreamReader]:
    """Put an error where aiohttp looks for requests, so that it is answered in its turn."""
    return _ErrInfo(status=error.status, exc=error, message=str(error)), EMPTY_PAYLOAD


def _head_size(message: RawRequestMessage) -> int:
    """Count a head's bytes as it came, but for white space that the parser has dropped."""
    fields = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
    return (
        len(message.method) + len(message.path.encode("utf-8", "surrogateescape")) + len("  HTTP/1.1\r\n\r\n") + fields
    )


def _first_line(message: str | None) -> str:
    """Take the parser's verdict without the bytes it quotes."""
    return " ".join((message or "").split("\n\n", 1)[0].split()).rstrip(":.") or "it could not be read"
