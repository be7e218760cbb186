"""Bodies at the limits of size, memory and time, and the connection after each (protocol.md sections 1, 7, 8, 19)."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib

import pytest
from support.http_service import Serve, infer_body, until
from support.raw_http import RawClient, chunked, request_bytes

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig

INFER = "/v2/models/echo/infer"
BODY = json.dumps(infer_body(5)).encode()
DATA = [5] * 4


def head(*lines: str, path: str = INFER, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: t", *lines]).encode() + b"\r\n\r\n"


def refused(service: object, reason: str) -> int:
    return int(service.model().counters.refused[reason])  # type: ignore[attr-defined]


# Expect: 100-continue


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
async def test_a_client_that_waits_is_told_to_go_on(serve: Serve, expect: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for _ in range(2):
            await client.send(head(f"Content-Length: {len(BODY)}", f"Expect: {expect}"))
            assert (await client.read()).status == 100
            await client.send(BODY)
            assert (await client.read()).json["outputs"][0]["data"] == DATA


async def test_a_client_that_did_not_wait_is_not_told_anything(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(head(f"Content-Length: {len(BODY)}", "Expect: 100-continue") + BODY)
        assert (await client.read()).status == 200


async def test_a_client_that_waits_with_a_chunked_body_is_told_to_go_on(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(head("Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert (await client.read()).status == 100
        await client.send(chunked(BODY))
        assert (await client.read()).status == 200


@pytest.mark.parametrize(
    ("lines", "path", "status"),
    [
        ((f"Content-Length: {len(BODY)}",), "/v2/models/none/infer", 404),
        ((f"Content-Length: {len(BODY)}",), "/v2/none", 404),
        ((f"Content-Length: {len(BODY)}",), "/v2", 405),
        ((f"Content-Length: {len(BODY)}", "Content-Encoding: br"), INFER, 415),
        (("Content-Length: 100000",), INFER, 413),
        (("Transfer-Encoding: chunked", "Content-Encoding: br"), INFER, 415),
    ],
)
async def test_what_the_head_alone_decides_is_answered_instead_of_going_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], path: str, status: int
) -> None:
    """Whether the body comes after that is the client's choice, so the connection ends, without waiting for it."""
    monkeypatch.setattr("batchserve.frontend.guard.LINGER_S", 600.0)
    service = await serve(FakeBackend(), config=ServerConfig(max_body_size_bytes=50_000))
    async with await service.client() as client:
        await client.send(head(*lines, "Expect: 100-continue", path=path))
        reply = await client.read()
        assert reply.status == status
        assert reply.error
        assert reply.closes
        assert await client.is_closed_by_server()


async def test_other_expectations_and_older_clients_are_simply_answered(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(head(f"Content-Length: {len(BODY)}", "Expect: the-unexpected") + BODY)
        assert (await client.read()).status == 200
    async with await service.client() as client:
        data = head(f"Content-Length: {len(BODY)}", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
        await client.send(data + BODY)
        assert (await client.read()).status == 200


# Size


async def test_a_declared_size_over_the_limit_is_refused_on_the_head_alone(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_body_size_bytes=1000))
    async with await service.client() as client:
        await client.send(head("Content-Length: 1001"))  # and not one byte of it
        reply = await client.read()
        assert reply.status == 413
        assert "1001" in reply.error
        assert "max_body_size = 1000" in reply.error
        assert reply.closes
    assert service.model().counters.invalid == 1


@pytest.mark.parametrize("size", [2**31, 2**63, 10**18])
async def test_absurd_sizes_are_413_too(serve: Serve, size: int) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(head(f"Content-Length: {size}"))
        assert (await client.read()).status == 413


async def test_a_chunked_body_is_stopped_at_the_limit(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_body_size_bytes=1000))
    async with await service.client() as client:
        await client.send(head("Transfer-Encoding: chunked") + b"3e8\r\n" + b" " * 1000 + b"\r\n")
        await client.send(b"1\r\n \r\n")
        reply = await client.read()
        assert (reply.status, reply.closes) == (413, True)
    async with await service.client() as client:
        await client.send(head("Transfer-Encoding: chunked") + chunked(BODY, b" " * (1000 - len(BODY))))
        assert (await client.read()).status == 200  # the limit itself is allowed


