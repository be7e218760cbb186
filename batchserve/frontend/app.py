"""The HTTP application: each path's answer, and every error in the one form of protocol.md section 8.

It runs on aiohttp's low-level server, not on its `Application`: paths here are matched before they are decoded, each
segment is decoded exactly once, and 404 and 405 are ours, where aiohttp's router decodes, normalises and answers in
plain text. The low-level server is also a fifth faster.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from batchserve.core.trace import Trace
from batchserve.errors import (
    ConnectionLimit,
    InternalError,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    RequestError,
    Unavailable,
)
from batchserve.frontend import describe
from batchserve.frontend.admin import Admin, json_object, region_status, register_cuda_region, register_system_region
from batchserve.frontend.body import Hold, MemoryBudget, read_content, settle_unread
from batchserve.frontend.console import Console
from batchserve.frontend.guard import Connection
from batchserve.frontend.inference import TRACE, Inference
from batchserve.frontend.log_settings import LogSettings
from batchserve.frontend.responses import SERVER, error_response, json_response
from batchserve.frontend.routes import PROBES, Route, find_route, is_plain_name
from batchserve.frontend.trace_headers import REQUEST_ID, names, new_request_id, read_trace
from batchserve.frontend.wording import quoted

if TYPE_CHECKING:
    from batchserve.engine.model import Model
    from batchserve.frontend.services import Services

__all__ = ["App"]

_log = logging.getLogger(__name__)

_Handler = Callable[[web.BaseRequest, Route], Awaitable[web.StreamResponse]]

SMALL_JSON_BYTES = 64 << 10
"""JSON bodies of the other endpoints up to this size are read on the event loop."""

_LONGEST_VERSION = 20
"""Digits of the largest version that a repository can hold; Python refuses to convert thousands of them."""


class App:
    """Answers requests. Event loop only.

    Args:
        services: What it answers from.
        server_numbers: Numbers of the server that the console shows.

    Attributes:
        console: The page for browsers.
        is_leaving: True once the server drains: every answer announces the end of its connection.
        inference: The infer endpoint.
        budget: Memory for request bodies.
    """

    def __init__(self, services: Services, server_numbers: Callable[[], dict[str, object]] = dict) -> None:
        self.is_leaving = False
        self._services = services
        self._repository = services.repository
        self.budget = MemoryBudget(services.config.max_inflight_bytes)
        self.inference = Inference(services, self.budget, self.find_model)
        self._answered = [0] * 6  # by first digit of the status
        self._admin = Admin(services)
        self._log_settings = LogSettings(services)
        self.console = Console(services, server_numbers)
        self._handlers: dict[str, _Handler] = {
            **dict.fromkeys(PROBES, self._probe),
            "alive": self._root,
            "console_events": self._console_events,
            "metrics": self._metrics,
            "model_statistics": self._model_statistics,
            "all_statistics": self._all_statistics,
            "infer": self._infer,
            "index": self._index,
            "logging": self._logging,
            "load": self._load,
            "unload": self._unload,
            "reload": self._reload,
            "profile": self._profile,
            "regions": self._regions,
            "region": self._region,
            "register_system_region": self._register_system_region,
            "register_cuda_region": self._register_cuda_region,
            "unregister_region": self._unregister_region,
        }

    @property
    def held_bytes(self) -> int:
        """Bytes of request bodies held now."""
        return self.budget.held_bytes

    @property
    def responses(self) -> dict[str, int]:
        """Answers so far, by class of status such as `2xx`."""
        return {f"{digit}xx": self._answered[digit] for digit in range(1, 6)}

    def count(self, status: int) -> None:
        """Count an answer."""
        self._answered[status // 100] += 1

    async def close(self) -> None:
        """Wait for repository control that clients have started."""
        await self._admin.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Cancelled if the client leaves, which takes the request out of its queue."""
        start_s = time.monotonic()
        headers = request.headers
        request[TRACE] = read_trace(headers.getall("traceparent", ()), headers.getall(REQUEST_ID, ()))
        response = await self._answer(request)
        trace = request[TRACE]
        if trace is not None and not response.prepared:
            response.headers[REQUEST_ID] = trace.request_id
        self.count(response.status)
        settle_unread(request, response)
        if self.is_leaving or self._repository.is_draining:
            response.force_close()
        if self._services.access_log is not None:
            await response.prepare(request)
            await response.write_eof()
            self._note_access(request, response, time.monotonic() - start_s)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        route = None
        try:
            self._check_connection(request)
            route = self._route(request)
            return await self._handlers[route.name](request, route)
        except RequestError as error:
            request_id = _name(request).request_id
            self.console.errors.note(error, "" if route is None else route.target, request_id)
            return error_response(error, request_id=request_id)
        except ConnectionError:
            if request.transport is None:
                raise  # the client left; aiohttp knows what to do
            return self._bug(request)
        except Exception:  # noqa: BLE001  # the last stop: a bug in one request must not end the connection's task
            return self._bug(request)

    def _check_connection(self, request: web.BaseRequest) -> None:
        if isinstance(request.protocol, Connection) and request.protocol.is_surplus:
            raise ConnectionLimit(
                f"more than server.max_connections = {self._services.config.max_connections} connections are open; "
                "reuse connections, or retry later"
            )

    def _bug(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = _name(request).request_id
        _log.exception("bug while answering %s %s", request.method, _path(request), extra={"request_id": request_id})
        return error_response(InternalError("internal error; the server's log has the details"), request_id=request_id)

    def _route(self, request: web.BaseRequest) -> Route:
        path = _path(request)
        route = find_route(path)
        if route is None:
            raise NotFound(f"unknown path {quoted(path)}; GET /v2 is where to begin")
        if request.method not in route.methods:
            allow = route.methods
            raise MethodNotAllowed(
                f"method {quoted(request.method)} is not allowed on {quoted(path)}; expected {' or '.join(allow)}",
                allow,
            )
        return route

    def _note_access(self, request: web.BaseRequest, response: web.StreamResponse, duration_s: float) -> None:
        assert self._services.access_log is not None
        self._services.access_log(
            {
                "remote": request.remote,
                "method": request.method,
                "path": _path(request),
                "status": response.status,
                "sent_bytes": response.body_length,
                "duration_s": duration_s,
                **names(request[TRACE]),
            }
        )

    def find_model(self, route: Route) -> Model:
        """Look up the model and version that a path names.

        Raises:
            ModelNotFound: No such model or version.
            ModelNotReady: It is known but does not serve.
        """
        if not is_plain_name(route.target):
            raise ModelNotFound(f"model {quoted(route.target)} is not known")
        if len(route.version) > _LONGEST_VERSION:
            raise ModelNotFound(f"model '{route.target}' has no version {quoted(route.version)}")
        return self._repository.get(route.target, route.version)

    # What is answered from what is known, without a body

    def probe(self, route: Route) -> tuple[int, dict[str, object]]:
        """Answer an endpoint of `PROBES`: its status and JSON. For both ways to the server.

        Raises:
            ModelNotFound: The path names no model that is known.
            ModelNotReady: It names one that does not serve.
        """
        match route.name:
            case "alive":
                return 200, {"status": "alive"}
            case "live":
                return 200, {"live": True}
            case "ready":
                why_not = "the server is shutting down" if self.is_leaving else self._repository.readiness()
                return (400, {"ready": False, "error": why_not}) if why_not else (200, {"ready": True})
            case "server_metadata":
                return 200, describe.server_metadata(has_log_settings=self._services.log_settings is not None)
            case "model_ready":
                return self._model_ready(route)
            case "model_metadata":
                model = self.find_model(route)
                return 200, describe.model_metadata(model, self._repository.versions(model.name))
        return 200, describe.model_config(self.find_model(route))

    def _model_ready(self, route: Route) -> tuple[int, dict[str, object]]:
        why_not = ""
        try:
            model = self.find_model(route)
            if model.is_draining:
                why_not = f"model '{route.target}' is shutting down"
            elif model.is_stuck:
                why_not = f"a run of model '{route.target}' has not come back"
        except Unavailable as error:
            why_not = str(error)
        if why_not:
            return 400, {"name": route.target, "ready": False, "error": why_not}
        details = {"build": describe.build_state(model), "devices": describe.device_states(model)}
        known = {key: detail for key, detail in details.items() if detail is not None}
        return 200, {"name": route.target, "ready": True, **known}

    async def _probe(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        status, value = self.probe(route)
        return json_response(value, status)

    # The server

    async def _root(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return self.console.page_for(request) or await self._probe(request, route)

    async def _console_events(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return await self.console.stream(request)

    async def _metrics(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        render = self._services.render_metrics
        if render is None:
            raise NotFound("there are no metrics: server.metrics is false; start the server with server.metrics = true")
        body, content_type = render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.SERVER: SERVER})

    # Statistics and inference

    async def _model_statistics(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        model = self.find_model(route)
        models = [model] if route.version else [each for each in self._repository.models() if each.name == model.name]
        return json_response({"model_stats": [self._services.statistics(each) for each in models]})

    async def _all_statistics(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return json_response({"model_stats": [self._services.statistics(each) for each in self._repository.models()]})

    async def _infer(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return await self.inference.answer(request, route)

    # Log settings and repository control

    async def _logging(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        if request.method != "POST":
            return json_response(self._log_settings.read())
        self._log_settings.check_allowed()
        return json_response(self._log_settings.change(await self._members(request)))

    async def _index(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return json_response(self._admin.index(await self._members(request)))

    async def _load(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        self._admin.check_allowed(route)
        await self._admin.load(route, await self._members(request))
        return json_response({})

    async def _unload(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        self._admin.check_allowed(route)
        await self._admin.unload(route, await self._members(request))
        return json_response({})

    async def _reload(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        self._admin.check_allowed(route)
        return json_response(await self._admin.reload(route, await self._members(request)))

    async def _profile(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        self._admin.check_allowed(route)
        await self._members(request)
        trace = await self._admin.profile(self.find_model(route), request.rel_url.query)
        return web.Response(body=trace, content_type="application/json", headers={hdrs.SERVER: SERVER})

    async def _members(self, request: web.BaseRequest) -> dict[str, Any]:
        """Read a body that is empty or a JSON object."""
        with Hold(self.budget) as hold:
            body = await read_content(request, self._services.config, hold, self._services.pool)
            if len(body) <= SMALL_JSON_BYTES:
                return json_object(body)
            return await asyncio.get_running_loop().run_in_executor(self._services.pool, json_object, body)

    # Shared memory, of which there is none

    async def _regions(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return json_response([])

    async def _region(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        region_status(route)

    async def _register_system_region(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        register_system_region(route)

    async def _register_cuda_region(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        register_cuda_region(route)

    async def _unregister_region(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return json_response({})


def _path(request: web.BaseRequest) -> str:
    """Return the path as sent, still percent-encoded, without query and fragment."""
    return request.rel_url.raw_path


def _name(request: web.BaseRequest) -> Trace:
    """Return what a request is called; gives it a name if it has none."""
    trace = request[TRACE]
    if trace is None:
        trace = request[TRACE] = Trace(new_request_id())
    return trace
