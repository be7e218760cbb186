"""The way to aiohttp and back for one request at a time of a connection that is ours.

aiohttp's connection class believes it talks to a socket. Here it talks to a transport that writes to our connection's;
it is fed the bytes of exactly one request, and says when that one is answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from batchserve.errors import BadFraming
from batchserve.frontend.chunks import ChunkScanner
from batchserve.frontend.guard import Connection

if TYPE_CHECKING:
    from aiohttp import web

    from batchserve.config import ServerConfig
    from batchserve.errors import RequestError
    from batchserve.frontend.guard import GuardedServer

__all__ = ["ColdLane", "Front"]


class Front(Protocol):
    """The connection that owns the socket."""

    transport: asyncio.Transport
    is_surplus: bool

    def cold_ended(self) -> None:
        """Take note that the request is answered and its body has passed; the connection stays open."""
        ...

    def cold_closed(self) -> None:
        """Take note that aiohttp has closed what it believes to be its socket."""
        ...


class _VirtualTransport(asyncio.Transport):
    """Looks like the socket's transport; closing it closes the front."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self._front = front
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._front.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._is_closing or self._front.transport.is_closing()

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self._front.transport.write(data)

    def writelines(self, list_of_data: Any) -> None:
        if not self._is_closing:
            self._front.transport.writelines(list_of_data)

    def get_write_buffer_size(self) -> int:
        return self._front.transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._front.transport.pause_reading()

    def resume_reading(self) -> None:
        self._front.transport.resume_reading()

    def is_reading(self) -> bool:
        return self._front.transport.is_reading()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._front.cold_closed()

    def abort(self) -> None:
        self._is_closing = True
        self._front.transport.abort()


class _ColdConnection(Connection):
    """aiohttp's connection behind one of ours. Event loop only.

    Heads and idle time are the front's business, so the timers for them never run here.
    """

    def __init__(
        self,
        lane: ColdLane,
        front: Front,
        server: GuardedServer,
        config: ServerConfig,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(server, config, loop)
        self._lane = lane
        self.is_surplus = front.is_surplus
        self._keepalive_timeout = 0.0
        self.connection_made(_VirtualTransport(front))
        self._stop_head_timer()

    def refuse_body(self, error: RequestError) -> None:
        """Tell whoever reads the current request's body that the rest of it cannot be read.

        An answer that was given without reading it is followed by the refusal, which closes the connection.
        """
        self._body.set_exception(error)
        self._body.feed_eof()
        self._refuse_head(error)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer, then tell the lane."""
        resp, reset = await super().finish_response(request, resp, start_time)
        if not reset and self.transport is not None:
            self._lane.answered(is_keep_alive=bool(resp.keep_alive))
        return resp, reset

    def _process_keepalive(self) -> None:
        """Do nothing: the front closes idle connections."""
        self._keepalive_handle = None

    def _register(self) -> None:
        """Do nothing: the server counts the front."""

    def _unregister(self) -> None:
        """Do nothing: the server counts the front."""


class ColdLane:
    """One connection's way to aiohttp, for one request after the other. Event loop only.

    Invariant: aiohttp has been fed exactly the bytes of the requests that were begun, none of what follows them.

    Args:
        front: The connection that owns the socket.
        server: The server that aiohttp's side belongs to.
        config: Limits and times.
        loop: The event loop.
    """

    def __init__(
        self, front: Front, server: GuardedServer, config: ServerConfig, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._front = front
        self._aiohttp = _ColdConnection(self, front, server, config, loop)
        self._chunks: ChunkScanner | None = None
        self._left = 0
        self._is_answered = False
        self._is_keep_alive = True

    def begin(self, head: bytes, length: int, data: bytes) -> bytes:
        """Hand a request over.

        Args:
            head: Its head.
            length: Bytes of its body; -1 if it is chunked.
            data: What came after the head.

        Returns:
            What of `data` does not belong to the request.
        """
        self._chunks = ChunkScanner() if length < 0 else None
        self._left = max(0, length)
        self._is_answered = False
        self._is_keep_alive = True
        self._aiohttp.data_received(head)
        return self.feed(data) if data else b""

    def feed(self, data: bytes) -> bytes:
        """Hand over what belongs to the request's body; return the rest."""
        taken = 0
        if self._chunks is not None and not self._chunks.is_done:
            try:
                taken = self._chunks.feed(data)
            except BadFraming as error:
                self._is_keep_alive = False  # aiohttp answers and closes
                self._aiohttp.refuse_body(error)
                return b""
        elif self._left:
            taken = min(self._left, len(data))
            self._left -= taken
        if taken:
            self._aiohttp.data_received(data[:taken])
            self._end_if_over()
        return data[taken:]

    def answered(self, *, is_keep_alive: bool) -> None:
        """Take note that aiohttp has written its answer; if it does not keep the connection, it closes it itself."""
        self._is_answered = True
        self._is_keep_alive = self._is_keep_alive and is_keep_alive
        self._end_if_over()

    def pause_writing(self) -> None:
        """Let aiohttp wait for a client that reads slowly."""
        self._aiohttp.pause_writing()

    def resume_writing(self) -> None:
        """Let aiohttp write again."""
        self._aiohttp.resume_writing()

    def lose(self, exc: BaseException | None) -> asyncio.Task[None] | None:
        """Tell aiohttp that the client left; return the task of its handler, which is being cancelled."""
        task = self._aiohttp.task
        self._aiohttp.connection_lost(exc)
        return task

    def _end_if_over(self) -> None:
        is_fed = not self._left and (self._chunks is None or self._chunks.is_done)
        if self._is_answered and is_fed and self._is_keep_alive:
            self._is_answered = False
            self._front.cold_ended()
