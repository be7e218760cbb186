"""Starting, draining and closing the server."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web
from support.http_service import Serve, Service, infer_body, until
from support.raw_http import RawClient, request_bytes

from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig, ServerConfig
from batchserve.engine.repository import Repository
from batchserve.errors import ConfigError
from batchserve.frontend.guard import GuardedServer
from batchserve.frontend.listen import listen, url_of
from batchserve.frontend.server import Server
from batchserve.frontend.services import Services

INFER = "/v2/models/echo/infer"


# Listening


async def test_a_taken_port_is_told_in_one_line(serve: Serve) -> None:
    service = await serve(FakeBackend())
    other = server_on("127.0.0.1", service.port)
    with pytest.raises(ConfigError) as caught:
        await other.start()
    text = str(caught.value)
    assert f"server.port = {service.port} on 127.0.0.1 is taken" in text
    assert "choose another port" in text
    assert "\n" not in text
    await other.close()


async def test_a_port_that_is_bound_but_idle_is_taken_as_well() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="is taken"):
            await listen("127.0.0.1", holder.getsockname()[1])


@pytest.mark.parametrize("host", ["no such host.invalid", "256.0.0.1.invalid", "a" * 300])
async def test_an_unknown_host_is_told_in_one_line(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.host = .* is no address that can be found") as caught:
        await listen(host, 0)
    assert "\n" not in str(caught.value)


async def test_an_address_of_another_machine_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"server\.host = '192\.0\.2\.1' is not an address of this machine"):
        await listen("192.0.2.1", 0)


async def test_a_port_that_needs_rights_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(ConfigError, match=r"server\.port = 80 on 127\.0\.0\.1 may not be used by this user"):
        await listen("127.0.0.1", 80)


async def test_a_name_with_several_addresses_gets_one_port_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def two_addresses(*args: object, **keys: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(loop, "getaddrinfo", two_addresses)
    sockets = await listen("both", 0)
    try:
        names = [each.getsockname() for each in sockets]
        assert [host for host, _ in names] == ["127.0.0.1", "127.0.0.2"]
        assert names[0][1] == names[1][1] != 0
    finally:
        for each in sockets:
            each.close()


async def test_an_address_family_the_machine_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def with_a_stranger(*args: object, **keys: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(loop, "getaddrinfo", with_a_stranger)
    (only,) = await listen("both", 0)
    with only:
        assert only.getsockname()[0] == "127.0.0.1"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
async def test_ipv6_is_served_and_written_in_brackets() -> None:
    server = server_on("::1", 0)
    await server.start()
    assert server.url.startswith("http://[::1]:")
    async with await RawClient.connect(int(server.url.rsplit(":", 1)[1]), "::1") as client:
        assert (await client.get("/v2/health/live")).status == 200
    await server.close()


async def test_a_wildcard_is_shown_as_an_address_that_can_be_asked() -> None:
    (listener,) = await listen("0.0.0.0", 0)
    with listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"


def server_on(host: str, port: int) -> Server:
    """A server without models."""
    repository = Repository([], lambda source: None, FakeBackend())  # type: ignore[arg-type,return-value]
    services = Services(
        repository=repository,
        config=ServerConfig(host=host, port=port),
        statistics=lambda model: {},
        render_metrics=lambda accept: (b"", "text/plain"),
        reload_config=lambda name: repository.reconfigure(name, ModelConfig()),
        pool=ThreadPoolExecutor(1),
    )
    return Server(services)


# Draining


async def test_a_drain_answers_all_that_was_admitted_and_refuses_the_rest(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    running, queued, idle, unused = [await service.client() for _ in range(4)]
    first = asyncio.create_task(running.post(INFER, infer_body(1)))
    await held.begun(1)
    second = asyncio.create_task(queued.post(INFER, infer_body(2)))
    await until(lambda: service.model().queued_requests == 1)
    assert not (await idle.get("/v2/health/ready")).closes

    drain = asyncio.create_task(service.server.drain())
    await until(lambda: service.repository.is_draining)
    refused = await idle.post(INFER, infer_body(3))
    assert (refused.status, refused.headers["retry-after"], refused.closes) == (503, "1", True)
    assert "echo" in refused.error
    assert await idle.is_closed_by_server()
    async with await service.client() as late:  # it still listens: balancers must be told
        ready = await late.get("/v2/health/ready")
        assert (ready.status, ready.json["ready"], ready.closes) == (400, False, True)
        assert "shutting down" in ready.json["error"]
    async with await service.client() as late:
        live = await late.get("/v2/health/live")
        assert (live.status, live.json, live.closes) == (200, {"live": True}, True)
    async with await service.client() as late:
        assert (await late.get("/v2/models/echo/ready")).status == 400

    held.let_go()
    for task, value in ((first, 1), (second, 2)):
        reply = await task
        assert (reply.status, reply.closes) == (200, True)
        assert reply.json["outputs"][0]["data"] == [value] * 4
    await drain
    assert await unused.is_closed_by_server()
    assert service.server.open_connections == 0
    with pytest.raises(ConnectionRefusedError):
        await service.client()
    for client in (running, queued, idle, unused):
        await client.close()


async def test_an_answer_on_its_way_when_the_last_batch_ends_arrives_whole(serve: Serve) -> None:
    """Sixty-four clients wait; all of their answers are written in the turns in which the server goes."""
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    clients = [await service.client() for _ in range(64)]
    asked = [asyncio.create_task(c.post(INFER, infer_body(v, v, v))) for v, c in enumerate(clients)]
    await until(lambda: service.model().counters.received == 64)
    drain = asyncio.create_task(service.server.drain())
    await until(lambda: service.repository.is_draining)
    held.let_go()
    replies = await asyncio.gather(*asked)
    assert [reply.json["outputs"][0]["data"][0] for reply in replies] == list(range(64))
    await drain
    for client in clients:
        await client.close()


async def test_a_body_that_is_still_coming_when_the_server_drains_gets_an_answer(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    client, other = await service.client(), await service.client()
    running = asyncio.create_task(other.post(INFER, infer_body(1)))
    await held.begun(1)
    data = request_bytes("POST", INFER, b'{"inputs": []}')
    await client.send(data[:-3])
    await until(lambda: service.server.held_bytes > 14)
    drain = asyncio.create_task(service.server.drain())
    await until(lambda: service.repository.is_draining)
    await client.send(data[-3:])
    reply = await client.read()
    assert (reply.status, reply.closes) == (400, True)
    held.let_go()
    assert (await running).status == 200
    await drain
    await client.close()
    await other.close()


async def test_a_client_that_never_ends_does_not_keep_a_drain_from_ending(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchserve.frontend.server.ANSWER_GRACE_S", 0.05)
    service = await serve(FakeBackend())
    client = await service.client()
    await client.send(request_bytes("POST", INFER, b"x" * 1000)[:-1])
    await until(lambda: service.server.held_bytes == 1000)
    await service.server.drain()
    assert service.server.open_connections == 0
    assert "1 connections did not end within 0.05 s" in caplog.text
    await client.close()


async def test_work_that_exceeds_the_drain_timeout_is_answered_503(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ServerConfig(drain_timeout_s=0.05))
    held = service.hold(backend)
    running, queued = await service.client(), await service.client()
    first = asyncio.create_task(running.post(INFER, infer_body(1)))
    await held.begun(1)
    second = asyncio.create_task(queued.post(INFER, infer_body(2)))
    await until(lambda: service.model().queued_requests == 1)
    drain = asyncio.create_task(service.server.drain())
    refused = await second
    assert (refused.status, refused.closes) == (503, True)
    held.let_go()
    assert (await first).status == 200  # a running batch is awaited
    await drain
    await running.close()
    await queued.close()


class IdleTransport(asyncio.Transport):
    """A socket on which nothing comes."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        assert self.protocol is not None
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close


