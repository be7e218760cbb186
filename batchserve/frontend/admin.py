"""The endpoints around inference: repository control, reload of configuration, and shared memory.

Sources: protocol.md sections 11 and 12, batching.md section 10.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from batchserve.errors import Forbidden, InvalidRequest, ModelLoadError, ModelNotFound, RegionNotFound
from batchserve.frontend.describe import index_entries
from batchserve.frontend.routes import Route, is_plain_name
from batchserve.frontend.wording import describe

if TYPE_CHECKING:
    from batchserve.engine.model import Model
    from batchserve.frontend.services import Services

__all__ = ["Admin", "json_object", "region_status", "register_cuda_region", "register_system_region"]

T = TypeVar("T")

MOST_PROFILED = 10_000

_log = logging.getLogger(__name__)


class Admin:
    """Repository control. Event loop only.

    Loads and unloads go on when the client that asked for them leaves: half a load helps nobody.

    Args:
        services: The models, and whether control is switched on.
    """

    def __init__(self, services: Services) -> None:
        self._repository = services.repository
        self._reload_config = services.reload_config
        self._is_allowed = services.config.admin
        self._tasks: set[asyncio.Task[Any]] = set()

    def index(self, members: Mapping[str, Any]) -> list[dict[str, str]]:
        """List models and versions; `{"ready": true}` leaves out those that are not ready.

        Raises:
            InvalidRequest: `ready` is not a boolean.
        """
        ready = members.get("ready")
        if ready is not None and not isinstance(ready, bool):
            raise InvalidRequest(f"repository index: member 'ready' is {describe(ready)}; expected true or false")
        return index_entries(self._repository.index(), only_ready=bool(ready))

    def check_allowed(self, route: Route) -> None:
        """Refuse control that is switched off, before the body is read.

        Raises:
            Forbidden: `server.admin` is false.
        """
        if not self._is_allowed:
            raise Forbidden(
                f"{route.name} of model '{route.target}' is switched off; set server.admin = true to allow it"
            )

    async def load(self, route: Route, members: Mapping[str, Any]) -> None:
        """Load a model, or load it again.

        Raises:
            InvalidRequest: It carries a parameter, or the load failed.
            ModelNotFound: No such model.
        """
        for name in _parameters(members):
            raise InvalidRequest(
                f"load of model '{route.target}': parameter '{name}' is not supported; expected none, "
                "since models and their configuration are read from the repository only"
            )
        try:
            await self._finish(self._repository.load(_model_name(route)))
        except ModelLoadError as error:
            raise InvalidRequest(f"model '{route.target}' could not be loaded: {error}") from error

    async def unload(self, route: Route, members: Mapping[str, Any]) -> None:
        """Take a model out of service.

        Raises:
            InvalidRequest: It carries a parameter other than the boolean `unload_dependents`.
            ModelNotFound: No such model.
        """
        for name, value in _parameters(members).items():
            if name != "unload_dependents":
                raise InvalidRequest(
                    f"unload of model '{route.target}': parameter '{name}' is not supported; expected unload_dependents"
                )
            if not isinstance(value, bool):  # nothing depends on a model here, so either value is honoured
                raise InvalidRequest(
                    f"unload of model '{route.target}': parameter 'unload_dependents' is {describe(value)}; "
                    "expected true or false"
                )
        await self._finish(self._repository.unload(_model_name(route)))

    async def reload(self, route: Route, members: Mapping[str, Any]) -> dict[str, object]:
        """Read a model's configuration again and put in force what may change while it serves.

        Returns:
            The keys that changed, and those that wait for something else, with what that is.

        Raises:
            InvalidRequest: It carries a parameter, or the configuration cannot be used; nothing has changed then.
            ModelNotFound: No such model.
        """
        for name in _parameters(members):
            raise InvalidRequest(
                f"reload of model '{route.target}': parameter '{name}' is not supported; expected none, "
                "since the configuration is read from its files only"
            )
        changes = await self._finish(self._reload_config(_model_name(route)))
        return {"applied": list(changes.applied), "not_applied": dict(changes.not_applied)}

    async def profile(self, model: Model, query: Mapping[str, str]) -> bytes:
        """Have the runtime write down a model's next batches.

        Args:
            model: The version.
            query: `batches`, 20 unless given, and `timeout`, seconds, 30 unless given.

        Raises:
            InvalidRequest: A number is not one, or the model cannot be profiled, or is being profiled already.
            DeadlineExceeded: No batch ran in that time.
        """
        batches, timeout_s = _number(query, "batches", 20, MOST_PROFILED), _number(query, "timeout", 30, 600)
        try:
            return await self._finish(model.profile(batches, timeout_s))
        except ModelLoadError as error:
            raise InvalidRequest(f"model '{model.name}' cannot be profiled: {error}") from error

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("repository control failed: %s", error)  # read here too, for when the client has left


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"profile: {name} is {text[:20]!r}; expected a whole number from 1 to {most}")
    return int(text)


def _model_name(route: Route) -> str:
    if not is_plain_name(route.target):
        raise ModelNotFound(f"model '{route.target}' is not known")
    return route.target


def _parameters(members: Mapping[str, Any]) -> dict[str, Any]:
    parameters = members.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"member 'parameters' is {describe(parameters)}; expected an object")
    return {name: value for name, value in parameters.items() if value is not None}


def json_object(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Read a JSON body; an empty one is an empty object. Any thread.

    Raises:
        InvalidRequest: It is not JSON, or not an object.
    """
    text = bytes(body).strip()
    if not text:
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}; expected a JSON object, or no body") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body is {describe(value)}; expected a JSON object, or no body")
    return value


def region_status(route: Route) -> NoReturn:
    """Describe one region: there is none, since no form of shared memory is implemented.

    Raises:
        RegionNotFound: Always.
    """
    raise RegionNotFound(f"shared memory region '{route.target}' is not registered; expected a registered one")


def register_system_region(route: Route) -> NoReturn:
    """Refuse to register a region of system memory.

    Raises:
        Forbidden: Always; `system_shared_memory` is not among the server's extensions.
    """
    raise Forbidden(
        f"region '{route.target}' cannot be registered: system shared memory is off on this server; "
        "send tensors in the request's body"
    )


def register_cuda_region(route: Route) -> NoReturn:
    """Refuse to register a region of GPU memory.

    Raises:
        InvalidRequest: Always; `cuda_shared_memory` is not among the server's extensions.
    """
    raise InvalidRequest(
        f"region '{route.target}' cannot be registered: CUDA shared memory is not implemented; "
        "send tensors in the request's body"
    )
