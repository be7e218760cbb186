"""The engine with one model on several devices: who runs what, what is measured at load, and what is told of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.by_device import ByDevice
from support.core_requests import make_request

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.backends.several import SeveralDevices
from batchserve.config import ModelConfig
from batchserve.core.request import Request
from batchserve.core.tensors import Array
from batchserve.engine.loading import load_model
from batchserve.engine.model import Model
from batchserve.engine.spreading import compare, quickest_first
from batchserve.errors import BackendError, ModelLoadError
from batchserve.frontend.describe import device_states

FILE = ModelFile("m", 1, Path("m.onnx"))


Load = Callable[..., "asyncio.Future[Model]"]


@pytest.fixture
async def load() -> AsyncIterator[Callable[..., object]]:
    """Load a model on a device for each backend; it is drained and closed after the test."""
    models: list[tuple[Model, Sequence[FakeBackend]]] = []

    async def load_one(*backends: FakeBackend, **config: object) -> Model:
        names = ",".join(f"cuda:{number}" for number in range(len(backends)))
        settings = ModelConfig(**{"warmup_budget_s": 0.0, "device": names, **config})  # type: ignore[arg-type]
        model = await load_model(FILE, settings, SeveralDevices(ByDevice(*backends)), executor=None)  # type: ignore[arg-type]
        models.append((model, backends))
        return model

    yield load_one
    for model, backends in models:
        for backend in backends:
            if backend.gate is not None:
                backend.gate.set()
        model.start_drain(0.0)
        await model.drained()
        await model.close()
        assert all(session.closed for backend in backends for session in backend.sessions)


def request(value: int = 0, rows: int = 1) -> Request:
    return make_request(rows, value=value, arrival_s=time.monotonic())


async def test_instances_on_all_devices_pull_from_one_queue(load: Load) -> None:
    """Both are held: two batches of one queue run at once, each on a device of its own."""
    backends = [FakeBackend(gate=threading.Event()) for _ in range(2)]
    model = await load(*backends, max_queue_delay_s=0.0)
    assert (model.instances, model.devices) == (2, ("cuda:0", "cuda:1"))
    answers = []
    for value, backend in enumerate(backends):
        answers.append(asyncio.create_task(model.infer(request(value))))
        await asyncio.to_thread(backend.wait_for_runs, 1)
    assert [len(backend.runs) for backend in backends] == [1, 1]
    for backend in backends:
        assert backend.gate is not None
        backend.gate.set()
    assert [int(answer.outputs[0][0, 0]) for answer in await asyncio.gather(*answers)] == [0, 1]


async def test_every_answer_belongs_to_its_request(load: Load) -> None:
    model = await load(FakeBackend(), FakeBackend(), FakeBackend(), instances=2, max_queue_delay_s=0.0)
    assert model.instances == 6
    answers = await asyncio.gather(*(model.infer(request(value, 1 + value % 5)) for value in range(200)))
    for value, answer in enumerate(answers):
        assert (answer.outputs[0] == np.full((1 + value % 5, 4), value)).all()


def slow(seconds: float) -> Callable[[Sequence[Array], int], list[Array]]:
    """Answer after a time that depends on nothing."""

    def function(inputs: Sequence[Array], output_mask: int) -> list[Array]:
        time.sleep(seconds)
        return [inputs[0].copy()]

    return function


async def test_devices_are_compared_at_load_and_the_quickest_comes_first(load: Load) -> None:
    """A run takes 12 ms on the first that is named and 2 ms on the other."""
    model = await load(FakeBackend(function=slow(0.012)), FakeBackend(function=slow(0.002)), warmup_budget_s=0.5)
    assert model.devices == ("cuda:1", "cuda:0")
    assert model.speeds is not None
    assert model.speeds.factors[0] == 1.0
    assert 2.0 < model.speeds.factors[1] < 12.0
    assert model.curve[0][1] < 0.012, "the curve is the quickest one's"
    states = device_states(model)
    assert states is not None
    assert [(state["device"], state["slots"]) for state in states] == [("cuda:1", [0]), ("cuda:0", [1])]
    await model.infer(request())
    assert model.config.device == "cuda:0,cuda:1"


def test_equally_quick_devices_stay_in_their_order() -> None:
    session = SeveralDevices(ByDevice(FakeBackend(function=slow(0.005)), FakeBackend(function=slow(0.005)))).load(
        FILE, ModelConfig(device="cuda:0,cuda:1")
    )
    assert quickest_first(session, 32) == [0, 1]  # type: ignore[arg-type]
    assert compare("m", session, 32)[0] == 1.0  # type: ignore[arg-type]


async def test_device_on_which_no_row_runs_fails_the_load(load: Load) -> None:
    broken = FakeBackend(fails=lambda inputs: True, failure=BackendError)
    good = FakeBackend()
    with pytest.raises(ModelLoadError, match=r"failed on device cuda:1 .* take it off device"):
        await load(good, broken, warmup_budget_s=0.5)
    assert all(session.closed for backend in (good, broken) for session in backend.sessions)


async def test_model_on_one_device_is_told_of_as_ever(load: Load) -> None:
    model = await load(FakeBackend())
    assert (model.devices, model.speeds, device_states(model)) == (("cuda:0",), None, None)
