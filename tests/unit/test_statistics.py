"""The numbers of `/v2/models/…/stats`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.telemetry_fakes import FakeModel, batch

from batchserve.engine.events import RequestsEnded
from batchserve.telemetry.statistics import Statistics

DURATIONS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
MS = 1_000_000


class WallClock:
    def __init__(self) -> None:
        self.now = 1_760_000_000.123

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall_clock() -> WallClock:
    return WallClock()


@pytest.fixture
def statistics(wall_clock: WallClock) -> Statistics:
    return Statistics(wall_clock)


def entry(statistics: Statistics, model: FakeModel | None = None) -> dict[str, Any]:
    return statistics.entry(model or FakeModel())  # type: ignore[arg-type]


def hear(statistics: Statistics, event: object, model: FakeModel | None = None) -> None:
    listen = statistics.requests_ended if isinstance(event, RequestsEnded) else statistics.batch_ended
    listen(model or FakeModel(), event)  # type: ignore[arg-type]


def test_a_model_that_was_never_asked_has_every_member_at_zero(statistics: Statistics) -> None:
    assert entry(statistics, FakeModel(name="resize", version=3)) == {
        "name": "resize",
        "version": "3",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {name: {"count": 0, "ns": 0} for name in DURATIONS},
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def test_each_request_is_charged_the_full_durations_of_its_batch(statistics: Statistics) -> None:
    hear(statistics, batch(3, rows=4))
    stats = entry(statistics)["inference_stats"]
    approximate = {name: (each["count"], round(each["ns"] / 1e5)) for name, each in stats.items()}
    assert approximate == {
        "success": (3, 600),
        "fail": (0, 0),
        "queue": (3, 60),
        "compute_input": (3, 90),
        "compute_infer": (3, 300),
        "compute_output": (3, 120),
        "cache_hit": (0, 0),
        "cache_miss": (0, 0),
    }


def test_executions_are_counted_once_per_batch_by_size_in_ascending_order(statistics: Statistics) -> None:
    for rows in (8, 2, 8, 16):
        hear(statistics, batch(2, rows=rows))
    found = entry(statistics)
    assert found["execution_count"] == 4
    assert [(each["batch_size"], each["compute_infer"]["count"]) for each in found["batch_stats"]] == [
        (2, 1),
        (8, 2),
        (16, 1),
    ]
    eight = found["batch_stats"][1]
    assert {name: round(each["ns"] / MS) for name, each in eight.items() if name != "batch_size"} == {
        "compute_input": 6,
        "compute_infer": 20,
        "compute_output": 8,
    }


def test_rows_are_counted_as_inferences(statistics: Statistics) -> None:
    event = batch(2, rows=10)
    object.__setattr__(event, "completed_rows", 7)  # three of its rows were of clients that left
    hear(statistics, event)
    assert entry(statistics)["inference_count"] == 7


def test_a_failed_execution_changes_nothing(statistics: Statistics) -> None:
    before = entry(statistics)
    hear(statistics, batch(3, ok=False))
    assert entry(statistics) == before


@pytest.mark.parametrize("outcome", ["failed", "expired", "refused"])
def test_an_admitted_request_without_an_answer_touches_only_fail(statistics: Statistics, outcome: str) -> None:
    hear(statistics, batch(2))
    before = entry(statistics)
    hear(statistics, RequestsEnded(outcome, [999.0, 999.5], 1000.0))
    after = entry(statistics)
    assert after["inference_stats"].pop("fail") == {"count": 2, "ns": 1_500_000_000}
    assert before["inference_stats"].pop("fail") == {"count": 0, "ns": 0}
    assert after == before


def test_a_client_that_left_is_no_failure(statistics: Statistics) -> None:
    hear(statistics, RequestsEnded("cancelled", [999.0], 1000.0))
    assert entry(statistics)["inference_stats"]["fail"] == {"count": 0, "ns": 0}


def test_a_run_that_nobody_waited_for_counts_as_an_execution_only(statistics: Statistics) -> None:
    hear(statistics, batch(0, rows=4))
    found = entry(statistics)
    assert (found["execution_count"], found["inference_count"]) == (1, 0)
    assert found["batch_stats"][0]["batch_size"] == 4
    assert found["inference_stats"]["compute_infer"] == {"count": 0, "ns": 0}


def test_a_clock_that_went_back_takes_nothing_off_any_duration(statistics: Statistics) -> None:
    hear(statistics, batch(2, decode_s=-9.0, queue_s=-9.0, gather_s=-9.0, run_s=-9.0, scatter_s=-9.0))
    hear(statistics, RequestsEnded("failed", [1000.0], 999.0))
    found = entry(statistics)["inference_stats"]
    assert {each["ns"] for each in found.values()} == {0}
    assert (found["success"]["count"], found["fail"]["count"]) == (2, 1)


def test_last_inference_is_wall_clock_time_in_milliseconds(statistics: Statistics, wall_clock: WallClock) -> None:
    hear(statistics, batch())
    assert entry(statistics)["last_inference"] == 1_760_000_000_123
    wall_clock.now += 2
    hear(statistics, batch(ok=False))
    assert entry(statistics)["last_inference"] == 1_760_000_000_123
    hear(statistics, batch())
    assert entry(statistics)["last_inference"] == 1_760_000_002_123


def test_numbers_go_on_when_a_reload_replaces_the_model(statistics: Statistics) -> None:
    old, new = FakeModel(), FakeModel()
    hear(statistics, batch(3), old)
    hear(statistics, batch(2), new)
    hear(statistics, batch(1), old)  # the old one drains
    assert entry(statistics, new)["inference_stats"]["success"]["count"] == 6


def test_versions_and_models_are_kept_apart(statistics: Statistics) -> None:
    hear(statistics, batch(3), FakeModel(version=1))
    hear(statistics, batch(2), FakeModel(version=2))
    hear(statistics, batch(1), FakeModel(name="other"))
    counts = [
        entry(statistics, model)["inference_stats"]["success"]["count"]
        for model in (FakeModel(version=1), FakeModel(version=2), FakeModel(name="other"))
    ]
    assert counts == [3, 2, 1]


def test_an_entry_is_a_snapshot(statistics: Statistics) -> None:
    hear(statistics, batch(3))
    before = entry(statistics)
    text = json.dumps(before)
    hear(statistics, batch(3))
    assert json.dumps(before) == text


def test_an_entry_is_of_plain_json_types(statistics: Statistics) -> None:
    hear(statistics, batch(3))
    found = entry(statistics)
    assert json.loads(json.dumps(found)) == found
