"""The whole server in this process, on a free port, over any backend: what the tests of the frontend talk to."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from support.raw_http import TIMEOUT_S, RawClient

from batchserve.backends.base import Backend, ModelFile, Session
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig, ServerConfig
from batchserve.engine.events import Listener
from batchserve.engine.model import Model
from batchserve.engine.repository import Repository
from batchserve.engine.sources import ModelSource
from batchserve.frontend.server import Server
from batchserve.frontend.services import AccessLog, Services
from batchserve.telemetry.statistics import Statistics

Serve = Callable[..., Awaitable["Service"]]
"""What the fixture `serve` is: `start_service`, with everything stopped after the test."""

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def quick(**keys: Any) -> ModelConfig:
    """A model's configuration without warm-up runs, so that a fake backend sees only what the test sends."""
    return ModelConfig(**{"warmup_budget_s": 0.0, **keys})


class Held:
    """The runs of a fake backend, stopped until they are let go."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.gate = backend.gate = threading.Event()

    async def begun(self, count: int) -> None:
        """Wait until so many runs have begun."""
        assert await asyncio.to_thread(self.backend.wait_for_runs, count)

    def let_go(self) -> None:
        self.gate.set()


@dataclass
class Service:
    """A running server with everything behind it."""

    server: Server
    repository: Repository
    statistics: Statistics
    pool: ThreadPoolExecutor
    accesses: list[Mapping[str, object]] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    @property
    def port(self) -> int:
        port = urlsplit(self.server.url).port
        assert port is not None
        return port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def client(self) -> RawClient:
        return await RawClient.connect(self.port)

    def model(self, name: str = "echo", version: str = "") -> Model:
        return self.repository.get(name, version)

    def hold(self, backend: FakeBackend) -> Held:
        """Stop the runs of a fake backend from now on, at the latest until the server is stopped."""
        self.held.append(Held(backend))
        return self.held[-1]

    async def stop(self) -> None:
        """End everything; a test that has drained the server loses nothing by it."""
        for held in self.held:
            held.let_go()
        await self.server.close()
        if not self.repository.is_draining:
            await self.repository.drain(5.0)
        self.pool.shutdown()


@dataclasses.dataclass
class Ways:
    """Which way inference requests take in the servers that tests start; a fixture sets it."""

    fast_path: str = "on"


ways = Ways()


async def start_service(
    backend: Backend,
    models: Mapping[str, ModelConfig] | None = None,
    *,
    sources: list[ModelSource] | None = None,
    config: ServerConfig | None = None,
    with_access_log: bool = False,
    entry: Callable[[Model], Mapping[str, object]] | None = None,
    load: bool = True,
    listeners: list[Listener] | None = None,
    **more: Any,
) -> Service:
    """Serve models on a free port of 127.0.0.1.

    Args:
        backend: Loads them.
        models: Configuration of each by name; one named `echo` by default. Read again for each load and reload.
        sources: Where they lie; by default one version each, in files that need not exist.
        config: The `[server]` table; host and port are replaced.
        with_access_log: Collect accesses.
        entry: Gives statistics in place of the real ones.
        load: Load the models first; a failure of one is not an error.
        listeners: Hear of the engine beside the statistics; read anew at each event.
        more: Further fields of `Services`; `live` is made by a function of the repository.
    """
    models = {"echo": quick()} if models is None else models
    if sources is None:
        sources = [ModelSource(name, {1: Path("none.onnx")}, None, Path("none.onnx")) for name in models]
    statistics = Statistics()
    known = models
    heard = [] if listeners is None else listeners
    heard.append(statistics)
    repository = Repository(sources, lambda source: known[source.name], backend, listeners=heard)
    more = {name: value(repository) if name == "live" else value for name, value in more.items()}
    pool = ThreadPoolExecutor(2, thread_name_prefix="helper")
    accesses: list[Mapping[str, object]] = []
    log: AccessLog | None = accesses.append if with_access_log else None
    given = config or ServerConfig()
    server = Server(
        Services(
            repository=repository,
            config=_with(given, host="127.0.0.1", port=0, http_fast_path=ways.fast_path),
            statistics=entry or statistics.entry,
            render_metrics=lambda accept: (b"# accept: " + accept.encode() + b"\n", TEXT),
            reload_config=lambda name: repository.reconfigure(name, known.get(name, ModelConfig())),
            pool=pool,
            access_log=log,
            **more,
        )
    )
    if load:
        await repository.load_all()
    await server.start()
    return Service(server, repository, statistics, pool, accesses)


def _with(config: ServerConfig, **keys: Any) -> ServerConfig:
    return dataclasses.replace(config, **keys)


def rows(*values: int, columns: int = 4) -> np.ndarray[Any, Any]:
    """Integer-coded rows: row i is `columns` times values[i]."""
    return np.repeat(np.array(values, np.int64)[:, None], columns, axis=1)


def infer_body(*values: int, columns: int = 4, **members: Any) -> dict[str, Any]:
    """A JSON request for the fake model, with one integer-coded row for each value."""
    array = rows(*values, columns=columns)
    tensor = {"name": "x", "datatype": "INT64", "shape": list(array.shape), "data": array.ravel().tolist()}
    return {"inputs": [tensor], **members}


async def until(state: Callable[[], bool]) -> None:
    """Let the loop turn until something is true."""
    async with asyncio.timeout(TIMEOUT_S):
        while not state():  # noqa: ASYNC110  # counters of the server under test signal to nobody
            await asyncio.sleep(0)


class ByName:
    """A backend that has a backend for each model."""

    def __init__(self, **backends: Backend) -> None:
        self.backends = backends

    def load(self, file: ModelFile, config: ModelConfig) -> Session:
        return self.backends[file.name].load(file, config)