async def test_a_connection_accepted_in_the_turn_in_which_the_server_goes_is_closed_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until Python 3.12 its task has not had its first turn then, so it does not look idle yet."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("nothing was asked")

    server = GuardedServer(handler, ServerConfig())
    transport = IdleTransport()
    connection = transport.protocol = server()
    async with asyncio.timeout(10):
        connection.connection_made(transport)
        await server.finish(600.0)
    assert not server.open_connections
    assert not caplog.records


async def test_closing_cuts_connections_and_cancels_what_waits(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    model = service.model()
    running, queued = await service.client(), await service.client()
    await running.send(request_bytes("POST", INFER, _json(1)))
    await held.begun(1)
    await queued.send(request_bytes("POST", INFER, _json(2)))
    await until(lambda: model.queued_requests == 1)
    await service.server.close()
    assert service.server.open_connections == 0
    assert (model.queued_requests, model.counters.cancelled) == (0, 2)
    await service.server.close()  # again, to no effect
    held.let_go()
    await running.close()
    await queued.close()


async def test_a_drain_that_is_cancelled_can_be_followed_by_close(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    client = await service.client()
    await client.send(request_bytes("POST", INFER, _json(1)))
    await held.begun(1)
    drain = asyncio.create_task(service.server.drain())
    await until(lambda: service.repository.is_draining)
    drain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drain
    await service.server.close()
    assert service.server.open_connections == 0
    held.let_go()
    await settle(service)
    await client.close()


async def settle(service: Service) -> None:
    """Wait for the repository's own end, which a cancelled drain leaves behind."""
    await service.repository.drain(5.0)


def _json(*values: int) -> bytes:
    return json.dumps(infer_body(*values)).encode()
