"""`Server-Timing` and `X-Batch-Rows`: on by request header or configuration, absent otherwise, on both ways."""

from __future__ import annotations

import asyncio

import pytest
from support.http_service import Serve, infer_body

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig

INFER = "/v2/models/echo/infer"


async def test_answer_says_where_its_time_went_if_asked(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        plain = await client.post(INFER, infer_body(1))
        asked = await client.post(INFER, infer_body(1, 2, 3), {"X-Server-Timing": "1"})
        refused = await client.post(INFER, infer_body(1), {"X-Server-Timing": "0"})
    for reply in (plain, refused):
        assert not {"server-timing", "x-batch-rows"} & set(reply.headers)
    names = [part.split(";")[0] for part in asked.headers["server-timing"].split(", ")]
    assert names == ["decode", "queue", "gather", "run", "scatter", "total"]
    assert asked.headers["x-batch-rows"] == "3"
    assert asked.json["outputs"] != plain.json["outputs"]


async def test_configuration_asks_for_everybody_and_rows_are_those_of_the_batch(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ServerConfig(server_timing=True))
    held = service.hold(backend)
    clients = [await service.client() for _ in range(3)]
    first = asyncio.create_task(clients[0].post(INFER, infer_body(1)))
    await held.begun(1)
    others = [asyncio.create_task(client.post(INFER, infer_body(2, 3))) for client in clients[1:]]
    while service.model().queued_rows < 4:  # noqa: ASYNC110  # turns of the loop until both are queued
        await asyncio.sleep(0)
    held.let_go()
    replies = await asyncio.gather(first, *others)
    assert [reply.headers["x-batch-rows"] for reply in replies] == ["1", "4", "4"]
    for client in clients:
        await client.close()


@pytest.mark.parametrize("path", ["/v2/models/none/infer", "/v2/health/live"])
async def test_other_answers_have_no_timing(serve: Serve, path: str) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(server_timing=True))
    async with await service.client() as client:
        reply = await (client.get(path) if "health" in path else client.post(path, infer_body(1)))
        assert "server-timing" not in reply.headers
