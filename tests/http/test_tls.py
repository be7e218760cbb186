"""HTTPS with the same connections: answers large and small, clients' certificates, and what cannot be used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from support.http_service import Serve, Service, infer_body, start_service
from support.raw_http import TIMEOUT_S, RawClient, request_bytes

from batchserve.backends.fake import FakeBackend
from batchserve.cli.assemble import new_event_loop
from batchserve.config import ServerConfig
from batchserve.core.tensors import DATATYPES, TensorSpec
from batchserve.errors import ConfigError
from batchserve.frontend.tls import tls_context

INFER = "/v2/models/echo/infer"


class Files:
    """A certificate authority, and what it has signed, as files.

    Attributes:
        keys: What the `[server]` table says to use them.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.folder = folder
        certificate = self.authority.issue_cert("localhost", "127.0.0.1")
        self.keys = {"tls_cert": str(folder / "cert.pem"), "tls_key": str(folder / "key.pem")}
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        (folder / "cert.pem").write_bytes(chain)
        (folder / "key.pem").write_bytes(certificate.private_key_pem.bytes())
        (folder / "both.pem").write_bytes(certificate.private_key_pem.bytes() + chain)
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))

    def client(self) -> ssl.SSLContext:
        """What a client needs to believe the server."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def connect(service: Service, context: ssl.SSLContext) -> RawClient:
    return RawClient(*await asyncio.open_connection("localhost", service.port, ssl=context))


async def test_inference_probes_and_large_bodies_over_one_connection(serve: Serve, files: Files) -> None:
    spec = TensorSpec("x", DATATYPES["INT64"], (-1, -1))
    backend = FakeBackend(inputs=(spec,), outputs=(TensorSpec("y", spec.datatype, spec.shape),))
    service = await serve(backend, config=ServerConfig(**files.keys))
    assert service.server.url == f"https://127.0.0.1:{service.port}"
    async with await connect(service, files.client()) as client:
        for value in range(3):
            assert (await client.get("/v2/health/live")).json == {"live": True}
            (output,) = (await client.post(INFER, infer_body(value))).json["outputs"]
            assert output["data"] == [value] * 4
        large = infer_body(7, columns=100_000)
        large["parameters"] = {"binary_data_output": True}
        reply = await client.post(INFER, large)
        data = reply.body[int(reply.headers["inference-header-content-length"]) :]
        assert (np.frombuffer(data, np.int64) == np.full(100_000, 7)).all()
        assert (await client.post(INFER, b"{")).status == 400
        reply = await client.ask("GET", "/v2/health/live", None, {"Connection": "close"})
        assert reply.closes
        assert await client.is_closed_by_server()


async def test_a_client_that_speaks_http_to_https_is_cut_and_others_are_served(serve: Serve, files: Files) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(**files.keys))
    async with await service.client() as plain, await connect(service, files.client()) as client:
        await plain.send(request_bytes("GET", "/v2/health/live"))
        assert await plain.is_closed_by_server()
        assert (await client.get("/v2/health/live")).status == 200


async def test_a_client_that_does_not_shake_hands_is_closed(
    serve: Serve, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchserve.frontend.server.HANDSHAKE_TIMEOUT_S", 0.05)
    service = await serve(FakeBackend(), config=ServerConfig(**files.keys))
    async with await service.client() as silent:
        assert await silent.is_closed_by_server()
    assert service.server.open_connections == 0


async def test_only_clients_with_a_certificate_of_the_authority_are_served(serve: Serve, files: Files) -> None:
    keys = {**files.keys, "tls_client_ca": str(files.folder / "ca.pem")}
    service = await serve(FakeBackend(), config=ServerConfig(**keys))
    known = files.client()
    files.authority.issue_cert("client@example.org").configure_cert(known)
    async with await connect(service, known) as client:
        assert (await client.get("/v2/health/live")).status == 200

    stranger = files.client()
    trustme.CA().issue_cert("client@example.org").configure_cert(stranger)
    for context in (stranger, files.client()):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            # In TLS 1.3 the client believes that it is connected until it reads.
            async with await connect(service, context) as client:
                await client.get("/v2/health/live")


async def test_a_drain_answers_what_was_admitted_over_tls(serve: Serve, files: Files) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ServerConfig(**files.keys))
    held = service.hold(backend)
    async with await connect(service, files.client()) as client:
        asked = asyncio.create_task(client.post(INFER, infer_body(5)))
        await held.begun(1)
        drain = asyncio.create_task(service.server.drain())
        held.let_go()
        reply = await asked
        assert (reply.status, reply.closes) == (200, True)
        assert await client.is_closed_by_server()
        await drain


@pytest.mark.parametrize("way", ["hot"], indirect=True)
def test_the_fastest_event_loop_speaks_it_as_well(files: Files) -> None:
    async def test() -> None:
        service = await start_service(FakeBackend(), config=ServerConfig(**files.keys))
        async with await connect(service, files.client()) as client:
            for value in range(3):
                (output,) = (await client.post(INFER, infer_body(value, columns=4))).json["outputs"]
                assert output["data"] == [value] * 4
        async with await connect(service, files.client()) as leaving:
            await leaving.send(request_bytes("POST", INFER, None, {"Content-Length": "100000"}) + b"{")
            leaving.abort()
        await service.server.drain()
        await service.stop()
        assert service.server.held_bytes == 0

    run(test())


def run(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(asyncio.wait_for(test, TIMEOUT_S))


def test_key_and_certificate_may_lie_in_one_file(files: Files) -> None:
    context = tls_context(ServerConfig(tls_cert=str(files.folder / "both.pem")))
    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert tls_context(ServerConfig()) is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tls_key": "key.pem"}, r"server\.tls_key is set, but server\.tls_cert is not; expected both or neither"),
        ({"tls_client_ca": "ca.pem"}, r"server\.tls_client_ca is set, but server\.tls_cert is not"),
        ({"tls_cert": "none.pem"}, r"server\.tls_cert = '.*none\.pem' cannot be read \(No such file or directory\)"),
        ({"tls_cert": "cert.pem", "tls_key": "none.pem"}, r"server\.tls_key = '.*none\.pem' cannot be read"),
        ({"tls_cert": "cert.pem"}, r"server\.tls_cert = '.*cert\.pem' cannot be used .*; expected a certificate chain"),
        ({"tls_cert": "cert.pem", "tls_key": "other.pem"}, r"cannot be used \(KEY_VALUES_MISMATCH\)"),
        ({"tls_cert": "cert.pem", "tls_key": "text.pem"}, r"cannot be used .*; expected a certificate chain"),
        ({"tls_cert": "cert.pem", "tls_key": "locked.pem"}, r"cannot be used .*without a password"),
        (
            {"tls_cert": "both.pem", "tls_client_ca": "text.pem"},
            r"server\.tls_client_ca = '.*text\.pem' cannot be used",
        ),
    ],
)
def test_files_that_cannot_be_used_are_told_in_one_line(files: Files, keys: dict[str, str], message: str) -> None:
    folder = files.folder
    (folder / "text.pem").write_text("not a key")
    other = trustme.CA().issue_cert("localhost")
    (folder / "other.pem").write_bytes(other.private_key_pem.bytes())
    (folder / "locked.pem").write_bytes(locked_key())
    with pytest.raises(ConfigError, match=message) as error:
        tls_context(ServerConfig(**{key: str(folder / name) for key, name in keys.items()}))
    assert "\n" not in str(error.value)


def locked_key() -> bytes:
    """A key that asks for a password."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
