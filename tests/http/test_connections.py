"""Connections: heads that are slow, large or malformed, idle and stalled clients, and how many there may be."""

from __future__ import annotations

import asyncio
import json
import socket

import numpy as np
import pytest
from support.http_service import Serve, infer_body, until
from support.raw_http import RawClient, request_bytes

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig
from batchserve.core.tensors import DATATYPES, TensorSpec

LIVE = request_bytes("GET", "/v2/health/live")
INFER = "/v2/models/echo/infer"
SHORT_S = 0.05
NEVER_S = 600.0


async def test_a_connection_that_says_nothing_is_closed_without_an_answer(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(header_timeout_s=SHORT_S))
    async with await service.client() as client:
        assert await client.is_closed_by_server()


async def test_empty_lines_between_requests_are_not_a_head(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(header_timeout_s=SHORT_S, idle_timeout_s=NEVER_S))
    async with await service.client() as client, await service.client() as clock:
        await client.send(LIVE + b"\r\n")
        assert (await client.read()).status == 200
        await client.send(b"\r\n")
        assert await clock.is_closed_by_server()
        await client.send(b"\r\n" + LIVE)
        assert (await client.read()).status == 200


@pytest.mark.parametrize("start", [LIVE[:1], LIVE[:30], b"\r\n" + LIVE[:3]])
async def test_a_first_head_that_does_not_end_is_408(serve: Serve, start: bytes) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(header_timeout_s=SHORT_S))
    async with await service.client() as client:
        await client.send(start)
        reply = await client.read()
        assert (reply.status, reply.closes) == (408, True)
        assert "0.05 s" in reply.error
        assert "header_timeout" in reply.error
        assert await client.is_closed_by_server()


async def test_a_later_head_that_does_not_end_is_408_too(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(header_timeout_s=SHORT_S, idle_timeout_s=NEVER_S))
    async with await service.client() as client:
        for _ in range(3):
            assert (await client.get("/v2/health/live")).status == 200
        await client.send(LIVE[:20])
        assert (await client.read()).status == 408


async def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(header_timeout_s=SHORT_S, idle_timeout_s=NEVER_S))
    async with await service.client() as idle, await service.client() as other:
        assert (await idle.get("/v2/health/live")).status == 200
        assert await other.is_closed_by_server()  # its first head had the same time
        assert (await idle.get("/v2/health/live")).status == 200


async def test_an_idle_connection_is_closed_after_the_idle_timeout(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(idle_timeout_s=SHORT_S))
    async with await service.client() as client:
        assert (await client.get("/v2/health/live")).status == 200
        assert await client.is_closed_by_server()


@pytest.mark.parametrize("way", ["aiohttp"], indirect=True)  # looks inside aiohttp's connection
async def test_the_idle_timeout_does_not_cut_a_head_short(serve: Serve) -> None:
    """The idle timer fires in the middle of the head, which has a time of its own."""
    service = await serve(FakeBackend(), config=ServerConfig(idle_timeout_s=SHORT_S, header_timeout_s=NEVER_S))
    async with await service.client() as client, await service.client() as clock:
        assert (await clock.get("/v2/health/live")).status == 200
        assert (await client.get("/v2/health/live")).status == 200
        await client.send(LIVE[:20])
        assert await clock.is_closed_by_server()  # so the idle timeout of both has passed, or is about to
        (connection,) = service.server._http.open_connections  # type: ignore[union-attr]
        await until(lambda: connection._keepalive_handle is None)
        await client.send(LIVE[20:])
        assert (await client.read()).status == 200


async def test_a_running_request_is_not_idle(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ServerConfig(idle_timeout_s=SHORT_S, header_timeout_s=SHORT_S))
    held = service.hold(backend)
    async with await service.client() as client, await service.client() as clock:
        asked = asyncio.create_task(client.post(INFER, infer_body(1)))
        await held.begun(1)
        assert (await clock.get("/v2/health/live")).status == 200
        assert await clock.is_closed_by_server()
        held.let_go()
        assert (await asked).status == 200


