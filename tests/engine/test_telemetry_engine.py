"""Metrics and statistics of a real engine on a fake runtime: they agree with what the clients saw."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.core_requests import make_request
from support.telemetry_fakes import value

from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.core.request import Request
from batchserve.engine.repository import Repository
from batchserve.engine.sources import find_models
from batchserve.errors import ModelLoadError, RequestError
from batchserve.telemetry.families import OUTCOMES, PHASES
from batchserve.telemetry.metrics import Metrics
from batchserve.telemetry.statistics import Statistics


class Served:
    """A repository with one model, and those who listen to it."""

    def __init__(self, folder: Path) -> None:
        (folder / "digits.onnx").touch()
        self.backend = FakeBackend()
        self.metrics = Metrics()
        self.statistics = Statistics()
        config = ModelConfig(max_batch_size=4, max_queue_size=16, warmup_budget_s=0.0, instances=2)
        self.repository = Repository(
            find_models([folder]), lambda _: config, self.backend, listeners=[self.metrics, self.statistics]
        )

    def read(self, name: str, **labels: str) -> float:
        number = value(self.metrics.render()[0], name, model="digits", version="1", **labels)
        assert number is not None, f"{name} {labels} is not on the page"
        return number

    def outcomes(self) -> dict[str, int]:
        found = {name: int(self.read("batchserve_requests_total", outcome=name)) for name in OUTCOMES}
        return {name: count for name, count in found.items() if count}

    async def ask(self, requests: list[Request]) -> list[object]:
        model = self.repository.get("digits")
        return list(await asyncio.gather(*(model.infer(each) for each in requests), return_exceptions=True))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    await served.repository.load("digits")
    yield served
    if served.backend.gate is not None:
        served.backend.gate.set()
    await served.repository.drain(5.0)


def request(value: int = 0, rows: int = 1, timeout_s: float | None = None) -> Request:
    return make_request(rows, value=value, arrival_s=time.monotonic(), timeout_s=timeout_s)


async def test_the_page_and_the_statistics_agree_with_what_clients_saw(served: Served) -> None:
    answers = await served.ask([request(number, rows=1 + number % 3) for number in range(8)])
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    assert served.outcomes() == {"completed": 8}
    assert served.read("batchserve_rows_total") == sum(1 + number % 3 for number in range(8))
    assert served.read("batchserve_inflight_requests") == 0
    runs = served.read("batchserve_executions_total", outcome="ok")
    assert runs == served.read("batchserve_batch_rows_count")
    assert runs == served.read("batchserve_execution_duration_seconds_count")
    assert served.read("batchserve_request_duration_seconds_count") == 8
    entry = served.statistics.entry(served.repository.get("digits"))
    assert entry["inference_count"] == served.read("batchserve_rows_total")
    assert entry["execution_count"] == runs
    stats = entry["inference_stats"]
    assert stats["success"]["count"] == 8
    assert stats["success"]["ns"] / 1e9 == pytest.approx(
        served.read("batchserve_request_duration_seconds_sum"), abs=1e-5
    )
    assert stats["queue"]["ns"] / 1e9 == pytest.approx(served.read("batchserve_queue_duration_seconds_sum"), abs=1e-5)
    phases = {phase: served.read("batchserve_request_phase_seconds_total", phase=phase) for phase in PHASES}
    assert phases["encode"] > 0
    assert sum(phases.values()) - phases["encode"] == pytest.approx(
        served.read("batchserve_request_duration_seconds_sum"), abs=1e-5
    )


async def test_requests_in_flight_are_on_the_page_while_they_wait_and_run(served: Served) -> None:
    served.backend.gate = threading.Event()
    before = len(served.backend.runs)
    requests = [request(rows=4) for _ in range(4)]
    clients = asyncio.create_task(served.ask(requests))
    await asyncio.to_thread(served.backend.wait_for_runs, before + 2)
    assert served.read("batchserve_inflight_requests") == 4
    assert served.read("batchserve_queue_requests") == 2
    assert served.read("batchserve_queue_rows") == 8
    assert served.read("batchserve_queue_limit_rows") == 16
    assert served.read("batchserve_queue_oldest_age_seconds") > 0
    assert served.read("batchserve_instances") == 2
    (refused,) = await served.ask([request(rows=12)])
    assert isinstance(refused, RequestError)
    assert served.read("batchserve_requests_refused_total", reason="queue") == 1
    served.backend.gate.set()
    await clients
    assert served.outcomes() == {"completed": 4, "refused": 1}
    assert served.read("batchserve_requests_received_total") == 5


async def test_each_way_to_end_is_counted_once(served: Served) -> None:
    served.backend.fails = lambda inputs: bool((inputs[0] == 13).any())
    answers = await served.ask([request(13), request(1), request(2), request(3, timeout_s=0.0)])
    assert [isinstance(answer, RequestError) for answer in answers] == [True, False, False, True]
    served.backend.gate = threading.Event()
    before = len(served.backend.runs)
    left = asyncio.create_task(served.repository.get("digits").infer(request()))
    await asyncio.to_thread(served.backend.wait_for_runs, before + 1)
    left.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await left
    served.backend.gate.set()
    served.repository.get("digits").count_invalid()
    assert served.outcomes() == {"completed": 2, "failed": 1, "expired": 1, "cancelled": 1, "invalid": 1}
    assert served.read("batchserve_requests_received_total") == 6
    assert served.read("batchserve_batches_total", reason="isolate") > 0
    fail = served.statistics.entry(served.repository.get("digits"))["inference_stats"]["fail"]
    assert fail["count"] == 1  # what was turned away at the door never reached the model


async def test_totals_go_on_over_a_reload_and_while_the_old_object_drains(served: Served) -> None:
    await served.ask([request() for _ in range(3)])
    gate = served.backend.gate = threading.Event()
    before = len(served.backend.runs)
    slow = asyncio.create_task(served.ask([request()]))
    await asyncio.to_thread(served.backend.wait_for_runs, before + 1)
    served.backend.gate = None  # the run that was begun still waits at the old gate
    await served.repository.load("digits")
    await served.ask([request() for _ in range(2)])
    assert served.outcomes() == {"completed": 5}
    assert served.read("batchserve_inflight_requests") == 1
    gate.set()
    await slow
    assert served.outcomes() == {"completed": 6}
    assert served.read("batchserve_requests_received_total") == 6
    assert served.read("batchserve_request_duration_seconds_count") == 6
    stats = served.statistics.entry(served.repository.get("digits"))["inference_stats"]
    assert stats["success"]["count"] == 6


async def test_states_follow_the_repository(served: Served) -> None:
    assert served.read("batchserve_model_state", state="READY") == 1
    served.backend.load_error = "broken"
    with pytest.raises(ModelLoadError):
        await served.repository.load("digits")
    assert served.read("batchserve_model_state", state="READY") == 1
    assert served.read("batchserve_model_loads_total", outcome="ok") == 1
    assert served.read("batchserve_model_loads_total", outcome="failed") == 1
    await served.repository.unload("digits")
    assert served.read("batchserve_model_state", state="READY") == 0
    with pytest.raises(ModelLoadError):
        await served.repository.load("digits")
    assert served.read("batchserve_model_state", state="UNAVAILABLE") == 1
