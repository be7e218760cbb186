"""Many clients at once: every answer is its request's own, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest
from support import onnx_models
from support.crowd import run_crowd
from support.http_service import Serve, quick, start_service, until

from batchserve.backends.onnx import OnnxBackend
from batchserve.engine.sources import find_models

CLIENTS, REQUESTS = 64, 200


def echo_model(folder: Path) -> Path:
    """An `int64[batch, length]` identity, as a file."""
    proto = onnx_models.one_op(
        "Identity", element=onnx_models.INT64, shape=("batch", "length"), out=("batch", "length")
    )
    return onnx_models.save(proto, folder / "echo.onnx")


def open_futures() -> int:
    gc.collect()
    return sum(1 for each in gc.get_objects() if isinstance(each, asyncio.Future) and not each.done())


@pytest.mark.timeout(120)
async def test_sixty_four_clients_get_their_own_answers_and_leave_nothing(tmp_path: Path) -> None:
    """12,800 requests of 1 to 5 rows and mixed lengths, in JSON and binary; the client of every twentieth leaves."""
    before_threads = set(threading.enumerate())
    before_futures = open_futures()
    service = await start_service(OnnxBackend(), {"echo": quick()}, sources=find_models([echo_model(tmp_path)]))
    model = service.model()
    assert model.signature.max_batch_size > 0, model.session.batchability.why
    tasks = asyncio.all_tasks()

    tally = await run_crowd(service.port, clients=CLIENTS, requests=REQUESTS)
    await until(lambda: service.server.open_connections == 0)
    await until(lambda: model.queued_requests + model.running_requests == 0)

    assert tally.answered + tally.left == CLIENTS * REQUESTS
    assert tally.left > CLIENTS * REQUESTS * 0.03
    counters = model.counters
    assert counters.received == counters.ended
    assert (counters.invalid, counters.failed, counters.expired, sum(counters.refused.values())) == (0, 0, 0, 0)
    assert tally.answered <= counters.completed <= counters.received <= CLIENTS * REQUESTS
    assert counters.cancelled > 0
    assert (model.queued_rows, service.server.held_bytes) == (0, 0)
    assert counters.executions < counters.completed, "nothing shared a batch"
    assert sum(counters.batches.values()) == counters.executions
    assert {task for task in asyncio.all_tasks() - tasks if not task.done()} == set()

    await service.stop()
    for thread in set(threading.enumerate()) - before_threads:
        if not thread.name.startswith("asyncio_"):  # the loop's own helpers end with the loop
            await asyncio.to_thread(thread.join, 10.0)
            assert not thread.is_alive(), f"{thread.name} is left behind"
    assert open_futures() <= before_futures


async def test_a_crowd_of_which_nobody_leaves_is_answered_completely(serve: Serve, tmp_path: Path) -> None:
    service = await serve(OnnxBackend(), {"echo": quick()}, sources=find_models([echo_model(tmp_path)]))
    tally = await run_crowd(service.port, clients=16, requests=20, leaving=0.0)
    assert tally.answered == 320
    counters = service.model().counters
    assert (counters.received, counters.completed) == (320, 320)
