"""Who sent a request reaches the rules, the same on both ways."""

from __future__ import annotations

import pytest
from support.http_service import Serve, infer_body, quick

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig
from batchserve.core.request import Request

INFER = "/v2/models/echo/infer"


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Client of each request that the rules were asked about."""
    from batchserve.core.policy import Policy

    seen: list[str] = []
    arrive = Policy.arrive

    def note(policy: Policy, request: Request, now: float) -> object:
        seen.append(request.client)
        return arrive(policy, request, now)

    monkeypatch.setattr(Policy, "arrive", note)
    return seen


async def test_client_of_a_request_is_what_its_header_says(serve: Serve, clients: list[str]) -> None:
    service = await serve(
        FakeBackend(), {"echo": quick(fair_clients=True)}, config=ServerConfig(client_header="X-Team")
    )
    async with await service.client() as client:
        for headers in ({"x-team": " a b "}, {}, {"X-Team": "a b"}, {"X-Client-Id": "c"}, {"X-Team": "ä" * 300}):
            assert (await client.post(INFER, infer_body(1), headers=headers)).status == 200
    assert clients == ["a b", "", "a b", "", "ä" * 256]


async def test_fairness_and_weights_reach_the_rules(serve: Serve) -> None:
    weights = (("a", 2.0), ("b", 0.5))
    service = await serve(
        FakeBackend(), {"echo": quick(fair_clients=True, client_weights=weights, max_clients=7), "off": quick()}
    )
    limits = service.model().limits
    assert (limits.is_fair, dict(limits.client_weights), limits.max_clients) == (True, {"a": 2.0, "b": 0.5}, 7)
    assert not service.model("off").limits.is_fair
