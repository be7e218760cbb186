"""What is served: models and their versions, their states, loading, replacing and leaving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from batchserve.backends.base import ModelFile
from batchserve.engine.changes import Changes
from batchserve.engine.devices import Devices
from batchserve.engine.events import ModelState
from batchserve.engine.loading import load_model
from batchserve.engine.model import Model
from batchserve.engine.sources import ModelSource, choose_versions, find_model
from batchserve.engine.states import IndexEntry, NamedModel, VersionState
from batchserve.errors import ConfigError, ModelLoadError, ModelNotFound, ModelNotReady

if TYPE_CHECKING:
    from batchserve.backends.base import Backend
    from batchserve.config import ModelConfig
    from batchserve.engine.events import Listener
    from batchserve.engine.profiles import Profiles

__all__ = ["Repository"]

_LONGEST_VERSION = 20
"""Digits of a version that can exist; Python refuses to convert thousands of them."""

logger = logging.getLogger(__name__)


class Repository:
    """The models of one server. Event loop only.

    A request belongs to the version object it was given here: after a reload the old one finishes what it admitted.

    Args:
        sources: The models to serve.
        config_of: Reads the effective configuration of one; called again on every load, on a helper thread.
        backend: What loads them.
        listeners: Hear of states and executions.
        profiles: Where what is learnt of the models' costs is kept; None if it is not.
        allow_partial: Ready although some models failed to load.

    Attributes:
        is_draining: True once `drain` was called.
        generation: Grows whenever `find` may have another answer than before, and when the drain begins.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        config_of: Callable[[ModelSource], ModelConfig],
        backend: Backend,
        *,
        listeners: Sequence[Listener] = (),
        profiles: Profiles | None = None,
        allow_partial: bool = False,
    ) -> None:
        self.is_draining = False
        self.generation = 0
        self._config_of = config_of
        self._backend = backend
        self._listeners = listeners
        self._profiles = profiles
        self._allow_partial = allow_partial
        self._named = {source.name: NamedModel(source) for source in sources}
        self._routes: dict[tuple[str, str], Model] = {}
        self._devices = Devices()
        self._leaving: set[asyncio.Task[None]] = set()
        # One thread: creating sessions side by side is not promised to be safe (onnxruntime.md).
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    # --- looking up -----------------------------------------------------------------------------------------------

    def get(self, name: str, version: str = "") -> Model:
        """Return the version that serves a request.

        Args:
            name: The model.
            version: Its version in decimal, "" for the highest that is ready.

        Raises:
            ModelNotFound: No such model, or no such version of it.
            ModelNotReady: It is known, but loading, failed or unloaded.
        """
        model = self._routes.get((name, version))
        if model is not None:
            return model
        named = self._known(name)
        if not version:
            raise ModelNotReady(f"model '{name}' is not ready: {named.why_not}")
        is_number = version.isdecimal() and version.isascii() and len(version) <= _LONGEST_VERSION
        known = named.versions.get(int(version)) if is_number else None
        if known is None or str(int(version)) != version:
            ready = ", ".join(map(str, self.versions(name))) or "none"
            raise ModelNotFound(f"model '{name}' has no version '{version[:_LONGEST_VERSION]}'; ready: {ready}")
        raise ModelNotReady(f"version {version} of model '{name}' is not ready: {known.reason or known.state}")

    def find(self, name: str, version: str = "") -> Model | None:
        """Return what `get` would, or None where it would raise. One look-up in a dictionary."""
        return self._routes.get((name, version))

    def models(self) -> list[Model]:
        """Return every version that serves, by name, then version."""
        return [version.model for _, _, version in self._each_version() if version.model is not None]

    def names(self) -> list[str]:
        """Return the names of all models that are known, loaded or not."""
        return sorted(self._named)

    def sources(self) -> list[ModelSource]:
        """Return where each known model lies, by name."""
        return [named.source for _, named in sorted(self._named.items())]

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model that serve, ascending.

        Raises:
            ModelNotFound: No such model.
        """
        return [number for number, version in sorted(self._known(name).versions.items()) if version.model is not None]

    def index(self) -> list[IndexEntry]:
        """List every model and version with its state."""
        return [entry for _, named in sorted(self._named.items()) for entry in named.entries()]

    def readiness(self) -> str:
        """Say why the server is not ready, "" if it is."""
        if self.is_draining:
            return "the server is shutting down"
        missing = [
            f"model '{name}': {named.why_not}"
            for name, named in sorted(self._named.items())
            if named.is_wanted and not named.is_whole
        ]
        stuck = sorted({model.name for model in self.models() if model.is_stuck})
        if stuck:
            return "; ".join(f"model '{name}': a run has not come back" for name in stuck)
        is_loading = any(named.is_loading for named in self._named.values())
        if not missing or (self._allow_partial and self._routes and not is_loading):
            return ""
        return "; ".join(missing)

    # --- loading and leaving --------------------------------------------------------------------------------------

    async def load_all(self) -> None:
        """Load every model. One that fails keeps its reason and does not keep the others from serving."""
        for name in self.names():
            try:
                await self.load(name)
            except ModelLoadError:
                continue  # told and kept by load

    async def load(self, name: str) -> None:
        """Load a model, or load it again from disk. What serves goes on until its successor is ready.

        Raises:
            ModelNotFound: No such model.
            ModelLoadError: A version failed. If one of them served before, nothing has changed.
        """
        named = self._known(name)
        async with named.lock:
            named.source = find_model(named.source.origin, name) or named.source
            named.is_wanted = True
            loop = asyncio.get_running_loop()
            try:
                config, numbers = await loop.run_in_executor(self._loader, self._plan, named.source)
            except ModelLoadError as error:
                if not named.versions:
                    named.problem = str(error)
                self._tell_loads(name, named.versions, ok=False)
                logger.error("model %s cannot be served: %s", name, error)  # noqa: TRY400  # the reason is the message
                raise
            await self._load_versions(named, config, numbers)

    async def unload(self, name: str) -> None:
        """Take a model out of service. Returns once nothing new is admitted; what was admitted is finished.

        Raises:
            ModelNotFound: No such model.
        """
        named = self._known(name)
        async with named.lock:
            named.is_wanted = False
            for number, version in named.versions.items():
                if version.model is not None:
                    self._retire(named, number, version, "unloaded")

    async def reconfigure(self, name: str, config: ModelConfig) -> Changes:
        """Put in force what may change while a model serves, in all of its versions; waits for a load under way.

        Args:
            name: The model.
            config: What its configuration says now.

        Returns:
            What changed. Nothing did in a model of which no version serves: its next load reads all of it.

        Raises:
            ModelNotFound: No such model.
        """
        named = self._known(name)
        changes = Changes()
        async with named.lock:
            for _, version in sorted(named.versions.items()):
                if version.model is not None:
                    changes = version.model.reconfigure(config)
        return changes

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work everywhere, finish what is queued within `timeout_s`, and give everything back."""
        self.is_draining = True
        self.generation += 1
        for named in self._named.values():
            for number, version in named.versions.items():
                if version.model is not None:
                    self._retire(named, number, version, "the server is shutting down", timeout_s, keep_route=True)
        while self._leaving:
            await asyncio.wait(self._leaving)  # not gather: from 3.12 on that does not yield for tasks that are done
        self._loader.shutdown(wait=False, cancel_futures=True)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _plan(self, source: ModelSource) -> tuple[ModelConfig, list[int]]:
        try:
            config = self._config_of(source)
        except ConfigError as error:
            logger.error("model %s: %s", source.name, error)  # noqa: TRY400  # a path in it is for the log only
            raise ModelLoadError("its configuration cannot be used; the server's log says why") from error
        return config, choose_versions(config.version_policy, list(source.versions))

    async def _load_versions(self, named: NamedModel, config: ModelConfig, numbers: Sequence[int]) -> None:
        name = named.source.name
        was_serving = any(version.model is not None for version in named.versions.values())
        loaded: dict[int, Model] = {}
        failed: dict[int, str] = {}
        for number in numbers:
            if (known := named.versions.get(number)) is None or known.model is None:
                self._set_state(named, number, ModelState.LOADING)
            try:
                loaded[number] = await self._load_version(named.source, number, config)
            except ModelLoadError as error:
                failed[number] = str(error)
                logger.error("model %s/%d cannot be served: %s", name, number, error)  # noqa: TRY400  # as above
        if self.is_draining or (failed and was_serving):  # all or nothing: what serves keeps serving
            for number, model in loaded.items():
                await model.close()
                failed.setdefault(number, "not taken into service, because another version failed")
            loaded = {}
        for number, reason in failed.items():
            if (known := named.versions.get(number)) is None or known.model is None:
                self._set_state(named, number, ModelState.UNAVAILABLE, reason)
        if loaded:
            self._install(named, loaded)
        self._tell_loads(name, loaded, ok=True)
        if failed:
            self._tell_loads(name, failed, ok=False)
            raise ModelLoadError("; ".join(f"version {number}: {reason}" for number, reason in failed.items()))

    async def _load_version(self, source: ModelSource, number: int, config: ModelConfig) -> Model:
        path = source.versions.get(number)
        if path is None:
            raise ModelLoadError(f"version_policy names version {number}, which does not exist")
        file = ModelFile(source.name, number, path)
        return await load_model(
            file,
            config,
            self._backend,
            executor=self._loader,
            devices=self._devices,
            profiles=self._profiles,
            listeners=self._listeners,
        )

    def _install(self, named: NamedModel, loaded: dict[int, Model]) -> None:
        """Put new versions in the place of all old ones, between two turns of the loop."""
        for number, version in named.versions.items():
            if version.model is not None:
                reason = "replaced" if number in loaded else "no longer chosen by version_policy"
                self._retire(named, number, version, reason, is_replaced=number in loaded)
        for number, model in loaded.items():
            self._set_state(named, number, ModelState.READY, model=model)

    def _retire(
        self,
        named: NamedModel,
        number: int,
        version: VersionState,
        reason: str,
        timeout_s: float | None = None,
        *,
        is_replaced: bool = False,
        keep_route: bool = False,
    ) -> None:
        """Let a serving version finish in the background.

        Args:
            named: The model.
            number: The version.
            version: What is known of it; its model goes.
            reason: For the index.
            timeout_s: Less time than its own `drain_timeout`.
            is_replaced: True if a successor takes its state over, so that none is announced.
            keep_route: True if it goes on answering look-ups, with refusals: the server is going, not the model.
        """
        model = version.model
        assert model is not None, "only a serving version can be retired"
        limit_s = model.config.drain_timeout_s if timeout_s is None else min(timeout_s, model.config.drain_timeout_s)
        if not is_replaced:
            self._set_state(named, number, ModelState.UNLOADING, reason, leaving=model, keep_route=keep_route)
        model.start_drain(limit_s)  # at once: nothing is admitted between this turn of the loop and the task's first
        task = asyncio.get_running_loop().create_task(self._finish(named, number, model, reason, is_replaced))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _finish(self, named: NamedModel, number: int, model: Model, reason: str, is_replaced: bool) -> None:
        await model.drained()
        await model.close()
        version = named.versions[number]
        if not is_replaced and version.state == ModelState.UNLOADING:
            self._set_state(named, number, ModelState.UNAVAILABLE, reason, leaving=model, keep_route=True)

    def _set_state(
        self,
        named: NamedModel,
        number: int,
        state: str,
        reason: str = "",
        *,
        model: Model | None = None,
        leaving: Model | None = None,
        keep_route: bool = False,
    ) -> None:
        named.problem = ""
        named.versions[number] = VersionState(state, reason, model)
        if not keep_route:
            self._reroute(named)
        for listener in self._listeners:
            listener.model_state(named.source.name, number, state, reason, model or leaving)

    def _tell_loads(self, name: str, numbers: Iterable[int], *, ok: bool) -> None:
        for number in numbers:
            for listener in self._listeners:
                listener.load_ended(name, number, ok=ok)

    def _reroute(self, named: NamedModel) -> None:
        name = named.source.name
        self.generation += 1
        for key in [key for key in self._routes if key[0] == name]:
            del self._routes[key]
        for number, version in sorted(named.versions.items()):
            if version.model is not None:
                self._routes[name, str(number)] = version.model
                self._routes[name, ""] = version.model

    def _known(self, name: str) -> NamedModel:
        named = self._named.get(name)
        if named is None:
            raise ModelNotFound(f"model '{name}' is not known; POST /v2/repository/index lists what is")
        return named

    def _each_version(self) -> Iterable[tuple[str, int, VersionState]]:
        for name, named in sorted(self._named.items()):
            for number, version in sorted(named.versions.items()):
                yield name, number, version
