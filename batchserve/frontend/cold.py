"""The way to aiohttp and back for one request at a time of a connection that is ours.

aiohttp's connection class believes it talks to a socket. Here it talks to a transport that writes to our connection's;
it is fed the bytes of exactly one request, and says when that one is answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from batchserve.frontend.guard import Connection

if TYPE_CHECKING:
    from aiohttp import web

    from batchserve.config import ServerConfig
    from batchserve.errors import RequestError
    from batchserve.frontend.guard import GuardedServer

__all__ = ["ColdConnection", "Front"]


class Front(Protocol):
    """The connection that owns the socket."""

    transport: asyncio.Transport
    is_surplus: bool

    def cold_answered(self, *, is_keep_alive: bool) -> None:
        """Take note that aiohttp has written the answer of the current request."""
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


class ColdConnection(Connection):
    """aiohttp's connection behind one of ours. Event loop only.

    Heads and idle time are the front's business, so the timers for them never run here.
    """

    def __init__(
        self, front: Front, server: GuardedServer, config: ServerConfig, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(server, config, loop)
        self._front = front
        self.is_surplus = front.is_surplus
        self._keepalive_timeout = 0.0
        self.connection_made(_VirtualTransport(front))
        self._stop_head_timer()

    def refuse_body(self, error: RequestError) -> None:
        """Tell whoever reads the current request's body that the rest of it cannot be read."""
        self._body.set_exception(error)
        self._body.feed_eof()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer, then tell the front."""
        resp, reset = await super().finish_response(request, resp, start_time)
        if not reset and self.transport is not None:
            self._front.cold_answered(is_keep_alive=bool(resp.keep_alive))
        return resp, reset

    def _process_keepalive(self) -> None:
        """Do nothing: the front closes idle connections."""
        self._keepalive_handle = None

    def _register(self) -> None:
        """Do nothing: the server counts the front."""

    def _unregister(self) -> None:
        """Do nothing: the server counts the front."""
