"""Statistics and histograms agree with the plain sums, whatever the durations are."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.telemetry_fakes import FakeModel, samples

from batchserve.engine.events import BatchEnded, ModelState, RequestsEnded
from batchserve.telemetry.histogram import DURATION_BOUNDS
from batchserve.telemetry.metrics import Metrics
from batchserve.telemetry.statistics import Statistics

# From a machine that has just been switched on to one that has been up for three years.
moments = st.floats(0, 1e8, allow_nan=False)
durations = st.one_of(st.just(0.0), st.floats(0, 1e-6), st.floats(0, 100))


@st.composite
def batches(draw: st.DrawFn) -> BatchEnded:
    start_s = draw(moments)
    run_start_s = start_s + draw(durations)
    run_end_s = run_start_s + draw(durations)
    done_s = run_end_s + draw(durations)
    waits = draw(st.lists(st.tuples(durations, durations), max_size=8))
    admissions_s = [start_s - queue_s for queue_s, _ in waits]
    return BatchEnded(
        rows=draw(st.integers(1, 8)) + len(waits),
        requests=len(waits),
        reason="full",
        instance=draw(st.integers(0, 3)),
        ok=True,
        start_s=start_s,
        run_start_s=run_start_s,
        run_end_s=run_end_s,
        done_s=done_s,
        arrivals_s=[at - decode_s for at, (_, decode_s) in zip(admissions_s, waits, strict=True)],
        admissions_s=admissions_s,
        completed_rows=len(waits),
        late=0,
    )


failures = st.builds(
    lambda outcome, ended_s, ages: RequestsEnded(outcome, [ended_s - age for age in ages], ended_s),
    st.sampled_from(["failed", "expired", "refused", "cancelled"]),
    moments,
    st.lists(durations, max_size=4),
)

COMPUTES = ("compute_input", "compute_infer", "compute_output")


def flat(value: Any, path: str = "") -> dict[str, int]:
    """Every integer of an entry by its path; batch sizes by their size, as positions change when one is added."""
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in flat(item, f"{path}/{name}").items()}
    if isinstance(value, list):
        return {
            k: v for item in value for k, v in flat({**item, "batch_size": 0}, f"{path}/{item['batch_size']}").items()
        }
    return {path: value} if isinstance(value, int) else {}


@given(st.lists(st.one_of(batches(), failures), max_size=12))
def test_statistics_keep_their_invariants_after_every_event(events: list[BatchEnded | RequestsEnded]) -> None:
    """Compute counts never differ, success covers its phases, nothing goes back: perf_analyzer relies on each."""
    statistics, model = Statistics(lambda: 1.0), FakeModel()
    before: dict[str, int] = {}
    requests = 0
    for event in events:
        if isinstance(event, BatchEnded):
            statistics.batch_ended(model, event)  # type: ignore[arg-type]
            requests += len(event.arrivals_s)
        else:
            statistics.requests_ended(model, event)  # type: ignore[arg-type]
        entry = statistics.entry(model)  # type: ignore[arg-type]
        stats = entry["inference_stats"]
        assert {stats[name]["count"] for name in ("success", "queue", *COMPUTES)} == {requests}
        assert stats["success"]["ns"] >= stats["queue"]["ns"] + sum(stats[name]["ns"] for name in COMPUTES)
        sizes = [each["batch_size"] for each in entry["batch_stats"]]
        assert sizes == sorted(set(sizes))
        assert sum(each["compute_infer"]["count"] for each in entry["batch_stats"]) == entry["execution_count"]
        after = flat(entry)
        assert all(after[path] >= number for path, number in before.items())
        before = after


@given(st.lists(batches(), max_size=8))
def test_statistics_are_the_sums_of_the_durations(events: list[BatchEnded]) -> None:
    statistics, model = Statistics(lambda: 1.0), FakeModel()
    for event in events:
        statistics.batch_ended(model, event)  # type: ignore[arg-type]
    stats = statistics.entry(model)["inference_stats"]  # type: ignore[arg-type]
    # Cutting to whole ns loses less than 1 ns per phase and request; a float of 1e8 s resolves 15 ns, three per sum.
    tolerance = 60.0 * sum(1 + len(event.arrivals_s) for event in events) + 1
    assert stats["success"]["ns"] == pytest.approx(
        sum((e.done_s - arrival_s) * 1e9 for e in events for arrival_s in e.arrivals_s), abs=tolerance, rel=1e-9
    )
    assert stats["queue"]["ns"] == pytest.approx(
        sum((e.start_s - admitted_s) * 1e9 for e in events for admitted_s in e.admissions_s), abs=tolerance, rel=1e-9
    )
    assert stats["compute_infer"]["ns"] == pytest.approx(
        sum((e.run_end_s - e.run_start_s) * 1e9 * len(e.arrivals_s) for e in events), abs=tolerance, rel=1e-9
    )


@given(st.lists(batches(), max_size=8))
def test_histograms_put_every_request_into_its_bucket(events: list[BatchEnded]) -> None:
    metrics, model = Metrics(), FakeModel()
    metrics.model_state("digits", 1, ModelState.READY, "", model)  # type: ignore[arg-type]
    for event in events:
        metrics.batch_ended(model, event)  # type: ignore[arg-type]
    found = samples(metrics.render()[0])
    for name, values in {
        "batchserve_request_duration_seconds": [e.done_s - at_s for e in events for at_s in e.arrivals_s],
        "batchserve_queue_duration_seconds": [e.start_s - at_s for e in events for at_s in e.admissions_s],
        "batchserve_execution_duration_seconds": [e.run_end_s - e.run_start_s for e in events],
    }.items():
        counts = [0] * (len(DURATION_BOUNDS) + 1)
        for value in values:
            counts[bisect_left(DURATION_BOUNDS, value)] += 1
        labels = {("model", "digits"), ("version", "1")}
        total = 0
        for bound, count in zip((*map(str, DURATION_BOUNDS), "+Inf"), counts, strict=True):
            total += count
            assert found[f"{name}_bucket", frozenset(labels | {("le", bound)})] == total
        assert found[f"{name}_sum", frozenset(labels)] == pytest.approx(sum(values), abs=1e-6)
