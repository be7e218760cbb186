"""`X-Request-Id` and `traceparent`: read from every request, told in answers, lines and events, on both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.http_service import Serve, Service, infer_body, rows, until
from support.raw_http import RawClient, request_bytes
from support.tracer import Recorder

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig
from batchserve.core.trace import Trace
from batchserve.engine.events import BatchEnded, Listener, NullListener
from batchserve.engine.model import Model
from batchserve.frontend.exchange import Exchange

INFER = "/v2/models/echo/infer"
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class Heard(NullListener):
    def __init__(self) -> None:
        self.batches: list[BatchEnded] = []

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        self.batches.append(event)


async def test_answer_tells_what_the_request_is_called(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for headers, expected in (
            ({"X-Request-Id": "order-7"}, "order-7"),
            ({"traceparent": PARENT}, TRACE_ID),
            ({"traceparent": PARENT, "x-request-id": "order-8"}, "order-8"),
            ({"traceparent": "nonsense", "X-Request-Id": "order 9"}, None),
            ({}, None),
        ):
            for path, body in ((INFER, infer_body(1)), ("/v2/health/live", None), ("/v2/models/echo/stats", None)):
                reply = await (client.get(path, headers) if body is None else client.post(path, body, headers))
                assert reply.status == 200
                assert reply.headers.get("x-request-id") == expected, (path, headers)


async def test_every_error_has_an_id_and_its_body_keeps_its_one_member(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        seen = set()
        for path, body in ((INFER, {"inputs": []}), ("/nowhere", {}), ("/v2/models/none/infer", infer_body(1))):
            reply = await client.post(path, body)
            assert reply.status in (400, 404)
            assert reply.error
            seen.add(reply.headers["x-request-id"])
            named = await client.post(path, body, {"X-Request-Id": "order-7"})
            assert named.headers["x-request-id"] == "order-7"
        unknown = await client.get("/v2/models/none/ready", {"X-Request-Id": "order-7"})
        assert (unknown.status, unknown.headers["x-request-id"]) == (404, "order-7")
    assert len(seen) == 3


async def test_a_request_that_is_not_http_has_an_id_too(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        reply = await client.read()
    assert reply.status == 400
    assert reply.error
    assert len(reply.headers["x-request-id"]) == 32


async def test_access_lines_say_which_request_they_are_about(serve: Serve) -> None:
    service = await serve(FakeBackend(), with_access_log=True)
    async with await service.client() as client:
        await client.post(INFER, infer_body(1), {"traceparent": PARENT, "X-Request-Id": "order-7"})
        await client.post(INFER, infer_body(1))
        failed = await client.post(INFER, {"inputs": []})
    named, unnamed, wrong = service.accesses
    assert (named["request_id"], named["trace_id"]) == ("order-7", TRACE_ID)
    assert "request_id" not in unnamed
    assert wrong["request_id"] == failed.headers["x-request-id"]


async def test_failed_run_says_in_the_log_whose_requests_it_ran(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service = await serve(FakeBackend(fails=lambda inputs: True))
    async with await service.client() as client:
        reply = await client.post(INFER, infer_body(1), {"X-Request-Id": "order-7"})
    assert reply.status == 500
    assert reply.headers["x-request-id"] == "order-7"
    (record,) = [record for record in caplog.records if "failed" in record.getMessage()]
    assert record.__dict__["request_ids"] == ["order-7"]


async def test_events_have_the_ids_of_traces_that_are_recorded(serve: Serve) -> None:
    """For exemplars: one id for each completed request, "" where its trace is recorded nowhere."""
    heard = Heard()
    listeners: list[Listener] = [heard]
    backend = FakeBackend()
    service = await serve(backend, listeners=listeners)
    held = service.hold(backend)
    async with (
        await service.client() as zero,
        await service.client() as one,
        await service.client() as two,
        await service.client() as three,
    ):
        await _send(zero, 0, {})
        await held.begun(1)
        await _send(one, 1, {"traceparent": PARENT})
        await _send(two, 2, {"traceparent": f"00-{'2' * 32}-{SPAN_ID}-00"})
        await _send(three, 3, {})
        await until(lambda: service.model().queued_requests == 3)
        held.let_go()
        for client in (zero, one, two, three):
            assert (await client.read("POST")).status == 200
    await until(lambda: len(heard.batches) == 2)
    assert [list(event.trace_ids) for event in heard.batches] == [[], [TRACE_ID, "", ""]]
    assert all(event.traced == () or list(event.traced) == [] for event in heard.batches)


async def _send(client: RawClient, value: int, headers: dict[str, str]) -> None:
    await client.send(request_bytes("POST", INFER, json.dumps(infer_body(value)).encode(), headers))


async def test_tracer_hears_of_each_request_once_with_its_status(serve: Serve) -> None:
    tracer, heard = Recorder(), Heard()
    service = await serve(FakeBackend(), tracer=tracer, listeners=[heard])
    async with await service.client() as client:
        assert (await client.post(INFER, infer_body(1))).headers["x-request-id"] == "new"
        await client.post(INFER, {"inputs": []}, {"X-Request-Id": "wrong"})
        await client.get("/v2/health/live")
    assert tracer.ended == [("new", "echo", "1", 200), ("wrong", "echo", "1", 400)]
    (event,) = heard.batches
    (traced,) = event.traced
    assert (traced.trace.span_id, traced.rows) == ("1" * 16, 1)


async def test_tracer_hears_of_a_client_that_left(serve: Serve) -> None:
    tracer, backend = Recorder(), FakeBackend()
    service = await serve(backend, tracer=tracer)
    held = service.hold(backend)
    client = await service.client()
    await _send(client, 1, {"X-Request-Id": "gone"})
    await held.begun(1)
    client.abort()
    await until(lambda: bool(tracer.ended))
    held.let_go()
    assert tracer.ended == [("gone", "echo", "1", 499)]


async def test_heads_with_ids_stay_on_the_hot_path_and_are_remembered_once(serve: Serve, way: str) -> None:
    if way != "hot":
        pytest.skip("the other way remembers no heads")
    service: Service = await serve(FakeBackend())
    hot = service.server._hot
    assert hot is not None
    body = infer_body(1)
    async with await service.client() as client:
        for number in range(50):
            headers = {"traceparent": f"00-{number + 1:032x}-{SPAN_ID}-01", "X-Request-Id": f"r{number}"}
            assert (await client.post(INFER, body, headers)).headers["x-request-id"] == f"r{number}"
        (connection,) = hot._connections
        assert connection._cold is None, "a request went to aiohttp"
    assert len(hot.heads._heads) == 1


def binary(value: int, headers: dict[str, str]) -> bytes:
    """A request that is like the one before it: the same head but for its names, the same JSON, another tensor."""
    tail = rows(value).tobytes()
    tensor = {"name": "x", "datatype": "INT64", "shape": [1, 4], "parameters": {"binary_data_size": len(tail)}}
    document = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(document))}
    return request_bytes("POST", INFER, document + tail, {**headers, **length})


async def test_what_a_client_repeats_is_known_again_whatever_it_is_called(
    serve: Serve, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "hot":
        pytest.skip("the other way remembers nothing of a connection")
    repeated: list[str] = []
    repeat = Exchange.repeat

    def note(self: Exchange, plan: Any, data: bytes, trace: Trace | None) -> None:
        repeated.append("" if trace is None else trace.request_id)
        repeat(self, plan, data, trace)

    monkeypatch.setattr(Exchange, "repeat", note)
    heard = Heard()
    service = await serve(FakeBackend(), listeners=[heard])
    async with await service.client() as client:
        for number in range(1, 40):
            parent = f"00-{number:032x}-{SPAN_ID}-01"
            headers = {"traceparent": parent, "tracestate": "a=" + "b" * number, "X-Request-Id": f"r{number * 37}"}
            await client.send(binary(number, headers))
            reply = await client.read("POST")
            assert reply.headers["x-request-id"] == f"r{number * 37}"
            length = int(reply.headers["inference-header-content-length"])
            assert reply.body[length:] == rows(number).tobytes()
    assert repeated == [f"r{number * 37}" for number in range(2, 40)]  # the first shows what is repeated
    assert [event.trace_ids for event in heard.batches] == [[f"{number:032x}"] for number in range(1, 40)]


async def test_names_that_come_go_or_are_malformed_are_followed(serve: Serve) -> None:
    """On one connection, with all else the same each time."""
    service = await serve(FakeBackend())
    good, late = f"00-{'1' * 32}-{SPAN_ID}-01", f"00-{'2' * 32}-{SPAN_ID}-00"
    turns: list[tuple[dict[str, str], str | None]] = [
        ({}, None),
        ({}, None),
        ({"traceparent": good}, "1" * 32),
        ({"traceparent": good}, "1" * 32),
        ({"traceparent": late}, "2" * 32),
        ({"traceparent": "00-zz"}, None),
        ({"Traceparent": good}, "1" * 32),
        ({"traceparent": good, "X-Request-Id": "a"}, "a"),
        ({"traceparent": good, "X-Request-Id": "b c"}, "1" * 32),
        ({"X-Request-Id": "d", "traceparent": good}, "d"),
        ({"X-Request-Id": "e"}, "e"),
        ({}, None),
    ]
    async with await service.client() as client:
        for number, (headers, expected) in enumerate(turns * 3):
            await client.send(binary(number, headers))
            reply = await client.read("POST")
            assert (reply.status, reply.headers.get("x-request-id")) == (200, expected), (number, headers)
            assert reply.body.endswith(rows(number).tobytes())


async def test_lines_that_are_cut_count_for_the_size_of_the_head(serve: Serve) -> None:
    config = ServerConfig(max_header_size_bytes=600)
    service = await serve(FakeBackend(), config=config)
    async with await service.client() as client:
        for _ in range(4):
            await client.send(binary(1, {"baggage": "a"}))
            assert (await client.read("POST")).status == 200
        await client.send(binary(1, {"baggage": "a" * 600}))
        assert (await client.read("POST")).status == 431


async def test_client_header_may_be_one_of_those_that_are_cut(serve: Serve) -> None:
    """Fair shares are by who asks, also if that is told by the very header that differs each time."""
    backend = FakeBackend()
    service = await serve(backend, config=ServerConfig(client_header="X-Request-Id"))
    seen: list[str] = []
    submit = service.model().submit
    service.model().submit = lambda request, *more: (seen.append(request.client), submit(request, *more))[1]  # type: ignore[method-assign]
    if service.server._hot is None:
        pytest.skip("the other way reads each head anew")
    async with await service.client() as client:
        for name in ("one", "two", "one", "three"):
            await client.send(binary(1, {"X-Request-Id": name}))
            assert (await client.read("POST")).headers["x-request-id"] == name
    assert seen == ["one", "two", "one", "three"]


async def test_client_of_a_repeated_request_is_known(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(client_header="X-Client"))
    if service.server._hot is None:
        pytest.skip("the other way repeats nothing")
    seen: list[str] = []
    submit = service.model().submit
    service.model().submit = lambda request, *more: (seen.append(request.client), submit(request, *more))[1]  # type: ignore[method-assign]
    async with await service.client() as client:
        for _ in range(5):
            await client.send(binary(1, {"X-Client": "me"}))
            assert (await client.read("POST")).status == 200
    assert seen == ["me"] * 5
