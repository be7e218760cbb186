"""A server with small models on a thread of its own, for clients that need the test's thread for themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from support import onnx_models
from support.http_service import ByName, Service, quick, start_service

from batchserve.backends.fake import FakeBackend
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ServerConfig
from batchserve.engine.sources import find_models
from batchserve.telemetry.log_control import LogControl

T = TypeVar("T")

START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class LiveServer:
    """A running server.

    Attributes:
        service: The server; touched only on its own loop.
        slow: Backend of the model `slow`, whose runs a test may hold.
        loop: The server's loop.
    """

    service: Service
    slow: FakeBackend
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.service.address

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run something on the server's loop and wait for it."""

        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(START_TIMEOUT_S)


def write_models(folder: Path) -> None:
    """Write the models: `same` (int64 identity), `sums` (several tensors), `shout` (strings), `two` (two versions)."""
    onnx_models.save(onnx_models.identity(onnx_models.INT64, 4), folder / "same.onnx")
    onnx_models.save(onnx_models.several_tensors(), folder / "sums.onnx")
    onnx_models.save(onnx_models.string_suffix("!"), folder / "shout.onnx")
    for version in (1, 2):
        onnx_models.save(onnx_models.add_one(), folder / "two" / str(version) / "model.onnx")
    onnx_models.save(onnx_models.identity(onnx_models.INT64, 4), folder / "slow.onnx")


@contextmanager
def live_server(folder: Path, *, admin: bool = False) -> Iterator[LiveServer]:
    """Serve the models of `write_models` until the block ends."""
    write_models(folder)
    slow = FakeBackend()
    onnx = OnnxBackend()
    names = {"same": quick(), "sums": quick(), "shout": quick(), "two": quick(version_policy="all"), "slow": quick()}
    started = threading.Event()
    servers: list[LiveServer] = []
    stop: list[asyncio.Event] = []

    async def serve() -> None:
        backend = ByName(same=onnx, sums=onnx, shout=onnx, two=onnx, slow=slow)
        service = await start_service(
            backend,
            names,
            sources=find_models([folder]),
            config=ServerConfig(admin=admin),
            log_settings=LogControl("info").update,
        )
        stop.append(asyncio.Event())
        servers.append(LiveServer(service, slow, asyncio.get_running_loop()))
        started.set()
        await stop[0].wait()
        await service.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="server")
    thread.start()
    try:
        assert started.wait(START_TIMEOUT_S), "the server did not start"
        yield servers[0]
    finally:
        if servers:
            servers[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join(START_TIMEOUT_S)
        assert not thread.is_alive(), "the server did not stop"
