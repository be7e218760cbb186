"""`/` in a browser, and its events: what is sent, to whom, and that nothing goes on when nobody looks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.console_events import EVENTS, Numbers, looking
from support.http_service import Serve, Service, infer_body, quick, until

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig
from batchserve.frontend.console import stream

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PERIOD_S", 0.02)


async def started(serve: Serve, **keys: Any) -> tuple[Service, Numbers]:
    service = await serve(FakeBackend(), live=Numbers, **keys)
    live = service.server._services.live
    assert isinstance(live, Numbers)
    return service, live


async def test_a_browser_gets_the_page_and_all_others_what_they_always_got(serve: Serve) -> None:
    service, _ = await started(serve)
    async with await service.client() as client:
        page = await client.get("/", BROWSER)
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert page.headers["vary"] == "Accept"
        assert page.body.startswith(b"<!doctype html>")
        for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json, text/html;q=0.5"}):
            alive = await client.get("/", headers)
            assert (alive.json, alive.headers["content-type"]) == ({"status": "alive"}, "application/json")
        head = await client.ask("HEAD", "/", None, BROWSER)
        assert (head.status, head.body, head.headers["content-type"]) == (200, b"", "text/html; charset=utf-8")


async def test_switched_off_there_is_neither_page_nor_stream(serve: Serve) -> None:
    service, live = await started(serve, config=ServerConfig(console=False))
    async with await service.client() as client:
        assert (await client.get("/", BROWSER)).json == {"status": "alive"}
        reply = await client.get(EVENTS)
        assert reply.status == 404
        assert "server.console" in reply.error
    assert not live.is_on


async def test_who_looks_is_told_of_the_models_and_then_of_the_numbers(serve: Serve) -> None:
    service, _ = await started(serve)
    async with looking(service) as events:
        assert "Content-Type: text/event-stream" in events.head
        name, about = await events.next()
        assert name == "models"
        (model,) = about["models"]
        assert (model["name"], model["version"], model["state"]) == ("echo", "1", "READY")
        assert model["inputs"] == [{"name": "x", "datatype": "INT64", "shape": [-1, 4]}]
        assert len(model["sample"][0]["data"]) == model["sample"][0]["shape"][1]
        for _ in range(3):
            name, now = await events.next()
            assert name == "now"
            assert {"at", "why_not_ready", "http", "errors", "reads"} <= set(now)


async def test_nothing_is_read_and_no_timer_runs_when_nobody_looks(serve: Serve) -> None:
    service, live = await started(serve)
    console = service.server._app.console
    assert not live.is_on
    assert console._timer is None
    async with looking(service) as one, looking(service) as two:
        for events in (one, two):
            await events.next()
        assert live.is_on
        assert console.viewers == 2
    await until(lambda: console.viewers == 0)
    assert not live.is_on
    assert console._timer is None
    reads = live.reads
    async with looking(service) as again:
        await again.next()
        assert live.reads == reads + 1


async def test_all_who_look_share_one_reading(serve: Serve) -> None:
    service, _ = await started(serve)
    async with looking(service) as one, looking(service) as two:
        seen: list[set[int]] = [set(), set()]
        for events, reads in ((one, seen[0]), (two, seen[1])):
            await events.next()
            await events.next()
            reads.update([(await events.next())[1]["reads"] for _ in range(5)])
        assert len(seen[0] & seen[1]) >= 3


async def test_a_change_of_a_model_is_told(serve: Serve) -> None:
    service, _ = await started(serve, models={"echo": quick(), "other": quick()})
    async with looking(service) as events:
        _, about = await events.next()
        assert [model["state"] for model in about["models"]] == ["READY", "READY"]
        await service.repository.unload("other")
        while True:
            name, about = await events.next()
            if name == "models" and about["models"][1]["state"] == "UNAVAILABLE":
                break
        assert about["models"][1]["reason"] == "unloaded"
        assert "inputs" not in about["models"][1]


async def test_errors_of_callers_are_told_while_somebody_looks(serve: Serve) -> None:
    service, _ = await started(serve)
    async with looking(service) as events, await service.client() as client:
        await events.next()
        for _ in range(2):
            reply = await client.post("/v2/models/echo/infer", {"inputs": []})
        while True:
            _, now = await events.next()
            if now["errors"] and now["errors"][0]["count"] == 2:
                break
        (line,) = now["errors"]
        assert (line["status"], line["model"], line["text"]) == (400, "echo", reply.error)
        assert line["request_id"] == reply.headers["x-request-id"]


async def test_requests_go_on_beside_a_stream_and_after_it_on_the_same_server(serve: Serve) -> None:
    service, _ = await started(serve)
    async with looking(service) as events, await service.client() as client:
        await events.next()
        assert (await client.post("/v2/models/echo/infer", infer_body(1))).status == 200
    async with await service.client() as client:
        assert (await client.post("/v2/models/echo/infer", infer_body(2))).status == 200


async def test_streams_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_VIEWERS", 1)
    service, _ = await started(serve)
    async with looking(service) as events, await service.client() as client:
        await events.next()
        reply = await client.get(EVENTS)
        assert reply.status == 503
        assert "/metrics" in reply.error


async def test_a_drain_ends_the_streams_and_does_not_wait_for_them(serve: Serve) -> None:
    service, live = await started(serve)
    async with looking(service) as events:
        await events.next()
        async with asyncio.timeout(3):  # less than the 5 s that answers are waited for
            await service.server.drain()
        names = []
        while (event := await events.next())[0]:
            names.append(event[0])
        assert names[-1] == "end"
    assert not live.is_on
