"""Repository control over HTTP (protocol.md section 11)."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from support.http_service import Serve, infer_body, quick, until

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig

ADMIN = ServerConfig(admin=True)
INFER = "/v2/models/echo/infer"
LOAD = "/v2/repository/models/echo/load"
UNLOAD = "/v2/repository/models/echo/unload"
RELOAD = "/v2/models/echo/config/reload"


async def test_control_that_is_off_is_403_whatever_the_body_and_the_model(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for verb in ("load", "unload"):
            for name in ("echo", "none"):
                reply = await client.post(f"/v2/repository/models/{name}/{verb}", b"{bad")
                assert reply.status == 403
                assert f"{verb} of model '{name}'" in reply.error
                assert "server.admin = true" in reply.error
        assert (await client.post("/v2/repository/index")).status == 200
        assert (await client.post(INFER, infer_body(1))).status == 200


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}', b'{"parameters": null, "x": 1}'])
async def test_load_and_unload_answer_when_they_are_done(serve: Serve, body: bytes) -> None:
    service = await serve(FakeBackend(), config=ADMIN, load=False)
    async with await service.client() as client:
        for path, status in ((LOAD, 200), (UNLOAD, 503), (UNLOAD, 503), (LOAD, 200), (LOAD, 200)):
            reply = await client.post(path, body)
            assert (reply.status, reply.json) == (200, {})
            assert (await client.post(INFER, infer_body(1))).status == status
        assert (await client.post(UNLOAD, b'{"parameters": {"unload_dependents": true}}')).status == 200
        (entry,) = (await client.post("/v2/repository/index")).json
        assert (entry["name"], entry["version"], entry["reason"]) == ("echo", "1", "unloaded")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (LOAD, {"parameters": {"config": "{}"}}, ("'echo'", "'config'", "not supported")),
        (LOAD, {"parameters": {"file:1/model.onnx": "AAAA"}}, ("'echo'", "'file:1/model.onnx'", "not supported")),
        (LOAD, {"parameters": []}, ("'parameters'", "an array", "expected an object")),
        (UNLOAD, {"parameters": {"unload_dependents": 1}}, ("'unload_dependents'", "the number 1", "true or false")),
        (UNLOAD, {"parameters": {"other": True}}, ("'echo'", "'other'", "expected unload_dependents")),
        (UNLOAD, [], ("an array", "expected a JSON object")),
    ],
)
async def test_what_cannot_be_honoured_is_400_and_changes_nothing(
    serve: Serve, path: str, body: object, words: tuple[str, ...]
) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ADMIN)
    async with await service.client() as client:
        reply = await client.post(path, json.dumps(body).encode())
        assert reply.status == 400
        for word in words:
            assert word in reply.error
        assert (await client.post(INFER, infer_body(1))).status == 200
    assert len(backend.files) == 1


async def test_a_large_body_with_what_is_not_supported_is_400_as_well(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ADMIN)
    async with await service.client() as client:
        body = {"parameters": {"file:1/model.onnx": "A" * 1_000_000}}
        assert (await client.post(LOAD, json.dumps(body).encode())).status == 400


async def test_reload_of_configuration_is_403_unless_admin_and_takes_no_other_method(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.post(RELOAD, b"{bad")
        assert (reply.status, "reload of model 'echo'" in reply.error) == (403, True)
        assert (await client.get(RELOAD)).status == 405


async def test_reload_puts_in_force_what_can_change_and_names_the_rest(serve: Serve) -> None:
    models = {"echo": quick(max_batch_size=2)}
    service = await serve(FakeBackend(), models, config=ADMIN)
    async with await service.client() as client:
        assert (await client.post(INFER, infer_body(*range(9)))).status == 200
        assert (await client.post(RELOAD)).json == {"applied": [], "not_applied": {}}
        models["echo"] = quick(max_batch_size=4, max_queue_size=8, weight=2.0, instances=2)
        reply = await client.post(RELOAD, b"{}")
        assert reply.status == 200
        assert reply.json == {
            "applied": ["max_queue_size", "weight"],
            "not_applied": {
                "max_batch_size": "takes effect when the model is loaded again",
                "instances": "takes effect when the model is loaded again",
            },
        }
        too_many = await client.post(INFER, infer_body(*range(9)))
        assert (too_many.status, "max_queue_size = 8" in too_many.error) == (400, True)
        models["echo"] = quick(max_batch_size=4, max_queue_size=9, weight=2.0, instances=2)
        assert (await client.post(RELOAD)).json["applied"] == ["max_queue_size"]
        assert (await client.post(INFER, infer_body(*range(9)))).status == 200
        assert (await client.post(LOAD)).status == 200
        assert (await client.post(RELOAD)).json == {"applied": [], "not_applied": {}}
        assert service.model().limits.slots == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        (RELOAD, {"parameters": {"weight": 3}}, 400, "parameter 'weight' is not supported"),
        (RELOAD, [], 400, "expected a JSON object"),
        ("/v2/models/none/config/reload", {}, 404, "'none'"),
        ("/v2/models/a%2Fb/config/reload", {}, 404, "'a/b'"),
    ],
)
async def test_reload_that_cannot_be_honoured_says_why(
    serve: Serve, path: str, body: object, status: int, word: str
) -> None:
    service = await serve(FakeBackend(), config=ADMIN)
    async with await service.client() as client:
        reply = await client.post(path, json.dumps(body).encode())
        assert (reply.status, word in reply.error) == (status, True)


async def test_control_of_an_unknown_model_is_404(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ADMIN)
    async with await service.client() as client:
        for verb in ("load", "unload"):
            reply = await client.post(f"/v2/repository/models/none/{verb}")
            assert reply.status == 404
            assert "'none'" in reply.error


async def test_a_load_that_fails_is_400_with_its_reason_and_what_served_serves_on(
    serve: Serve, expected_errors: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ADMIN)
    async with await service.client() as client:
        backend.load_error = "opset 99 is not supported"
        reply = await client.post(LOAD)
        assert reply.status == 400
        assert "'echo'" in reply.error
        assert "opset 99 is not supported" in reply.error
        assert (await client.post(INFER, infer_body(1))).status == 200


async def test_a_load_goes_on_when_the_client_that_asked_leaves(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ADMIN)
    backend.load_gate = threading.Event()
    old = service.model()
    client = await service.client()
    asked = asyncio.create_task(client.post(LOAD))
    await until(lambda: len(backend.files) == 2)
    asked.cancel()
    client.abort()
    await until(lambda: service.server.open_connections == 0)
    assert service.model() is old
    backend.load_gate.set()
    await until(lambda: service.model() is not old)


async def test_a_failed_load_whose_client_left_is_not_an_unread_error(
    serve: Serve, expected_errors: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ADMIN)
    backend.load_gate = threading.Event()
    backend.load_error = "corrupt"
    client = await service.client()
    asked = asyncio.create_task(client.post(LOAD))
    await until(lambda: len(backend.files) == 2)
    asked.cancel()
    client.abort()
    await until(lambda: service.server.open_connections == 0)
    backend.load_gate.set()
    await service.server.close()  # waits for it
    assert not [record for record in expected_errors.records if record.name == "asyncio"]


async def test_nothing_told_to_clients_names_a_path_on_disk(
    serve: Serve, tmp_path: Path, expected_errors: pytest.LogCaptureFixture
) -> None:
    from batchserve.engine.sources import ModelSource

    source = ModelSource("echo", {1: tmp_path / "echo.onnx"}, None, tmp_path / "echo.onnx")
    service = await serve(FakeBackend(), {"echo": quick(version_policy="7")}, sources=[source], config=ADMIN)
    async with await service.client() as client:
        for reply in (
            await client.post(LOAD),
            await client.post(INFER, infer_body(1)),
            await client.get("/v2/health/ready"),
            await client.post("/v2/repository/index"),
        ):
            assert str(tmp_path).encode() not in reply.body
            assert b"7" in reply.body