async def test_a_chunked_body_that_came_whole_is_checked_as_well(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_body_size_bytes=1000))
    async with await service.client() as client:
        await client.send(head("Transfer-Encoding: chunked") + chunked(b" " * 1001))
        assert (await client.read()).status == 413


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_bomb_costs_neither_memory_nor_more_than_a_413(serve: Serve, coding: str) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_body_size_bytes=1 << 20))
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[coding](bytes(50 << 20))
    async with await service.client() as client:
        reply = await client.post(INFER, bomb, {"Content-Encoding": coding})
        assert (reply.status, reply.closes) == (413, True)
        assert "inflates" in reply.error
    assert service.server.held_bytes == 0


async def test_a_413_reaches_a_client_that_sends_its_whole_body_first(serve: Serve) -> None:
    """The rest of the body is read away for a while, or the answer would be lost in a connection reset."""
    service = await serve(FakeBackend(), config=ServerConfig(max_body_size_bytes=1000))
    async with await service.client() as client:
        await client.send(request_bytes("POST", INFER, bytes(5 << 20)))
        assert (await client.read()).status == 413
        assert await client.is_closed_by_server()


async def test_a_body_of_many_tiny_chunks_is_read(serve: Serve) -> None:
    service = await serve(FakeBackend())
    padded = BODY + b" " * 20_000
    async with await service.client() as client:
        await client.send(head("Transfer-Encoding: chunked"))
        await client.send(chunked(*(padded[i : i + 1] for i in range(len(padded)))))
        assert (await client.read()).json["outputs"][0]["data"] == DATA


# Bodies nobody reads


@pytest.mark.parametrize("path", ["/v2/models/none/infer", "/nowhere", "/v2"])
async def test_a_short_unread_body_is_never_taken_for_the_next_request(serve: Serve, path: str) -> None:
    service = await serve(FakeBackend())
    smuggled = b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n"
    async with await service.client() as client:
        await client.send(head(f"Content-Length: {len(smuggled)}", path=path))
        reply = await client.read()
        assert reply.status in (404, 405)
        assert not reply.closes
        await client.send(smuggled)
        assert (await client.get("/v2/models/echo/ready")).json == {"name": "echo", "ready": True}


async def test_a_long_unread_body_ends_the_connection(serve: Serve) -> None:
    service = await serve(FakeBackend())
    for line in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
        async with await service.client() as client:
            await client.send(head(line, path="/nowhere"))
            reply = await client.read()
            assert (reply.status, reply.closes) == (404, True)


