"""Server-sent events for the console: read once a second for all who look, not at all if nobody does."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import hdrs, web

from batchserve.errors import ConnectionLimit, NotFound
from batchserve.frontend import describe
from batchserve.frontend.console.page import Page, prefers_html
from batchserve.frontend.console.recent import RecentErrors
from batchserve.frontend.console.samples import Samples
from batchserve.frontend.responses import SERVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchserve.frontend.services import Services

__all__ = ["PERIOD_S", "Console"]

PERIOD_S = 1.0
"""Seconds from one reading to the next."""

MOST_VIEWERS = 64
"""Streams open at once; each takes a connection and a write a second."""


class Console:
    """The page and its events. Event loop only.

    Invariants: the timer runs and the numbers are being collected exactly while somebody looks; all who look get the
    same bytes, written once.

    Args:
        services: What is shown, and where it comes from.
        server_numbers: Gives the frontend's own numbers, of plain JSON types.
    """

    def __init__(self, services: Services, server_numbers: Callable[[], dict[str, object]]) -> None:
        self.errors = RecentErrors()
        self._services = services
        self._server_numbers = server_numbers
        self._page = Page.load() if services.config.console and services.live is not None else None
        self._samples = Samples(services.pool)
        self._viewers = 0
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._describing: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes] | None = None
        self._known: object = None  # what the last description was of
        self._description = b""

    @property
    def is_on(self) -> bool:
        """True if there is a page."""
        return self._page is not None

    @property
    def viewers(self) -> int:
        """How many look."""
        return self._viewers

    def page_for(self, request: web.BaseRequest) -> web.Response | None:
        """Return the page if there is one and the caller prefers it."""
        if self._page is None or not prefers_html(request.headers.get(hdrs.ACCEPT, "")):
            return None
        return web.Response(body=self._page.body, headers={**self._page.headers, hdrs.SERVER: SERVER})

    async def stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send events until the client leaves or the server stops.

        Raises:
            NotFound: There is no console.
            ConnectionLimit: Too many look already.
        """
        if self._page is None:
            raise NotFound("there is no console; set server.console = true to have one")
        if self._viewers >= MOST_VIEWERS:
            raise ConnectionLimit(f"{MOST_VIEWERS} consoles are open; close one, or look at /metrics")
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream",
                hdrs.CACHE_CONTROL: "no-store",
                "X-Accel-Buffering": "no",
                hdrs.SERVER: SERVER,
            }
        )
        await response.prepare(request)
        self._enter()
        try:
            await response.write(b"retry: 1000\n\n" + await self._describe() + self._read())
            while not self._is_closed:
                await response.write(await asyncio.shield(self._tick_future()))
        finally:
            self._leave()
        return response

    def close(self) -> None:
        """End all streams: the server stops."""
        self._is_closed = True
        self._publish(b"event: end\ndata: {}\n\n")

    # --- who looks ------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        self._viewers += 1
        if self._viewers == 1:
            assert self._services.live is not None
            self._services.live.start()
            self.errors.is_watched = True
            self._arm()

    def _leave(self) -> None:
        self._viewers -= 1
        if self._viewers:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        assert self._services.live is not None
        self._services.live.stop()
        self.errors.is_watched = False
        self._known, self._next = None, None
        if self._describing is not None:
            self._describing.cancel()
            self._describing = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)

    def _tick(self) -> None:
        self._arm()
        if self._describing is not None and not self._describing.done():
            return  # a sample is being made on a helper thread
        if self._is_described():
            self._publish(self._read())
        else:
            self._describing = asyncio.get_running_loop().create_task(self._publish_description())

    async def _publish_description(self) -> None:
        description = await self._describe()
        if self._viewers:
            self._publish(description + self._read())

    def _tick_future(self) -> asyncio.Future[bytes]:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def _publish(self, data: bytes) -> None:
        """Hand the same bytes to all who wait; who is slow misses some."""
        waited, self._next = self._next, None
        if waited is not None and not waited.done():
            waited.set_result(data)

    # --- what they see --------------------------------------------------------------------------------------------

    def _present(self) -> object:
        """Return something that is equal as long as the models, their states, builds and limits are the same."""
        repository = self._services.repository
        models = tuple((id(model), model.limits, model.build) for model in repository.models())
        return tuple(repository.index()), models

    def _is_described(self) -> bool:
        return self._known is not None and self._known == self._present()

    async def _describe(self) -> bytes:
        """Write the event that says which models there are and what they take."""
        if not self._is_described():
            known = self._present()
            models = await self._model_entries()
            server = {**describe.server_metadata(), "max_body_size_bytes": self._services.config.max_body_size_bytes}
            self._description = _event("models", {"server": server, "models": models})
            self._known = known
        return self._description

    async def _model_entries(self) -> list[dict[str, Any]]:
        repository = self._services.repository
        serving = {(model.name, str(model.version)): model for model in repository.models()}
        entries = []
        for entry in repository.index():
            about: dict[str, Any] = {
                "name": entry.name,
                "version": entry.version,
                "state": entry.state,
                "reason": entry.reason,
            }
            model = serving.get((entry.name, entry.version))
            if model is not None:
                about |= describe.console_model(model)
                about["sample"] = await self._samples.of(model)
            entries.append(about)
        return entries

    def _read(self) -> bytes:
        """Write the event with the present numbers."""
        assert self._services.live is not None
        numbers = self._services.live.read()
        return _event(
            "now",
            {
                "at": round(time.time(), 3),
                "why_not_ready": self._services.repository.readiness(),
                "http": self._server_numbers(),
                "errors": self.errors.read(),
                **numbers,
            },
        )


def _event(name: str, value: object) -> bytes:
    """Write one event; JSON has no line ends outside strings, and escapes those inside."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
