"""A profile of a model's next batches, over HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from support import onnx_models as models
from support.http_service import Serve, infer_body, quick, until

from batchserve.backends.fake import FakeBackend
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ServerConfig
from batchserve.engine.sources import find_models

ADMIN = ServerConfig(admin=True)
INFER = "/v2/models/echo/infer"
PROFILE = "/v2/models/echo/profile"


async def opened(backend: FakeBackend) -> None:
    """Wait until the profiled session is there."""
    await until(lambda: len(backend.sessions) == 2)


async def test_only_the_next_batches_run_on_the_profiled_session(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ADMIN)
    async with await service.client() as client, await service.client() as other:
        await client.post(INFER, infer_body(1))
        asking = asyncio.create_task(other.post(PROFILE + "?batches=3"))
        await opened(backend)
        while not asking.done():
            assert (await client.post(INFER, infer_body(7))).status == 200
        reply = await asking
        assert (reply.status, reply.body) == (200, b"3"), "the fake profile is the number of runs"
        assert [session.closed for session in backend.sessions] == [False, True]
        assert (await client.post(INFER, infer_body(1))).status == 200


async def test_profile_of_a_real_model_is_a_trace_of_its_operators(serve: Serve, tmp_path: Path) -> None:
    models.save(models.mlp(), tmp_path / "mlp.onnx")
    sources = find_models([tmp_path])
    service = await serve(OnnxBackend(), {"mlp": quick(instances=1)}, sources=sources, config=ADMIN)
    (spec,) = service.model("mlp").signature.inputs
    inputs = [{"name": spec.name, "datatype": "FP32", "shape": [1, spec.shape[1]], "data": [0.5] * spec.shape[1]}]
    async with await service.client() as client, await service.client() as other:
        asking = asyncio.create_task(other.post("/v2/models/mlp/profile?batches=2"))
        while not asking.done():
            assert (await client.post("/v2/models/mlp/infer", {"inputs": inputs})).status == 200
        reply = await asking
        assert reply.status == 200
        names = [event["name"] for event in json.loads(reply.body)]
        assert names.count("model_run") == 2
        assert any("Gemm" in name or "MatMul" in name for name in names)


async def test_profile_is_refused_where_control_is_off_or_a_number_is_none(serve: Serve) -> None:
    off = await serve(FakeBackend())
    async with await off.client() as client:
        reply = await client.post(PROFILE)
        assert reply.status == 403
        assert "profile of model 'echo' is switched off" in reply.error
    service = await serve(FakeBackend(), config=ADMIN)
    async with await service.client() as client:
        for query in ("batches=0", "batches=x", "batches=10001", "timeout=0", "timeout=-1", "batches="):
            reply = await client.post(f"{PROFILE}?{query}")
            assert reply.status == 400, query
            assert "expected a whole number from 1 to" in reply.error
        assert (await client.post("/v2/models/none/profile")).status == 404


async def test_profile_without_requests_ends_and_says_so(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ADMIN)
    async with await service.client() as client:
        reply = await client.post(PROFILE + "?timeout=1")
        assert reply.status == 504
        assert "no batch of model 'echo' ran within 1 s" in reply.error
        assert backend.sessions[-1].closed


async def test_second_profile_at_once_is_refused(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, config=ADMIN)
    async with await service.client() as client, await service.client() as other:
        asking = asyncio.create_task(other.post(PROFILE + "?batches=1"))
        await opened(backend)
        reply = await client.post(PROFILE)
        assert reply.status == 400
        assert "is being profiled already" in reply.error
        while not asking.done():
            await client.post(INFER, infer_body(1))
        assert (await asking).status == 200
