"""Clients that send the same head and JSON again and again: each request is read as if it were the first."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from support.http_service import Serve, quick, rows, until
from support.raw_http import RawClient, Reply, request_bytes
from support.tracer import Recorder

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig
from batchserve.core.request import Request
from batchserve.engine.model import Model
from batchserve.frontend.habits import MOST_HABITS
from batchserve.frontend.hot import HotPath

INFER = "/v2/models/echo/infer"


def question(
    value: int, count: int = 1, path: str = INFER, head: dict[str, str] | None = None, **members: object
) -> bytes:
    """A binary request whose rows are `value`; those with the same other arguments begin with the same bytes."""
    data = rows(*[value] * count).tobytes()
    tensor = {"name": "x", "datatype": "INT64", "shape": [count, 4], "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, **members}).encode()
    return request_bytes(
        "POST", path, header + data, {"Inference-Header-Content-Length": str(len(header)), **(head or {})}
    )


def values(reply: Reply) -> list[int]:
    """The first element of each row of an answer."""
    assert reply.status == 200, reply
    data = reply.body[int(reply.headers["inference-header-content-length"]) :]
    return np.frombuffer(data, np.int64).reshape(-1, 4)[:, 0].tolist()


async def ask(client: RawClient, request: bytes) -> Reply:
    await client.send(request)
    return await client.read()


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Notes each time a habit is looked up, whether it served."""
    noted: list[bool] = []
    model_of = HotPath.model_of

    def note(self: HotPath, habit: object) -> object:
        model = model_of(self, habit)  # type: ignore[arg-type]
        noted.append(model is not None)
        return model

    monkeypatch.setattr(HotPath, "model_of", note)
    return noted


async def test_repeated_requests_are_answered_with_their_own_rows(serve: Serve, way: str, repeats: list[bool]) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as one, await service.client() as other:
        for value in range(5):
            assert values(await ask(one, question(value, 2))) == [value, value]
            assert values(await ask(other, question(-value, 2))) == [-value, -value]
    assert repeats == ([True] * 8 if way == "hot" else [])


async def test_requests_that_begin_alike_but_go_on_otherwise_are_told_apart(serve: Serve) -> None:
    """The same first bytes with a longer or shorter rest, more than one request, or a piece of one."""
    service = await serve(FakeBackend())
    async with await service.client() as client:
        known = question(1)
        for _ in range(2):
            assert values(await ask(client, known)) == [1]
        assert values(await ask(client, question(2, 3))) == [2, 2, 2]
        assert values(await ask(client, known)) == [1]

        await client.send(question(3) + question(4))
        assert [values(await client.read()) for _ in range(2)] == [[3], [4]]

        await client.send(question(5)[:-1])
        await client.send(question(5)[-1:] + question(6)[:50])
        assert values(await client.read()) == [5]
        await client.send(question(6)[50:])
        assert values(await client.read()) == [6]


