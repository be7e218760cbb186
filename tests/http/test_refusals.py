"""What a client reads of a refusal: its status, and when it is worth to come back."""

from __future__ import annotations

import pytest
from support.http_service import Serve, infer_body

from batchserve.backends.fake import FakeBackend
from batchserve.core.policy import Policy
from batchserve.errors import QueueFull, RequestError, StandingQueue, TargetMissed

INFER = "/v2/models/echo/infer"


@pytest.mark.parametrize("kind", [QueueFull, TargetMissed, StandingQueue])
@pytest.mark.parametrize(("after_s", "header"), [(1, "1"), (7, "7"), (3600, "3600")])
async def test_refusal_is_429_and_says_when_to_come_back(
    kind: type[RequestError], after_s: int, header: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> object:
        error = kind("too much; retry later")
        error.retry_after_s = after_s
        raise error

    service = await serve(FakeBackend())
    monkeypatch.setattr(Policy, "arrive", refuse)
    async with await service.client() as client:
        reply = await client.post(INFER, infer_body(1))
    assert (reply.status, reply.headers["retry-after"], reply.error) == (429, header, "too much; retry later")
    assert (kind.grpc_code, kind.reason) == (
        "RESOURCE_EXHAUSTED",
        {QueueFull: "queue", TargetMissed: "target", StandingQueue: "standing"}[kind],
    )
