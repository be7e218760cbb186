"""The same server on uvloop, which the command uses where it is installed: what depends on the loop is tried on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support import onnx_models
from support.crowd import run_crowd
from support.http_service import infer_body, quick, start_service, until
from support.raw_http import request_bytes

from batchserve.backends.fake import FakeBackend
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ServerConfig
from batchserve.engine.sources import find_models
from batchserve.errors import ConfigError
from batchserve.frontend.listen import listen

uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

INFER = "/v2/models/echo/infer"


def on_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_a_crowd_is_answered(tmp_path: Path) -> None:
    onnx_models.save(
        onnx_models.one_op("Identity", element=onnx_models.INT64, shape=("batch", "length"), out=("batch", "length")),
        tmp_path / "echo.onnx",
    )

    async def test() -> None:
        service = await start_service(OnnxBackend(), {"echo": quick()}, sources=find_models([tmp_path]))
        tally = await run_crowd(service.port, clients=32, requests=30)
        model = service.model()
        await until(lambda: service.server.open_connections == 0)
        assert tally.answered + tally.left == 960
        assert tally.answered <= model.counters.completed
        assert model.counters.received == model.counters.ended
        assert service.server.held_bytes == 0
        await service.stop()

    on_uvloop(test)


def test_a_client_that_leaves_takes_its_request_along() -> None:
    async def test() -> None:
        backend = FakeBackend()
        service = await start_service(backend)
        held = service.hold(backend)
        model = service.model()
        stays, leaves = await service.client(), await service.client()
        first = asyncio.create_task(stays.post(INFER, infer_body(1)))
        await held.begun(1)
        await leaves.send(request_bytes("POST", INFER, json.dumps(infer_body(2)).encode()))
        await until(lambda: model.queued_requests == 1)
        leaves.abort()
        await until(lambda: model.counters.cancelled == 1)
        held.let_go()
        assert (await first).status == 200
        await stays.close()
        await service.stop()

    on_uvloop(test)


def test_a_drain_answers_what_was_admitted_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        backend = FakeBackend()
        service = await start_service(backend)
        held = service.hold(backend)
        clients = [await service.client() for _ in range(16)]
        asked = [asyncio.create_task(client.post(INFER, infer_body(i))) for i, client in enumerate(clients)]
        idle = await service.client()
        assert (await idle.get("/v2/health/ready")).status == 200
        await until(lambda: service.model().counters.received == 16)
        drain = asyncio.create_task(service.server.drain())
        await until(lambda: service.repository.is_draining)
        held.let_go()
        replies = await asyncio.gather(*asked)
        assert [reply.json["outputs"][0]["data"][0] for reply in replies] == list(range(16))
        assert all(reply.closes for reply in replies)
        await drain
        assert await idle.is_closed_by_server()
        for client in (*clients, idle):
            await client.close()
        await service.stop()

    on_uvloop(test)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_limits_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchserve.frontend.guard.LINGER_S", 0.05)

    async def test() -> None:
        config = ServerConfig(header_timeout_s=0.05, body_timeout_s=0.05, max_body_size_bytes=1 << 20)
        service = await start_service(FakeBackend(), config=config)
        for sent, status in (
            (b"GET /", 408),
            (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: 1\r\n" * 3000, 431),
            (b"\0\r\n\r\n", 400),
            (request_bytes("POST", INFER, bytes(100))[:-1], 408),
            (request_bytes("POST", INFER, bytes(2 << 20)), 413),
            (request_bytes("POST", INFER, None, {"Transfer-Encoding": "chunked"}) + b"zz\r\n", 400),
        ):
            async with await service.client() as client:
                await client.send(sent)
                reply = await client.read()
                assert (reply.status, reply.closes) == (status, True), sent[:40]
                assert reply.error
                assert await client.is_closed_by_server()
        async with await service.client() as client:
            large = infer_body(*range(2000))
            reply = await client.post(INFER, large)
            assert reply.status == 400  # more rows than the queue holds
            await client.send(request_bytes("POST", INFER, b"{}", {"Expect": "100-continue"})[:-2])
            assert (await client.read()).status == 100
            await client.send(b"{}")
            assert (await client.read()).status == 400
        await service.stop()

    on_uvloop(test)


def test_a_taken_port_is_told() -> None:
    async def test() -> None:
        service = await start_service(FakeBackend())
        with pytest.raises(ConfigError, match="is taken"):
            await listen("127.0.0.1", service.port)
        await service.stop()

    on_uvloop(test)
