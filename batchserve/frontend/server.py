"""The HTTP server's life: start, drain, close."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING

from batchserve.frontend.app import App
from batchserve.frontend.guard import GuardedServer
from batchserve.frontend.hot import HotPath
from batchserve.frontend.listen import listen, url_of
from batchserve.frontend.tls import HANDSHAKE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S, tls_context
from batchserve.frontend.unix_socket import remove_unix

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from batchserve.frontend.services import Services

__all__ = ["Server"]

BACKLOG = 1024
"""Connections the kernel keeps until they are accepted; it has a limit of its own, too."""

ANSWER_GRACE_S = 5.0
"""Seconds that answers may take to reach their clients once the last batch is done."""


class Server:
    """Serves a repository over HTTP. Event loop only.

    Life: `start`, then `drain`, then `close`. `close` alone, or after a `drain` that was cancelled, stops at once.

    Args:
        services: What it serves from.
    """

    def __init__(self, services: Services) -> None:
        self._config = services.config
        self._repository = services.repository
        self._app = App(services, self._numbers)
        self._services = services
        self._hot: HotPath | None = None
        self._http: GuardedServer | None = None
        self._listeners: list[tuple[asyncio.AbstractServer, socket.socket]] = []
        self._url = ""

    @property
    def url(self) -> str:
        """Where it can be reached from this machine, with the real port; "" before `start`."""
        return self._url

    @property
    def open_connections(self) -> int:
        """Connections whose socket is open or whose request is still being answered."""
        return len(self._http.open_connections) if self._http is not None else 0

    @property
    def held_bytes(self) -> int:
        """Bytes of request bodies held now."""
        return self._app.held_bytes

    @property
    def numbers(self) -> Mapping[str, float]:
        """What the metrics of the server show as one number each, by the name without `batchserve_`."""
        budget = self._app.budget
        return {
            "ready": not (self._app.is_leaving or self._repository.readiness()),
            "http_connections": self.open_connections,
            "http_connections_limit": self._config.max_connections,
            "http_connections_opened_total": 0 if self._http is None else self._http.opened_connections,
            "http_inflight_bytes": budget.held_bytes,
            "http_inflight_limit_bytes": budget.limit_bytes,
            "http_body_bytes_total": budget.taken_bytes,
        }

    @property
    def buffers(self) -> Mapping[str, int]:
        """Numbers of the pool of body buffers; empty without the fast path."""
        return {} if self._hot is None else asdict(self._hot.pool.statistics)

    def _numbers(self) -> dict[str, object]:
        """Give the console its numbers of the server."""
        return {"responses": self.responses, "connections": self.open_connections, "held_bytes": self.held_bytes}

    @property
    def responses(self) -> Mapping[str, int]:
        """Answers so far, by class of status such as `2xx`."""
        return self._app.responses

    async def start(self) -> None:
        """Bind and begin to answer. Models may still be loading: readiness says so.

        Raises:
            ConfigError: The address cannot be listened on, or the certificate not be used; the text is one line for a
                person.
        """
        tls = tls_context(self._config)
        sockets = await listen(self._config.host, self._config.port)
        self._url = url_of(sockets[0], "http" if tls is None else "https")
        if self._config.http_fast_path == "on":
            self._hot = HotPath(self._services, self._app)
        self._http = GuardedServer(self._app.handle, self._config, None if self._hot is None else self._hot.make)
        for listener in sockets:
            self._listeners.append((await self._serve(self._http, listener, tls), listener))

    async def _serve(
        self, make: GuardedServer, listener: socket.socket, tls: ssl.SSLContext | None
    ) -> asyncio.AbstractServer:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        handshake_s, shutdown_s = (None, None) if tls is None else (HANDSHAKE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S)
        create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        return await create(
            make,
            sock=listener,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=shutdown_s,
        )

    async def drain(self) -> None:
        """Stop taking work, answer what was admitted, and close.

        While models finish, the server still answers: new inference requests with 503, readiness with false, liveness
        with true; every answer announces the end of its connection. Only then does it stop listening. Ends within
        `drain_timeout` and a few seconds, whatever clients do.
        """
        self._app.is_leaving = True
        await self._repository.drain(self._config.drain_timeout_s)
        self._stop_listening()
        self._app.console.close()
        if self._http is not None:
            await self._http.finish(ANSWER_GRACE_S)
        await self.close()

    async def close(self) -> None:
        """Stop at once: open connections are cut and their requests cancelled. Does nothing when closed already."""
        self._stop_listening()
        self._app.console.close()
        if self._http is not None:
            await self._http.abort()
        if self._hot is not None:
            self._hot.close()
        await self._app.close()

    def _stop_listening(self) -> None:
        listeners, self._listeners = self._listeners, []
        for server, listener in listeners:
            remove_unix(listener)
            with contextlib.suppress(OSError):
                server.close()
