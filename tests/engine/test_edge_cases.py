"""What the engine does about runs that hang and runs without memory (batching.md section 10)."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.core_requests import make_request

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.engine.loading import load_model
from batchserve.engine.model import Model
from batchserve.errors import ExecutionFailed, OutOfMemory


async def load(backend: FakeBackend, **config: object) -> Model:
    """A model whose runs are stuck after a third of a second: ten times what is guessed of one with this timeout."""
    given = ModelConfig(**{"warmup_budget_s": 0.0, "timeout_s": 1.0, "run_timeout_s": 0.05, **config})  # type: ignore[arg-type]
    return await load_model(ModelFile("m", 1, Path("m.onnx")), given, backend, executor=None)  # type: ignore[arg-type]


async def end(model: Model) -> None:
    model.start_drain(0.0)
    await model.drained()
    await model.close()


def request(value: int = 0, **more: object) -> object:
    return make_request(1, value=value, arrival_s=time.monotonic(), **more)


async def test_stuck_run_fails_its_requests_and_its_slot_comes_back_with_it(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(gate=threading.Event())
    model = await load(backend)
    released = asyncio.Event()
    ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    model.submit(request(), ended.set_result, released.set)  # type: ignore[arg-type]
    error = await ended
    assert isinstance(error, ExecutionFailed)
    assert error.status == 500
    assert "did not come back in time" in str(error)
    assert model.is_stuck
    assert backend.interrupted == [backend.runs[0].thread]
    assert not released.is_set()  # the run may still read the request's arrays
    waiting = asyncio.create_task(model.infer(request(7)))  # type: ignore[arg-type]
    backend.gate.set()  # type: ignore[union-attr]
    response = await waiting
    assert (response.outputs[0] == 7).all()
    assert released.is_set()
    assert not model.is_stuck
    assert model.counters.failed == 1
    texts = [record.getMessage() for record in caplog.records]
    assert any("has not come back for" in text and "is asked to end" in text for text in texts)
    assert any("the stuck run of model m/1 came back after" in text for text in texts)
    await end(model)


async def test_nothing_is_learnt_from_a_stuck_run(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend()
    model = await load(backend, warmup_budget_s=5.0)
    for _ in range(3):
        await model.infer(request())  # type: ignore[arg-type]
    backend.gate = threading.Event()
    with pytest.raises(ExecutionFailed):
        await model.infer(request())  # type: ignore[arg-type]
    backend.gate.set()
    backend.gate = None
    await model.infer(request())  # type: ignore[arg-type]
    assert model.gauges(time.monotonic()).row_s < 0.05
    await end(model)


async def test_model_with_a_stuck_run_drains_and_closes_without_it() -> None:
    backend = FakeBackend(gate=threading.Event())
    model = await load(backend)
    with pytest.raises(ExecutionFailed):
        await model.infer(request())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await end(model)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "m/1#0"]
    backend.gate.set()  # type: ignore[union-attr]
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    await asyncio.sleep(0)  # the batch of a model that is gone comes back and disturbs nobody


async def test_other_slots_serve_while_one_is_stuck() -> None:
    backend = FakeBackend(gate=threading.Event())
    model = await load(backend, instances=2)
    with pytest.raises(ExecutionFailed):
        await model.infer(request())  # type: ignore[arg-type]
    stuck, backend.gate = backend.gate, None
    for value in (3, 4):
        response = await model.infer(request(value))  # type: ignore[arg-type]
        assert (response.outputs[0] == value).all()
    assert model.is_stuck
    stuck.set()  # type: ignore[union-attr]
    while model.is_stuck:  # noqa: ASYNC110  # as above: the engine has no event for it
        await asyncio.sleep(0)
    await end(model)


@pytest.mark.parametrize("failure", [OutOfMemory, MemoryError])
async def test_batch_without_memory_runs_in_halves_and_batches_stay_small(
    failure: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Eight rows have no memory, four do: all eight are answered, though failures are not isolated."""
    gate = threading.Event()
    backend = FakeBackend(gate=gate, fails=lambda inputs: len(inputs[0]) > 4, failure=failure)  # type: ignore[arg-type]
    model = await load(backend, max_batch_size=8, isolate_failures=False, timeout_s=20.0, run_timeout_s=60.0)
    first = asyncio.create_task(model.infer(request()))  # type: ignore[arg-type]
    await asyncio.to_thread(backend.wait_for_runs, 1)
    others = [asyncio.create_task(model.infer(request(value))) for value in range(8)]  # type: ignore[arg-type]
    while model.queued_requests < 8:  # noqa: ASYNC110  # the engine has no event for it
        await asyncio.sleep(0)
    gate.set()
    responses = await asyncio.gather(first, *others)
    assert [int(response.outputs[0][0, 0]) for response in responses] == [0, *range(8)]
    assert [run.rows for run in backend.runs] == [1, 8, 4, 4]
    assert model.gauges(time.monotonic()).useful_rows == 4
    assert np.sum(model.counters.failed) == 0
    await end(model)
