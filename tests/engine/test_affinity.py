"""`cpu_affinity` in the engine: which threads are kept where, while they serve and while layouts are compared."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.core_requests import make_request

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.core.tensors import Array
from batchserve.engine import affinity
from batchserve.engine.affinity import pinned, share_of
from batchserve.engine.calibration import calibrate
from batchserve.engine.loading import load_model

FILE = ModelFile("m", 1, Path("m.onnx"))


@pytest.mark.parametrize(
    ("cores", "instances", "shares"),
    [
        ((4, 5, 6, 7), 1, [(4, 5, 6, 7)]),
        ((4, 5, 6, 7), 2, [(4, 5), (6, 7)]),
        ((0, 2, 1), 2, [(0,), (2, 1)]),  # in the order given
        ((3, 4), 2, [(3,), (4,)]),
        ((3, 4), 3, [(3,), (4,), (3,)]),
        ((), 2, [(), ()]),
    ],
)
def test_instances_share_the_cores(cores: Sequence[int], instances: int, shares: list[tuple[int, ...]]) -> None:
    assert [tuple(share_of(cores, index, instances)) for index in range(instances)] == shares


def test_thread_goes_back_to_its_own_cores() -> None:
    before = os.sched_getaffinity(0)
    one = min(before)
    with pinned((one,)):
        assert os.sched_getaffinity(0) == {one}
    assert os.sched_getaffinity(0) == before


def test_core_that_has_gone_since_the_load_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    before = os.sched_getaffinity(0)
    affinity.pin((9999,))
    assert os.sched_getaffinity(0) == before
    assert "cpu_affinity cannot be had any more" in caplog.text


class Placed:
    """Stands in for the system: on which cores each thread was put last."""

    def __init__(self) -> None:
        self.cores: dict[int, Sequence[int] | set[int]] = {}

    def put(self, _: int, cores: Sequence[int]) -> None:
        self.cores[threading.get_ident()] = tuple(cores)

    @property
    def here(self) -> Sequence[int] | set[int]:
        return self.cores.get(threading.get_ident(), ())


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Placed:
    placed = Placed()
    monkeypatch.setattr(affinity.os, "sched_setaffinity", placed.put)
    monkeypatch.setattr(affinity.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    return placed


async def test_each_instance_runs_on_its_own_share(placed: Placed) -> None:
    """Two runs meet in the model, so that both instances must be running."""
    both = threading.Barrier(2, timeout=30)
    seen: list[Sequence[int] | set[int]] = []

    def run(inputs: Sequence[Array], mask: int) -> list[Array]:
        both.wait()
        seen.append(placed.here)
        return list(inputs)

    config = ModelConfig(cpu_affinity=(2, 3, 4, 5), instances=2, max_batch_size=1, warmup_budget_s=0.0)
    model = await load_model(FILE, config, FakeBackend(function=run), executor=None)  # type: ignore[arg-type]
    await asyncio.gather(*(model.infer(make_request(1, arrival_s=time.monotonic())) for _ in range(2)))
    assert sorted(map(tuple, seen)) == [(2, 3), (4, 5)]
    model.start_drain(0.0)
    await model.drained()
    await model.close()


def test_layouts_are_compared_where_they_will_run(placed: Placed) -> None:
    """Streams are on their instances' cores, and a lone run, on this thread, on those of the first instance."""
    lone: set[tuple[int, ...]] = set()
    streams: set[tuple[int, ...]] = set()

    def run(inputs: Sequence[Array], mask: int) -> list[Array]:
        (lone if threading.current_thread() is threading.main_thread() else streams).add(tuple(placed.here))
        return list(inputs)

    backend = FakeBackend(function=run, layouts=(Layout(1, 2), Layout(2, 1)))
    session = backend.load(FILE, ModelConfig())
    found = calibrate("m", session, "auto", 1, 4.0, (6, 7))
    assert len(found.measured) == 2
    assert streams == {(6, 7), (6,), (7,)}
    assert lone >= {(6, 7), (6,)}
    assert tuple(placed.here) == (0, 1, 2, 3), "the loading thread goes back to where it was"
    found.session.close()


async def test_load_compares_layouts_on_the_models_cores(placed: Placed) -> None:
    seen: set[tuple[int, ...]] = set()

    def run(inputs: Sequence[Array], mask: int) -> list[Array]:
        seen.add(tuple(placed.here))
        return list(inputs)

    backend = FakeBackend(function=run, layouts=(Layout(1, 2), Layout(2, 1)))
    config = ModelConfig(cpu_affinity=(6, 7), warmup_budget_s=2.0)
    model = await load_model(FILE, config, backend, executor=None)  # type: ignore[arg-type]
    assert {(6,), (7,)} <= seen
    model.start_drain(0.0)
    await model.drained()
    await model.close()


async def test_without_cores_no_thread_is_moved(placed: Placed) -> None:
    backend = FakeBackend(layouts=(Layout(1, 2), Layout(2, 1)))
    model = await load_model(FILE, ModelConfig(warmup_budget_s=1.0), backend, executor=None)  # type: ignore[arg-type]
    await model.infer(make_request(1, arrival_s=time.monotonic()))
    assert placed.cores == {}
    model.start_drain(0.0)
    await model.drained()
    await model.close()