async def test_a_get_with_a_body_is_answered_and_its_body_read_away(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        assert (await client.ask("GET", "/v2/health/live", b"x" * 10)).status == 200
        assert (await client.ask("GET", "/v2/health/live")).status == 200


# Memory


async def test_bodies_together_stay_within_the_memory_limit(serve: Serve) -> None:
    backend = FakeBackend()
    size = len(BODY)
    service = await serve(backend, config=ServerConfig(max_inflight_bytes=2 * size + 1))
    held = service.hold(backend)
    clients = [await service.client() for _ in range(4)]
    first = asyncio.create_task(clients[0].post(INFER, BODY))
    await held.begun(1)
    await clients[1].send(head(f"Content-Length: {size}"))  # declared, so its memory is taken, although nothing came
    await until(lambda: service.server.held_bytes == 2 * size)

    await clients[2].send(head(f"Content-Length: {size}"))
    reply = await clients[2].read()  # before any of it is read
    assert (reply.status, reply.headers["retry-after"], reply.closes) == (429, "1", True)
    assert f"max_inflight_bytes = {2 * size + 1}" in reply.error
    assert str(2 * size) in reply.error
    assert refused(service, "memory") == 1

    await clients[3].send(head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n")
    reply = await clients[3].read()
    assert (reply.status, reply.closes) == (429, True)
    assert refused(service, "memory") == 2

    held.let_go()
    assert (await first).status == 200
    await clients[1].send(BODY)
    assert (await clients[1].read()).status == 200
    assert service.server.held_bytes == 0
    assert (await clients[0].post(INFER, BODY)).status == 200
    counters = service.model().counters
    assert (counters.received, counters.completed) == (5, 3)
    for client in clients:
        await client.close()


async def test_what_a_body_inflates_to_is_counted(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_inflight_bytes=10_000))
    async with await service.client() as client:
        reply = await client.post(INFER, gzip.compress(BODY + b" " * 10_000), {"Content-Encoding": "gzip"})
        assert reply.status == 429
        assert service.server.held_bytes == 0
    assert refused(service, "memory") == 1


# Time


async def test_a_body_that_does_not_come_is_408(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(body_timeout_s=0.05))
    for lines, sent, words in (
        ((f"Content-Length: {len(BODY)}",), BODY[:7], f"7 of {len(BODY)} bytes"),
        (("Transfer-Encoding: chunked",), b"2\r\n{}\r\n", "2 bytes"),
    ):
        async with await service.client() as client:
            await client.send(head(*lines) + sent)
            reply = await client.read()
            assert (reply.status, reply.closes) == (408, True)
            assert words in reply.error
            assert "0.05 s" in reply.error
    assert service.model().counters.invalid == 2
    assert service.server.held_bytes == 0


# Framing


@pytest.mark.parametrize(
    "garbage", [b"zz\r\n", b"5\r\nhello!\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5;x=\x00\r\n"]
)
async def test_a_malformed_chunk_ends_the_request_at_once(serve: Serve, garbage: bytes) -> None:
    """aiohttp 3.14 leaves the reader of such a body waiting for ever; here it would take until the body's timeout."""
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n")
        await until(lambda: service.server.held_bytes == 2)
        await client.send(garbage)
        reply = await client.read()
        assert (reply.status, reply.closes) == (400, True)
        assert "chunks" in reply.error
        assert await client.is_closed_by_server()
    assert service.model().counters.invalid == 1


async def test_a_length_and_chunks_together_are_refused(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n")
        reply = await client.read()
        assert (reply.status, reply.closes) == (400, True)
        assert reply.error
        assert await client.is_closed_by_server()


@pytest.mark.parametrize("length", ["5x", "-5", "+5", "0x5", "5, 5", "1e3", " "])
async def test_a_length_that_is_no_number_is_refused(serve: Serve, length: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(head(f"Content-Length: {length}") + b"12345")
        reply = await client.read()
        assert (reply.status, reply.closes) == (400, True)
        assert reply.error


async def test_many_pipelined_requests_are_all_answered_in_order(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        bodies = [json.dumps(infer_body(value)).encode() for value in range(100)]
        sending = asyncio.create_task(client.send(b"".join(request_bytes("POST", INFER, body) for body in bodies)))
        for value in range(100):
            assert (await client.read()).json["outputs"][0]["data"] == [value] * 4
        await sending


async def test_a_bad_request_in_a_pipeline_does_not_disturb_the_others(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(
            request_bytes("POST", INFER, BODY) + request_bytes("POST", INFER, b"{") + request_bytes("POST", INFER, BODY)
        )
        assert [(await client.read()).status for _ in range(3)] == [200, 400, 200]


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(serve: Serve) -> None:
    service = await serve(FakeBackend())
    for line, sent in ((f"Content-Length: {len(BODY)}", BODY[:9]), ("Transfer-Encoding: chunked", b"2\r\n{}\r\n")):
        client: RawClient = await service.client()
        await client.send(head(line) + sent)
        await until(lambda: service.server.held_bytes > 0)
        client.abort()
        await until(lambda: service.server.open_connections == 0)
        assert service.server.held_bytes == 0
    counters = service.model().counters
    assert (counters.received, counters.ended) == (0, 0)
