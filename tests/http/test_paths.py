"""Paths, names in them, and methods, over the wire (protocol.md section 1)."""

from __future__ import annotations

import pytest
from support.http_service import Serve, infer_body, quick

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig


@pytest.mark.parametrize(
    "path",
    ["/v2/", "/v2/models/echo/", "/v2/models/echo/infer/", "/v2/nothing", "/V2", "//v2", "/%", "/%ff"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_404_in_json_whatever_the_method(serve: Serve, method: str, path: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(f"{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
        reply = await client.read()
        assert reply.status == 404
        assert "unknown path" in reply.error
        assert (await client.get("/v2/health/live")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2", "GET, HEAD"),
        ("PUT", "/v2/health/live", "GET, HEAD"),
        ("DELETE", "/v2/models/echo", "GET, HEAD"),
        ("POST", "/v2/models/stats", "GET, HEAD"),
        ("POST", "/v2/models/none/versions/9/stats", "GET, HEAD"),
        ("GET", "/v2/models/echo/infer", "POST"),
        ("HEAD", "/v2/models/none/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/echo/load", "POST"),
        ("OPTIONS", "/v2/systemsharedmemory/unregister", "POST"),
        ("PATCH", "/metrics", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_the_methods_that_are_right(
    serve: Serve, method: str, path: str, allow: str
) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.ask(method, path, b"ignored" if method in ("POST", "PUT") else None)
        assert reply.status == 405
        assert reply.headers["allow"] == allow
        if method != "HEAD":
            assert f"'{method}'" in reply.error
            assert path in reply.error
        assert (await client.get("/v2/health/live")).status == 200


NAMES = ["a b", "é", "100%", "a+b", "a%20b", "x?y", "#", "versions", "a\\b"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_of_any_text_is_reached_when_it_is_percent_encoded(serve: Serve, name: str) -> None:
    service = await serve(FakeBackend(), {name: quick()})
    path = "".join(f"%{byte:02X}" for byte in name.encode())
    async with await service.client() as client:
        reply = await client.post(f"/v2/models/{path}/versions/%31/infer", infer_body(5))
        assert reply.status == 200
        assert (reply.json["model_name"], reply.json["model_version"]) == (name, "1")


@pytest.mark.parametrize("name", ["%2e", "%2E%2e", "a%2Fb", "..%2Fecho", "%00", "echo%00", "%ff", "%C3", "a%252Fb"])
@pytest.mark.parametrize("path", ["/v2/models/{}/infer", "/v2/repository/models/{}/load"])
async def test_a_name_that_could_leave_the_repository_is_404(serve: Serve, name: str, path: str) -> None:
    service = await serve(FakeBackend(), {"echo": quick(), "a": quick()}, config=ServerConfig(admin=True))
    async with await service.client() as client:
        reply = await client.post(path.format(name))
        assert reply.status == 404
        assert "model" in reply.error
        assert (await client.get("/v2/health/live")).status == 200


@pytest.mark.parametrize("version", ["2", "0", "01", "-1", "1.0", "latest", "%EF%BC%91", "9" * 5000, "%31%20"])
async def test_a_version_that_is_not_exactly_one_that_is_loaded_is_404(serve: Serve, version: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.post(f"/v2/models/echo/versions/{version}/infer", infer_body(1))
        assert reply.status == 404
        assert "'echo'" in reply.error
        assert "version" in reply.error


async def test_query_strings_and_fragments_are_ignored(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for suffix in ("?", "?x=1&y", "?/../..", "?%", "#part", "?a#b"):
            assert (await client.get(f"/v2/models/echo/ready{suffix}")).status == 200


async def test_a_path_in_absolute_form_is_the_same_path(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        assert (await client.get("http://elsewhere:1/v2/models/echo/ready")).json == {"name": "echo", "ready": True}


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/html", ";"]
)
async def test_a_request_is_not_judged_by_its_content_type(serve: Serve, content_type: str | None) -> None:
    service = await serve(FakeBackend())
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with await service.client() as client:
        assert (await client.post("/v2/models/echo/infer", infer_body(1), headers)).status == 200
        assert (await client.post("/v2/repository/index", b"", headers)).status == 200


async def test_a_tunnel_or_another_protocol_is_not_entered(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        await client.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert (await client.read()).status == 404
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "AQIDBAUGBwgJCgsMDQ4PEC=="}
        assert (await client.get("/v2/health/live", upgrade)).json == {"live": True}
        assert (await client.get("/v2/health/live", {"Connection": "Upgrade", "Upgrade": "h2c"})).json == {"live": True}
        assert (await client.get("/v2/health/live")).json == {"live": True}