async def test_a_repeated_request_cut_anywhere_is_the_same_request(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for cut in range(1, len(question(0))):
            request = question(cut)
            await client.send(request[:cut])
            await asyncio.sleep(0)
            await client.send(request[cut:])
            assert values(await client.read()) == [cut]
            assert values(await ask(client, question(-cut))) == [-cut]


async def test_a_pipeline_behind_a_repeated_request_is_answered_in_order(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    async with await service.client() as client:
        assert values(await ask(client, question(0))) == [0]
        held = service.hold(backend)
        await client.send(question(1))
        await held.begun(2)
        await client.send(question(2))
        await client.send(question(3))
        held.let_go()
        assert [values(await client.read()) for _ in range(3)] == [[1], [2], [3]]


async def test_after_a_reload_the_new_version_answers(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    async with await service.client() as client:
        for _ in range(2):
            assert values(await ask(client, question(1))) == [1]
        await service.repository.load("echo")
        backend.function = lambda inputs, mask: [inputs[0] + 100]
        assert len(backend.sessions) == 2
        for _ in range(2):
            assert values(await ask(client, question(1))) == [101]


async def test_a_model_that_was_unloaded_is_not_asked_again(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for _ in range(2):
            assert values(await ask(client, question(1))) == [1]
        await service.repository.unload("echo")
        reply = await ask(client, question(1))
        assert reply.status == 503
        assert "echo" in reply.error


async def test_the_memory_limit_holds_for_repeated_requests(serve: Serve) -> None:
    backend = FakeBackend()
    size = len(question(1).partition(b"\r\n\r\n")[2])
    service = await serve(backend, config=ServerConfig(max_inflight_bytes=size))
    async with await service.client() as one, await service.client() as other:
        for client in (one, other):
            assert values(await ask(client, question(1))) == [1]
        held = service.hold(backend)
        await one.send(question(2))
        await held.begun(3)
        reply = await ask(other, question(3))
        assert (reply.status, reply.headers["retry-after"], reply.closes) == (429, "1", True)
        held.let_go()
        assert values(await one.read()) == [2]
        assert values(await ask(one, question(4))) == [4]
    assert service.model().counters.refused["memory"] == 1


async def test_a_drain_ends_the_connection_of_a_repeated_request(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    async with await service.client() as one, await service.client() as other:
        for client in (one, other):
            assert values(await ask(client, question(1))) == [1]
        held = service.hold(backend)
        await one.send(question(2))
        await held.begun(3)
        drain = asyncio.create_task(service.server.drain())
        await until(lambda: service.repository.is_draining)
        refused = await ask(other, question(3))
        assert (refused.status, refused.closes) == (503, True)
        held.let_go()
        answered = await one.read()
        assert (values(answered), answered.closes) == ([2], True)
        await drain


@pytest.mark.parametrize("head", [{"Connection": "close"}, {"X-Server-Timing": "1"}, {"Accept-Encoding": "gzip"}])
async def test_what_a_head_asks_for_is_given_each_time(serve: Serve, head: dict[str, str]) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(compression_min_size_bytes=1))
    seen = []
    for _ in range(2):
        async with await service.client() as client:
            for turn in range(1 if "Connection" in head else 3):
                reply = await ask(client, question(turn, head=head))
                assert reply.closes == ("Connection" in head)
                assert ("server-timing" in reply.headers) == ("X-Server-Timing" in head)
                assert ("content-encoding" in reply.headers) == ("Accept-Encoding" in head)
                seen.append(reply.status)
    assert set(seen) == {200}


async def test_what_the_configuration_asks_for_is_given_each_time(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(server_timing=True), with_access_log=True)
    async with await service.client() as client:
        for turn in range(3):
            reply = await ask(client, question(turn))
            assert values(reply) == [turn]
            assert "total;dur=" in reply.headers["server-timing"]
    assert [access["path"] for access in service.accesses] == [INFER] * 3


async def test_a_request_is_called_as_it_says_each_time(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for name in (None, "one", "one", "two", None, "two", None):
            reply = await ask(client, question(1, head={} if name is None else {"X-Request-Id": name}))
            assert values(reply) == [1]
            assert reply.headers.get("x-request-id") == name


async def test_the_tracer_hears_of_each_repeated_request(serve: Serve) -> None:
    tracer = Recorder()
    service = await serve(FakeBackend(), tracer=tracer)
    async with await service.client() as client:
        for value in range(3):
            assert values(await ask(client, question(value))) == [value]
    assert [ended[1:] for ended in tracer.ended] == [("echo", "1", 200)] * 3


async def test_the_rules_know_the_client_of_each_repeated_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[str] = []
    submit = Model.submit

    def note(self: Model, request: Request, *more: object) -> object:
        clients.append(request.client)
        return submit(self, request, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "submit", note)
    service = await serve(FakeBackend(), config=ServerConfig(client_header="X-Who"))
    async with await service.client() as client:
        for value in range(3):
            assert values(await ask(client, question(value, head={"X-Who": "ann"}))) == [value]
    assert clients == ["ann"] * 3


@pytest.mark.parametrize("way", ["hot"], indirect=True)
async def test_habits_are_bounded(serve: Serve) -> None:
    service = await serve(FakeBackend(), {"echo": quick(priority_levels=1)})
    async with await service.client() as client:
        for number in range(MOST_HABITS + 20):
            assert values(await ask(client, question(number, id=str(number)))) == [number]
    hot = service.server._hot
    assert hot is not None
    assert 0 < len(hot._habits._habits) <= MOST_HABITS
