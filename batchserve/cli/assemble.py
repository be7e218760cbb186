"""Puts a server together: models, backend, telemetry, frontend. The only place that knows all of them."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchserve.backends.engine_backend import EngineBackend
from batchserve.backends.isolated import IsolatingBackend
from batchserve.backends.onnx import OnnxBackend, require_runtime
from batchserve.backends.several import SeveralDevices
from batchserve.backends.swapping import SwappingBackend
from batchserve.cli.reloading import Reloading
from batchserve.engine.profiles import Profiles
from batchserve.engine.repository import Repository
from batchserve.frontend.server import Server
from batchserve.frontend.services import Services
from batchserve.telemetry.gauging import Gauging
from batchserve.telemetry.live import Live
from batchserve.telemetry.log_control import LogControl
from batchserve.telemetry.logging import StateLog, log_access
from batchserve.telemetry.recording import Recorder
from batchserve.telemetry.span_pipe import SpanPipe, require_opentelemetry
from batchserve.telemetry.statistics import Statistics
from batchserve.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from batchserve.backends.base import Backend
    from batchserve.config import Settings
    from batchserve.engine.events import Listener
    from batchserve.engine.sources import ModelSource

__all__ = ["Assembly", "cache_folder", "model_backend", "new_event_loop"]

_POOL_THREADS = 4
"""Helper threads for large JSON and compression: they share the cores with the models' own."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make the fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def cache_folder(configured: str | None) -> Path:
    """Say where to keep what may be lost; `configured` is `server.cache_dir`."""
    if configured is not None:
        return Path(configured).expanduser()
    user = Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or user).expanduser() / "batchserve"


def model_backend(cache: Path, available: Callable[[], Sequence[str]]) -> Backend:
    """Put together what loads the models of a server.

    Args:
        cache: Folder of what may be lost.
        available: Gives the providers that the runtime has.
    """
    engines = EngineBackend(IsolatingBackend(OnnxBackend()), cache / "engines")
    return SeveralDevices(SwappingBackend(engines, available, engines.profile_file))


class Assembly:
    """One server with everything in it. Event loop only.

    Life: `start`, `load`, then `drain`; `close` at last in any case.

    Args:
        settings: The configuration.
        sources: The models to serve.

    Raises:
        ConfigError: There is no runtime, or no OpenTelemetry although tracing is on.
    """

    def __init__(self, settings: Settings, sources: Sequence[ModelSource]) -> None:
        runtime = require_runtime()
        config = settings.server
        self._reloading = Reloading(settings)
        log_control = LogControl(config.log_level)
        log_control.install()
        statistics = Statistics()
        self._gauging = Gauging(str(runtime.__version__)) if config.metrics else None
        metrics = None if self._gauging is None else self._gauging.metrics
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="helper")
        listeners: list[Listener] = [statistics, StateLog()]
        if metrics is not None:
            listeners.insert(0, metrics)
        self._spans = SpanPipe(config.trace_endpoint) if config.tracing else None
        tracing = None
        if self._spans is not None:
            require_opentelemetry()
            tracing = Tracing(config.trace_ratio, self._spans.send)
            listeners.append(tracing)
        self._recorder: Recorder | None = None
        if config.record is not None:
            folder = Path(config.record).expanduser()
            self._recorder = Recorder(folder, config.record_file_size_bytes, config.record_files)
            listeners.append(self._recorder)
        cache = cache_folder(config.cache_dir)
        self.repository = Repository(
            sources,
            self._reloading.config_of,
            model_backend(cache, runtime.get_available_providers),
            listeners=listeners,
            profiles=Profiles(cache / "profiles") if config.profile_cache else None,
            allow_partial=config.allow_partial,
        )
        self.server = Server(
            Services(
                repository=self.repository,
                config=config,
                statistics=statistics.entry,
                render_metrics=None if metrics is None else metrics.render,
                reload_config=partial(self._reloading.reload_model, self.repository),
                pool=self._pool,
                access_log=log_access if config.access_log else None,
                live=None
                if metrics is None
                else Live(self.repository.models, listeners, metrics.totals, metrics.lag_max),
                tracer=tracing,
                log_settings=log_control.update,
            )
        )
        if metrics is not None:
            metrics.watch_http(
                responses=lambda: self.server.responses,
                numbers=lambda: self.server.numbers,
                buffers=lambda: self.server.buffers,
            )

    async def start(self) -> None:
        """Listen. Models are loaded afterwards, so that probes get their answers meanwhile.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        await self.server.start()
        if self._spans is not None:
            await self._spans.start()
        if self._gauging is not None:
            self._gauging.start(asyncio.get_running_loop())
        if self._recorder is not None:
            self._recorder.start(asyncio.get_running_loop())

    async def load(self) -> None:
        """Load every model; those that fail keep their reason."""
        await self.repository.load_all()
        # What is there now stays: a full collection need not walk the modules' objects again and again, which held
        # the event loop for some 20 ms each time.
        gc.collect()
        gc.freeze()

    def reload(self) -> None:
        """Read the configuration again in the background; what comes of it is in the log."""
        self._reloading.start(self.repository)

    async def drain(self) -> None:
        """Finish what was admitted, refuse the rest, close the connections."""
        await self.server.drain()

    async def close(self) -> None:
        """Give everything back; without a `drain` before, connections are cut. May be called again."""
        self._reloading.close()
        if self._gauging is not None:
            self._gauging.stop()
        await self.server.close()
        await self.repository.drain(0)
        if self._spans is not None:
            await self._spans.close()
        if self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            await asyncio.to_thread(recorder.close)
        self._pool.shutdown(wait=False, cancel_futures=True)
