"""Clients that leave before their answer: their requests leave, too, and the counters say so."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from support.http_service import Serve, infer_body, until
from support.raw_http import RawClient, request_bytes

from batchserve.backends.fake import FakeBackend
from batchserve.frontend import inference

INFER = "/v2/models/echo/infer"


def asked(*values: int) -> bytes:
    return request_bytes("POST", INFER, json.dumps(infer_body(*values)).encode())


def leave(client: RawClient, how: str) -> None:
    if how == "reset":
        client.abort()
    elif how == "close":
        client.writer.close()
    else:
        client.writer.write_eof()


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
async def test_a_client_that_leaves_takes_its_queued_request_along(serve: Serve, how: str) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    model = service.model()
    stays, leaves, neighbour = [await service.client() for _ in range(3)]
    first = asyncio.create_task(stays.post(INFER, infer_body(1)))
    await held.begun(1)
    await leaves.send(asked(2))
    await until(lambda: model.queued_requests == 1)
    waiting = asyncio.create_task(neighbour.post(INFER, infer_body(3)))
    await until(lambda: model.queued_requests == 2)

    leave(leaves, how)
    await until(lambda: model.queued_requests == 1)
    assert (model.queued_rows, model.counters.cancelled) == (1, 1)
    await until(lambda: service.server.open_connections == 2)

    held.let_go()
    assert (await first).json["outputs"][0]["data"] == [1] * 4
    assert (await waiting).json["outputs"][0]["data"] == [3] * 4
    assert [run.inputs[0][:, 0].tolist() for run in backend.runs] == [[1], [3]]
    counters = model.counters
    assert (counters.received, counters.completed, counters.cancelled) == (3, 2, 1)
    for client in (stays, leaves, neighbour):
        await client.close()


async def test_a_client_that_leaves_while_its_batch_runs_disturbs_nobody_in_it(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    model = service.model()
    first, leaves, neighbour = [await service.client() for _ in range(3)]
    await first.send(asked(1))
    await held.begun(1)
    for client, value in ((leaves, 2), (neighbour, 3)):
        await client.send(asked(value))
    await until(lambda: model.queued_requests == 2)
    backend.gate = threading.Event()  # the first run goes on, the next one is held again
    held.let_go()
    assert (await first.read()).status == 200
    assert await asyncio.to_thread(backend.wait_for_runs, 2)
    leaves.abort()
    await until(lambda: model.counters.cancelled == 1)
    backend.gate.set()
    assert (await neighbour.read()).json["outputs"][0]["data"] == [3] * 4
    assert sorted(backend.runs[1].inputs[0][:, 0].tolist()) == [2, 3]
    counters = model.counters
    assert (counters.received, counters.completed, counters.cancelled) == (3, 2, 1)
    assert (model.queued_requests, model.running_requests) == (0, 0)
    for client in (first, leaves, neighbour):
        await client.close()


async def test_many_clients_that_leave_at_once_leave_nothing_behind(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    model = service.model()
    stays = await service.client()
    first = asyncio.create_task(stays.post(INFER, infer_body(0)))
    await held.begun(1)
    before = asyncio.all_tasks()
    clients = [await service.client() for _ in range(50)]
    for value, client in enumerate(clients):
        await client.send(asked(value))
    await until(lambda: model.queued_requests == 50)
    for client in clients:
        client.abort()
    await until(lambda: model.queued_requests == 0)
    await until(lambda: service.server.open_connections == 1)
    assert service.server.held_bytes == len(asked(0).split(b"\r\n\r\n", 1)[1])
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
    held.let_go()
    assert (await first).status == 200
    counters = model.counters
    assert (counters.received, counters.completed, counters.cancelled) == (51, 1, 50)
    await stays.close()


async def test_a_client_that_leaves_while_its_body_is_decoded_is_never_queued(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    decode = inference.decode

    def slow_decode(*args: object) -> object:
        began.set()
        assert go_on.wait(30)
        return decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(inference, "decode", slow_decode)
    monkeypatch.setattr(inference, "HEAVY_BYTES", 10)
    service = await serve(FakeBackend())
    client = await service.client()
    await client.send(asked(1))
    assert await asyncio.to_thread(began.wait, 30)
    client.abort()
    await until(lambda: service.server.open_connections == 0)
    go_on.set()
    await until(lambda: service.server.held_bytes == 0)
    assert service.model().counters.received == 0
    async with await service.client() as other:
        assert (await other.post(INFER, infer_body(2))).status == 200


async def test_a_pipelined_request_of_a_client_that_left_is_not_started(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    client = await service.client()
    await client.send(asked(1) + asked(2))
    await held.begun(1)
    client.abort()
    await until(lambda: service.model().counters.cancelled == 1)
    held.let_go()
    await until(lambda: service.server.open_connections == 0)
    assert [run.inputs[0][0, 0] for run in backend.runs] == [1]
    assert service.model().counters.received == 1
