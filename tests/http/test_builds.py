"""What is told of a model whose preferred provider is built while it serves on the next one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.console_events import Numbers, looking
from support.http_service import Serve, quick, until
from support.providers import Providers
from support.raw_http import RawClient

from batchserve.backends.swapping import SwappingBackend
from batchserve.errors import ModelLoadError
from batchserve.frontend.console import stream

MODELS = {"m": quick(providers=("openvino", "cpu"), build="background")}


async def detail(client: RawClient) -> Any:
    reply = await client.get("/v2/models/m/ready")
    assert (reply.status, reply.json["ready"]) == (200, True)
    return reply.json["build"]


async def test_readiness_says_what_a_model_runs_on_until_its_provider_is_built(serve: Serve) -> None:
    gate = threading.Event()
    service = await serve(SwappingBackend(Providers(build_gate=gate)), MODELS)
    build = service.model("m").session
    await until(lambda: build.build.state == "building")
    async with await service.client() as client:
        told = await detail(client)
        assert (told["state"], told["provider"]) == ("building", "cpu")
        assert told["why"] == "openvino is being built"
        gate.set()
        await until(lambda: build.build.state == "swapped")
        told = await detail(client)
        assert (told["state"], told["provider"]) == ("swapped", "openvino")
        assert (await client.get("/v2/models/m/versions/1/ready")).json["build"] == told


@pytest.mark.parametrize(
    ("backend", "state", "why"),
    [
        (Providers(trouble=ModelLoadError("no engine for this graph")), "failed", "no engine for this graph"),
        (Providers(lambda inputs: [inputs[0] * 3]), "refused", "its output 0 is another"),
    ],
)
async def test_readiness_and_console_say_why_a_build_is_not_used(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, backend: Providers, state: str, why: str
) -> None:
    monkeypatch.setattr(stream, "PERIOD_S", 0.02)
    backend.build_gate = threading.Event()
    service = await serve(SwappingBackend(backend), MODELS, live=Numbers)
    await until(lambda: service.model("m").session.build.state == "building")
    async with looking(service) as events, await service.client() as client:
        _, about = await events.next()
        assert about["models"][0]["build"]["state"] == "building"
        backend.build_gate.set()
        while True:
            name, about = await events.next()
            if name == "models" and about["models"][0]["build"]["state"] == state:
                break
        assert why in about["models"][0]["build"]["why"]
        told = await detail(client)
        assert (told["state"], told["provider"]) == (state, "cpu")
        assert why in told["why"]
        assert (await client.get("/v2/health/ready")).json == {"ready": True}


async def test_a_model_without_a_build_says_nothing_of_one(serve: Serve) -> None:
    service = await serve(SwappingBackend(Providers()), {"m": quick(providers=("cpu",))})
    async with await service.client() as client:
        assert (await client.get("/v2/models/m/ready")).json == {"name": "m", "ready": True}