@pytest.mark.parametrize("way", ["aiohttp"], indirect=True)  # looks inside aiohttp's connection
async def test_the_answer_to_a_slow_head_comes_after_the_answers_before_it(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ServerConfig(header_timeout_s=SHORT_S))
    held = service.hold(backend)
    async with await service.client() as client, await service.client() as clock:
        await client.send(request_bytes("POST", INFER, b'{"inputs":[{"name":"x","datatype":"INT64","shape":[1,4],'))
        assert (await client.read()).status == 400
        await client.send(request_bytes("POST", INFER, _json(1)))
        await held.begun(1)
        await client.send(b"GET /v2/hea")
        assert await clock.is_closed_by_server()
        (busy,) = service.server._http.open_connections  # type: ignore[union-attr]
        await until(lambda: busy._is_deaf)
        await client.send(b"lth/live HTTP/1.1\r\nHost: t\r\n\r\n")  # too late
        held.let_go()
        assert [(await client.read()).status for _ in range(2)] == [200, 408]
        assert await client.is_closed_by_server()


def _json(*values: int) -> bytes:
    return json.dumps(infer_body(*values)).encode()


# Size of the head


@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_head_over_the_limit_is_431(serve: Serve, pieces: int) -> None:
    """Each line is below the limit, their sum above it; at once, and in pieces that never end the head."""
    service = await serve(FakeBackend(), config=ServerConfig(max_header_size_bytes=4096))
    lines = [f"X-Filler-{i}: {'x' * 100}" for i in range(50)]
    data = "\r\n".join(["GET /v2/health/live HTTP/1.1", "Host: t", *lines]).encode()
    async with await service.client() as client:
        if pieces == 1:
            await client.send(data + b"\r\n\r\n")
        else:
            for i in range(0, len(data), len(data) // pieces):
                await client.send(data[i : i + len(data) // pieces])
        reply = await client.read()
        assert (reply.status, reply.closes) == (431, True)
        assert "4096 bytes" in reply.error
        assert "max_header_size" in reply.error
        assert await client.is_closed_by_server()


async def test_a_head_at_the_limit_is_served_whatever_comes_with_it(serve: Serve) -> None:
    """The limit is the head's: a body or a next request in the same packet does not count."""
    limit = 1000
    service = await serve(FakeBackend(), config=ServerConfig(max_header_size_bytes=limit))
    plain = b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\nX-Filler: \r\n\r\n"
    fits = plain.replace(b"X-Filler: ", b"X-Filler: " + b"x" * (limit - len(plain)))
    assert len(fits) == limit
    async with await service.client() as client:
        await client.send(fits * 3)
        assert [(await client.read()).status for _ in range(3)] == [200] * 3
        body = _json(*range(16))
        await client.send(request_bytes("POST", INFER, body + b" " * limit))
        assert (await client.read()).status == 200
        await client.send(fits.replace(b"x", b"xx", 1))
        assert (await client.read()).status == 431


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", 431, "max_header_size"),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431, "max_header_size"),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431, "128 headers"),
        (b"\0\1\2\3\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400, "HTTPS"),
        (b"hello\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost : t\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nHost: t\r\nno colon\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nHost: t\r\n folded: 1\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: t\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"GET v2 HTTP/1.1\r\nHost: t\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"BREW /v2 HTTP/1.1\r\nHost: t\r\n\r\n", 400, "method"),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked, x\r\n\r\n", 400, "expected an HTTP/1.1"),
    ],
)
async def test_what_is_not_http_is_answered_in_json_and_closed(
    serve: Serve, data: bytes, status: int, words: str
) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(data)
        reply = await client.read()
        assert (reply.status, reply.closes) == (status, True)
        assert words in reply.error
        assert "\n" not in reply.error
        assert await client.is_closed_by_server()


async def test_garbage_after_a_request_does_not_take_its_answer(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(request_bytes("POST", INFER, _json(1)))
        await client.send(b"\0garbage\r\n\r\n")
        first = await client.read()
        assert first.status in (200, 400)  # 400 if both came in one packet: the parser gives up on all of it
        if first.status == 200:
            assert (await client.read()).status == 400
        assert await client.is_closed_by_server()


async def test_connection_close_and_http_1_0_are_honoured(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.get("/v2/health/live", {"Connection": "close"})
        assert reply.closes
        assert await client.is_closed_by_server()
    async with await service.client() as client:
        await client.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert (await client.read()).json == {"live": True}
        assert await client.is_closed_by_server()
    async with await service.client() as client:
        for _ in range(2):
            await client.send(b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.read()).headers["connection"] == "keep-alive"


# How many


async def test_a_connection_beyond_the_limit_is_told_503_and_one_that_leaves_makes_room(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_connections=2))
    first, second, surplus = [await service.client() for _ in range(3)]
    for client in (first, second):
        assert (await client.get("/v2/health/live")).status == 200
    reply = await surplus.post(INFER, infer_body(1))
    assert (reply.status, reply.headers["retry-after"], reply.closes) == (503, "1", True)
    assert "max_connections = 2" in reply.error
    assert await surplus.is_closed_by_server()
    await first.close()
    await until(lambda: service.server.open_connections == 1)
    async with await service.client() as fourth:
        assert (await fourth.post(INFER, infer_body(1))).status == 200
    await surplus.close()
    await second.close()


async def test_far_too_many_connections_are_closed_at_once(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_connections=1))
    clients = [await service.client() for _ in range(3)]
    assert await clients[2].is_closed_by_server()
    for client in clients:
        await client.close()


# Clients that do not read


@pytest.mark.parametrize("before", [None, "/metrics"], ids=["at once", "after a request that aiohttp answered"])
async def test_a_client_that_does_not_read_its_answer_is_cut(serve: Serve, before: str | None) -> None:
    specs = (TensorSpec("x", DATATYPES["FP32"], (-1, -1)),), (TensorSpec("y", DATATYPES["FP32"], (-1, -1)),)
    output = np.zeros((1, 8_000_000), np.float32)
    backend = FakeBackend(inputs=specs[0], outputs=specs[1], function=lambda inputs, mask: [output])
    service = await serve(backend, config=ServerConfig(body_timeout_s=SHORT_S))
    client = await deaf_client(service.port)
    if before is not None:
        assert (await client.get(before)).status == 200
    await client.send(
        request_bytes(
            "POST",
            INFER,
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[0]}],'
            b'"parameters":{"binary_data_output":true}}',
        )
    )
    await until(lambda: service.model().counters.completed == 1)
    await until(lambda: service.server.open_connections == 0)
    client.abort()


async def test_a_client_that_reads_slowly_gets_all_of_its_answer(serve: Serve) -> None:
    """Each look at the connection finds that it has moved on since the last one."""
    specs = (TensorSpec("x", DATATYPES["FP32"], (-1, -1)),), (TensorSpec("y", DATATYPES["FP32"], (-1, -1)),)
    output = np.arange(4_000_000, dtype=np.float32).reshape(1, -1)
    backend = FakeBackend(inputs=specs[0], outputs=specs[1], function=lambda inputs, mask: [output])
    service = await serve(backend, config=ServerConfig(body_timeout_s=0.2))
    client = await deaf_client(service.port)
    await client.send(
        request_bytes(
            "POST",
            INFER,
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[0]}],'
            b'"parameters":{"binary_data_output":true}}',
        )
    )
    reply = await client.read()
    length = int(reply.headers["inference-header-content-length"])
    np.testing.assert_array_equal(np.frombuffer(reply.body[length:], np.float32), output[0])
    await client.close()


async def deaf_client(port: int) -> RawClient:
    """A client whose kernel takes little that it does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return RawClient(*await asyncio.open_connection(sock=sock, limit=1024))
