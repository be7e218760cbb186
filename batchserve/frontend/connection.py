"""The connection: inference straight from the socket to the queue, all else through aiohttp, request by request.

Heads are found and remembered by their bytes (`heads.py`). An ordinary inference request goes from the socket's bytes
to the model's queue in one turn of the event loop, without a task, a future or a request object of aiohttp's; its body,
if it is large, is received straight into a pooled buffer. Whatever is out of the ordinary (another endpoint, a chunked
or compressed body, `Expect`, HTTP/1.0, a model that is not ready, a body over a limit) is handed to aiohttp for that
one request (`cold.py`), so there is one place that answers it.

Requests of one connection are answered one after the other, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, cast

from batchserve.errors import HeadTooLarge, RequestError, SlowRequest
from batchserve.frontend.cold import ColdLane
from batchserve.frontend.exchange import Exchange
from batchserve.frontend.heads import check_beginning
from batchserve.frontend.replies import error_reply
from batchserve.frontend.trace_headers import cut_again

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence

    from batchserve.engine.model import Model
    from batchserve.frontend.guard import GuardedServer
    from batchserve.frontend.habits import Habit
    from batchserve.frontend.heads import Head
    from batchserve.frontend.hot import HotPath
    from batchserve.frontend.trace_headers import Cuts

__all__ = ["HotConnection"]

MAX_AHEAD_BYTES = 64 << 10
"""What a client may send ahead of its answer before its socket is no longer read."""


UNSET_S = 0.0
"""Deadline of a connection that became idle since its time was last looked at: to read a clock for each request only to
throw it away costs more than to grant the few that stay idle half a second more."""

LONGEST_CUT = 64 << 10
"""A longer request is not copied to take its lines of tracing out: it is read as one that was not seen before."""

SLICE_BYTES = 256 << 10
"""A transport may copy what the socket does not take at once: never more than this of a large answer."""


class _Phase(Enum):
    """What a connection is doing."""

    HEAD = "waiting for a head, or for the rest of one"
    BODY = "receiving a hot request's body into a buffer"
    ANSWER = "waiting for a hot request's answer"
    COLD = "handing a request to aiohttp"
    CLOSED = "closing: nothing is read any more"


_HEAD, _ANSWER, _CLOSED = _Phase.HEAD, _Phase.ANSWER, _Phase.CLOSED  # an Enum's members are slow to look up


class HotConnection(asyncio.BufferedProtocol):
    """One client connection. Event loop only.

    Invariant: at most one request of it is under way. In ANSWER and COLD what arrives for later requests waits in
    `_ahead`. No connection has a read buffer of its own: all share one, which is empty between two calls of the loop.

    Args:
        hot: What all connections share.
        server: Counts connections, and makes aiohttp's side.
    """

    __slots__ = (
        "_ahead",
        "_at",
        "_body",
        "_cold",
        "_cuts",
        "_deadline_s",
        "_exchange",
        "_habit",
        "_head",
        "_hot",
        "_is_keep_alive",
        "_out",
        "_out_done",
        "_phase",
        "_server",
        "_view",
        "_write_mark",
        "is_surplus",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, hot: HotPath, server: GuardedServer) -> None:
        self.is_surplus = False
        self._hot = hot
        self._server = server
        self._phase = _Phase.HEAD
        self._ahead = b""
        self._deadline_s = UNSET_S
        self._head: Head | None = None
        self._exchange: Exchange | None = None
        self._habit: Habit | None = None
        self._cuts: Cuts = ()
        self._body: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._at = 0
        self._cold: ColdLane | None = None
        self._is_keep_alive = True
        self._write_mark = -1
        self._out: deque[memoryview] = deque()
        self._out_done: Callable[[], None] | None = None

    # --- the socket's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head, which must come in time."""
        self.transport = cast("asyncio.Transport", transport)
        self._deadline_s = time.monotonic() + self._hot.config.header_timeout_s
        self._server.opened(self)
        self._hot.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Drop what the client no longer waits for."""
        self._hot.ended(self)
        self._phase = _Phase.CLOSED
        self._ahead = b""
        self._out.clear()
        self._out_done = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
        self._drop_body()
        cold, self._cold = self._cold, None
        if cold is None:
            self._server.ended(self)
            return
        task = cold.lose(exc)
        if task is None or task.done():
            self._server.ended(self)
        else:
            task.add_done_callback(lambda _: self._server.ended(self))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes go: to their place in a body, or into the buffer that all connections share."""
        if self._view is not None and self._head is not None:
            return self._view[self._at : self._head.length]
        return self._hot.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that the socket has written to where `get_buffer` said."""
        if self._view is not None:
            self._at += nbytes
            if self._head is not None and self._at == self._head.length:
                self._body_arrived()
                self._proceed()
            return
        data = self._hot.scratch[:nbytes].tobytes()
        if self._phase is _HEAD:
            if self._ahead:
                self._ahead += data
            elif self._habit is not None and self._repeat(self._habit, data):
                return
            else:
                self._ahead = data
            self._proceed()
        elif self._phase is _Phase.COLD:
            rest = self._cold.feed(data) if self._cold is not None else b""
            if rest:
                self._keep(rest)
                self._proceed()  # the request may have ended with this piece
        elif self._phase is _Phase.ANSWER:
            self._keep(data)

    def eof_received(self) -> bool:
        """Close: a client that sends no more is taken to be gone, as aiohttp takes it."""
        return False

    def pause_writing(self) -> None:
        """Watch a client that does not read as fast as it is written to; nothing new is begun for it meanwhile."""
        self._write_mark = self.transport.get_write_buffer_size()
        if self._cold is not None:
            self._cold.pause_writing()
        else:
            self._deadline_s = time.monotonic() + self._hot.config.body_timeout_s

    def resume_writing(self) -> None:
        """Go on with what waited for the client to read."""
        self._write_mark = -1
        if self._cold is not None:
            self._cold.resume_writing()
        if self._out_done is not None:
            self._pump()
        if self._phase is _Phase.HEAD:
            self._deadline_s = time.monotonic() + self._hot.config.idle_timeout_s
            self._proceed()

    # --- what the server asks -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """True if no request is under way and none has begun to arrive."""
        return self._phase is _Phase.HEAD and not self._ahead and self._write_mark < 0

    def force_close(self) -> None:
        """Close once what was written is sent."""
        self._phase = _Phase.CLOSED
        self.transport.close()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self._phase = _Phase.CLOSED
        self.transport.abort()

    def check_time(self, now: float) -> None:
        """End the connection if what it waits for is late. Called now and then by the server."""
        if now < self._deadline_s:
            return
        if self._deadline_s == UNSET_S:
            self._deadline_s = now + self._hot.config.idle_timeout_s
        elif self._write_mark >= 0:
            unsent = self.transport.get_write_buffer_size()
            if unsent >= self._write_mark:
                self.abort()
            else:
                self._write_mark = unsent
                self._deadline_s = now + self._hot.config.body_timeout_s
        elif self._phase is _Phase.HEAD:
            self._head_is_late()
        elif self._phase is _Phase.BODY:
            config = self._hot.config
            length = self._head.length if self._head is not None else 0
            self._refuse(
                SlowRequest(
                    f"{self._at} of {length} bytes of the body arrived within {config.body_timeout_s:g} s; "
                    "send it faster or in smaller requests, or raise server.body_timeout"
                )
            )

    def _head_is_late(self) -> None:
        if not self._ahead:
            self.force_close()  # nothing was asked, so there is nothing to answer
            return
        self._refuse(
            SlowRequest(
                f"the request's head did not arrive within {self._hot.config.header_timeout_s:g} s; "
                "send it at once, or raise server.header_timeout"
            )
        )

    # --- from request to request ----------------------------------------------------------------------------------

    def _proceed(self) -> None:
        """Begin the requests that wait in `_ahead`, until one must be waited for."""
        while self._phase is _Phase.HEAD and self._ahead and self._write_mark < 0:
            try:
                if not self._begin():
                    return
            except RequestError as error:
                self._refuse(error)

    def _begin(self) -> bool:
        """Begin the request at the front of `_ahead`; False if its head is not complete."""
        data = self._ahead
        if data[:2] == b"\r\n":  # an empty line before a request is to be ignored (RFC 9112 section 2.2)
            self._ahead = data[2:]
            return True
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._await_head(data)
            return False
        if end > self._hot.config.max_header_size_bytes:
            raise self._too_large()
        head = self._hot.heads.find(data[:end])
        self._head = head
        self._is_keep_alive = head.is_keep_alive
        model = self._hot.model_for(head, self)
        if model is None:
            answer = self._hot.probe(head, self)
            if answer is None:
                self._begin_cold(data, end, head.length)
            else:
                self._ahead = data[end:]
                self.transport.write(answer)
                self.end_request()
            return True
        self._exchange = Exchange(self._hot, model, head, self)
        have = len(data) - end
        if have >= head.length:
            stop = end + head.length
            self._ahead = data[stop:]
            self._phase = _Phase.ANSWER
            self._exchange.begin(data[end:stop])
            if have == head.length:
                self._learn(data, end, head, model)
            return True
        self._phase = _Phase.BODY
        self._deadline_s = time.monotonic() + self._hot.config.body_timeout_s
        self._body = self._hot.pool.lend(head.length)
        self._view = memoryview(self._body)
        self._view[:have] = data[end:]
        self._at = have
        self._ahead = b""
        return True

    def _learn(self, data: bytes, end: int, head: Head, model: Model) -> None:
        """Remember a request, without its lines of tracing, for the next one that may be like it."""
        if head.remembered is not None:
            again = cut_again(data, head.cuts) if head.cuts and len(data) <= LONGEST_CUT else None
            if again is None:
                self._habit = None
                return
            end -= len(data) - len(again[0])
            data = again[0]
        self._cuts = head.cuts
        self._habit = self._hot.habit_of(data, end, head.remembered or head, model)

    def _repeat(self, habit: Habit, data: bytes) -> bool:
        """Begin a request like the one before it; False if it is not like that, or has to be looked at closely now."""
        trace, cut_bytes = None, 0
        if self._cuts:
            again = cut_again(data, self._cuts) if len(data) <= LONGEST_CUT else None
            if again is None:
                return False
            cut_bytes = len(data) - len(again[0])
            data, trace = again
        if len(data) != habit.size_bytes or not data.startswith(habit.begin) or self._write_mark >= 0:
            return False
        hot, head = self._hot, habit.head
        if habit.head_bytes + cut_bytes > hot.config.max_header_size_bytes:
            return False
        model = hot.model_of(habit)
        if model is None:
            self._habit = None
            return False
        self._head = head
        self._is_keep_alive = True
        self._phase = _ANSWER
        exchange = self._exchange = Exchange(hot, model, head, self)
        exchange.repeat(habit.plan, data, trace)
        return True

    def _await_head(self, data: bytes) -> None:
        check_beginning(data)
        if len(data) > self._hot.config.max_header_size_bytes:
            raise self._too_large()
        if self._head is not None:  # the first piece of a further head: from here on it has its own time
            self._head = None
            self._deadline_s = time.monotonic() + self._hot.config.header_timeout_s

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the request's head is larger than {self._hot.config.max_header_size_bytes} bytes; "
            "send fewer or shorter headers, or raise server.max_header_size"
        )

    def _body_arrived(self) -> None:
        """Hand a received body over; from here on the exchange owns the buffer."""
        buffer, view, head, exchange = self._body, self._view, self._head, self._exchange
        assert buffer is not None
        assert view is not None
        assert head is not None
        assert exchange is not None
        self._body = self._view = None
        self._phase = _Phase.ANSWER
        exchange.begin(view[: head.length], buffer)

    def stream(self, parts: Sequence[bytes | memoryview], done: Callable[[], None]) -> None:
        """Write a large answer as fast as the client reads it, without ever copying all of it.

        Args:
            parts: Its bytes in order; kept until they are sent.
            done: Called once all of it was given to the transport; not called if the client leaves before.
        """
        for part in parts:
            view = memoryview(part).cast("B")
            self._out.extend(view[start : start + SLICE_BYTES] for start in range(0, len(view), SLICE_BYTES))
        self._out_done = done
        self._pump()

    def _pump(self) -> None:
        while self._out and self._write_mark < 0:
            self.transport.write(self._out.popleft())
        if not self._out and self._out_done is not None:
            done, self._out_done = self._out_done, None
            done()

    def close_after_answer(self) -> None:
        """Close once the answer under way is sent; it announces that."""
        self._is_keep_alive = False

    def end_request(self) -> None:
        """Go on after an answer was written. Called by the exchange, too, within `begin` or later."""
        self._exchange = None
        if self._phase is _CLOSED:
            return
        if not self._is_keep_alive:
            self.force_close()
            return
        self._phase = _HEAD
        if self._write_mark < 0:
            self._deadline_s = UNSET_S
        if self._ahead or self._cold is not None:  # otherwise nothing can have stopped the reading
            self._read_on()
            self._hot.loop.call_soon(self._proceed)

    def _keep(self, data: bytes) -> None:
        """Keep what was sent ahead; a client that sends too much of it is not read until its turn comes."""
        self._ahead += data
        if len(self._ahead) > MAX_AHEAD_BYTES:
            self.transport.pause_reading()

    def _read_on(self) -> None:
        transport = self.transport
        if not transport.is_reading() and not transport.is_closing():
            transport.resume_reading()

    def _refuse(self, error: RequestError) -> None:
        """Answer what cannot be followed any further, and close."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.refuse(error)
        self._drop_body()
        self._hot.count(error.status)
        self.transport.write(error_reply(error, is_closing=True))
        self.force_close()

    def _drop_body(self) -> None:
        self._view = None
        buffer, self._body = self._body, None
        if buffer is not None:
            self._hot.pool.take_back(buffer)

    # --- aiohttp's side -------------------------------------------------------------------------------------------

    def _begin_cold(self, data: bytes, end: int, length: int) -> None:
        self._phase = _Phase.COLD
        self._is_keep_alive = True  # for aiohttp to say
        self._deadline_s = float("inf")  # aiohttp's side has its own times
        self._ahead = b""
        if self._cold is None:
            self._cold = ColdLane(self, self._server, self._hot.config, self._hot.loop)
        self._ahead = self._cold.begin(data[:end], length, data[end:])

    def cold_ended(self) -> None:
        """Go on after aiohttp has answered its request."""
        if self._phase is _Phase.COLD:
            self.end_request()

    def cold_closed(self) -> None:
        """Close as aiohttp asks."""
        self.force_close()
