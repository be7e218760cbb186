"""A run that hangs: its clients get 500, readiness says so, and both are over when it comes back."""

from __future__ import annotations

import pytest
from support.http_service import Serve, infer_body, quick, until

from batchserve.backends.fake import FakeBackend

INFER = "/v2/models/echo/infer"


async def test_readiness_is_false_while_a_run_is_stuck(serve: Serve, expected_errors: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend()
    service = await serve(backend, {"echo": quick(timeout_s=1.0, run_timeout_s=0.05), "other": quick()})
    held = service.hold(backend)
    async with await service.client() as client:
        reply = await client.post(INFER, infer_body(1))
        assert (reply.status, "did not come back in time" in reply.error) == (500, True)
        ready = await client.get("/v2/health/ready")
        assert (ready.status, ready.json["ready"]) == (400, False)
        assert ready.json["error"] == "model 'echo': a run has not come back"
        assert (await client.get("/v2/models/echo/ready")).status == 400
        assert (await client.get("/v2/models/other/ready")).status == 200
        assert (await client.get("/v2/health/live")).status == 200
        held.let_go()
        await until(lambda: not service.model().is_stuck)
        assert (await client.get("/v2/health/ready")).status == 200
        assert (await client.get("/v2/models/echo/ready")).status == 200
        assert (await client.post(INFER, infer_body(2))).status == 200
