"""The numbers of a model version, through loads, reloads and unloads."""

from __future__ import annotations

import gc
import weakref

import pytest
from support.telemetry_fakes import FakeClock, FakeModel, batch, samples, value

from batchserve.backends.base import Build
from batchserve.core.counters import CUT_REASONS, REFUSAL_REASONS, Counters
from batchserve.engine.events import ModelState
from batchserve.engine.gauges import Gauges
from batchserve.telemetry.durations import SETTLE_NUMBERS
from batchserve.telemetry.families import BUILD_STATES, FAMILIES, OUTCOMES, PHASES
from batchserve.telemetry.metrics import Metrics
from batchserve.telemetry.series import KEEP_S

DIGITS = {"model": "digits", "version": "1"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics(clock: FakeClock) -> Metrics:
    return Metrics("1.31.1", clock)


def announce(metrics: Metrics, state: str, model: FakeModel | None = None, name: str = "digits") -> None:
    metrics.model_state(name, 1, state, "", model)  # type: ignore[arg-type]


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    return value(metrics.render()[0], name, **DIGITS, **labels)


def states(metrics: Metrics) -> dict[str, float | None]:
    names = (ModelState.LOADING, ModelState.READY, ModelState.UNLOADING, ModelState.UNAVAILABLE)
    return {name: read(metrics, "batchserve_model_state", state=name) for name in names}


def test_every_child_of_a_model_exists_at_zero_while_it_loads(metrics: Metrics) -> None:
    announce(metrics, ModelState.LOADING)
    for outcome in OUTCOMES:
        assert read(metrics, "batchserve_requests_total", outcome=outcome) == 0
    for reason in REFUSAL_REASONS:
        assert read(metrics, "batchserve_requests_refused_total", reason=reason) == 0
    for reason in CUT_REASONS:
        assert read(metrics, "batchserve_batches_total", reason=reason) == 0
    for outcome in ("ok", "failed"):
        assert read(metrics, "batchserve_executions_total", outcome=outcome) == 0
    assert read(metrics, "batchserve_instance_busy_seconds_total", slot="0") == 0
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.00025") == 0
    assert read(metrics, "batchserve_batch_rows_bucket", le="+Inf") == 0


def test_the_children_of_a_model_are_the_same_after_its_first_requests(metrics: Metrics) -> None:
    model = FakeModel(instances=2)
    announce(metrics, ModelState.READY, model)
    before = samples(metrics.render()[0]).keys()
    metrics.batch_ended(model, batch(3, instance=1))  # type: ignore[arg-type]
    model.counters.completed = 3
    assert {name for name, _ in samples(metrics.render()[0])} == {name for name, _ in before}
    assert set(samples(metrics.render()[0])) == set(before)


def test_every_family_with_a_model_label_has_samples_for_a_loading_model(metrics: Metrics) -> None:
    announce(metrics, ModelState.LOADING)
    named = {family.name for family in metrics.registry.collect() if any("model" in s.labels for s in family.samples)}
    expected = {family.name.removesuffix("_total") for family in FAMILIES if "model" in family.labels}
    of_what_is_loaded = {
        "batchserve_model_build_state",
        "batchserve_model_provider_info",
        "batchserve_model_latency_target_seconds",
        "batchserve_slot_time_ratio",
    }
    assert named == expected - of_what_is_loaded


def test_counters_show_what_the_model_counted(metrics: Metrics) -> None:
    counters = Counters(received=100, completed=40, late=3, invalid=5, expired=6, cancelled=7, failed=8, rows=55)
    counters.refused.update(queue=20, drain=9)
    counters.batches.update(full=4, idle=11)
    counters.executions, counters.failed_executions = 14, 1
    announce(metrics, ModelState.READY, FakeModel(counters=counters, queued_requests=2, running_requests=3))
    by_outcome = {outcome: read(metrics, "batchserve_requests_total", outcome=outcome) for outcome in OUTCOMES}
    assert by_outcome == {
        "completed": 40,
        "invalid": 5,
        "refused": 29,
        "expired": 6,
        "cancelled": 7,
        "failed": 8,
    }
    assert read(metrics, "batchserve_requests_received_total") == 100
    assert sum(filter(None, by_outcome.values())) + (read(metrics, "batchserve_inflight_requests") or 0) == 100
    assert read(metrics, "batchserve_requests_late_total") == 3
    assert read(metrics, "batchserve_requests_refused_total", reason="queue") == 20
    assert read(metrics, "batchserve_requests_refused_total", reason="drain") == 9
    assert read(metrics, "batchserve_batches_total", reason="idle") == 11
    assert read(metrics, "batchserve_rows_total") == 55
    assert read(metrics, "batchserve_executions_total", outcome="ok") == 14
    assert read(metrics, "batchserve_executions_total", outcome="failed") == 1


def test_a_batch_is_charged_to_every_duration_it_has(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch(3, rows=6))  # type: ignore[arg-type]
    page = metrics.render()[0]

    def of(name: str, **labels: str) -> float | None:
        return value(page, name, **DIGITS, **labels)

    assert of("batchserve_request_duration_seconds_count") == 3
    assert of("batchserve_request_duration_seconds_sum") == pytest.approx(3 * 0.020)
    assert of("batchserve_request_duration_seconds_bucket", le="0.016") == 0
    assert of("batchserve_request_duration_seconds_bucket", le="0.032") == 3
    assert of("batchserve_queue_duration_seconds_count") == 3
    assert of("batchserve_queue_duration_seconds_sum") == pytest.approx(3 * 0.002)
    assert of("batchserve_execution_duration_seconds_count") == 1
    assert of("batchserve_execution_duration_seconds_sum") == pytest.approx(0.010)
    assert of("batchserve_batch_rows_count") == 1
    assert of("batchserve_batch_rows_sum") == 6
    assert of("batchserve_batch_rows_bucket", le="4.0") == 0
    assert of("batchserve_batch_rows_bucket", le="8.0") == 1
    assert of("batchserve_gather_seconds_total") == pytest.approx(0.003)
    assert of("batchserve_scatter_seconds_total") == pytest.approx(0.004)
    assert of("batchserve_instance_busy_seconds_total", slot="0") == pytest.approx(0.017)


def test_busy_time_adds_up_by_slot_over_scrapes(metrics: Metrics) -> None:
    model = FakeModel(instances=2)
    announce(metrics, ModelState.READY, model)
    for slot in (0, 1, 1, 0, 0):
        metrics.batch_ended(model, batch(1, instance=slot))  # type: ignore[arg-type]
        metrics.render()
    assert read(metrics, "batchserve_instance_busy_seconds_total", slot="0") == pytest.approx(3 * 0.017)
    assert read(metrics, "batchserve_instance_busy_seconds_total", slot="1") == pytest.approx(2 * 0.017)


def test_a_clock_that_went_back_takes_nothing_off_any_total(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    backwards = batch(2, decode_s=-9.0, queue_s=-9.0, gather_s=-9.0, run_s=-9.0, scatter_s=-9.0)
    metrics.batch_ended(model, backwards)  # type: ignore[arg-type]
    assert not [name for name, number in samples(metrics.render()[0]).items() if number < 0]


def test_each_slot_tells_its_device_and_how_quick_that_is(metrics: Metrics) -> None:
    announce(metrics, ModelState.READY, FakeModel(instances=3, devices=(("cuda:1", 1.0), ("cuda:0", 3.5))))
    places = (("0", "cuda:1", 1.0), ("1", "cuda:0", 3.5), ("2", "cuda:1", 1.0))
    for slot, device, time_ratio in places:
        assert read(metrics, "batchserve_slot_time_ratio", slot=slot, device=device) == time_ratio


def test_a_failed_execution_keeps_its_instance_busy_and_nothing_else(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch(3, ok=False))  # type: ignore[arg-type]
    assert read(metrics, "batchserve_instance_busy_seconds_total", slot="0") == pytest.approx(0.017)
    assert read(metrics, "batchserve_execution_duration_seconds_count") == 0
    assert read(metrics, "batchserve_batch_rows_count") == 0
    assert read(metrics, "batchserve_gather_seconds_total") == 0
    assert read(metrics, "batchserve_request_duration_seconds_count") == 0


def test_a_run_whose_clients_all_left_counts_as_a_run_without_requests(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch(0, rows=4))  # type: ignore[arg-type]
    assert read(metrics, "batchserve_batch_rows_sum") == 4
    assert read(metrics, "batchserve_execution_duration_seconds_count") == 1
    assert read(metrics, "batchserve_request_duration_seconds_count") == 0


@pytest.mark.parametrize("requests", [0, 1, 32, 2 * SETTLE_NUMBERS])
def test_no_batch_is_lost_or_counted_twice_while_batches_are_kept_back(metrics: Metrics, requests: int) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    for _ in range(500):
        metrics.batch_ended(model, batch(requests))  # type: ignore[arg-type]
    assert read(metrics, "batchserve_execution_duration_seconds_count") == 500
    assert read(metrics, "batchserve_request_duration_seconds_count") == 500 * requests
    assert read(metrics, "batchserve_request_duration_seconds_count") == 500 * requests


def test_kept_batches_are_bounded_without_a_scrape(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    most = 0
    for _ in range(2000):
        metrics.batch_ended(model, batch(1))  # type: ignore[arg-type]
        most = max(most, metrics._series["digits", 1]._durations.kept)
    assert 1 < most <= SETTLE_NUMBERS


def test_gauges_show_the_queue_and_the_age_of_its_oldest_request(metrics: Metrics, clock: FakeClock) -> None:
    model = FakeModel(
        queued_rows=9, queued_requests=4, running_requests=2, oldest_arrival_s=998.5, instances=3, max_queue_size=77
    )
    announce(metrics, ModelState.READY, model)
    assert read(metrics, "batchserve_queue_rows") == 9
    assert read(metrics, "batchserve_queue_requests") == 4
    assert read(metrics, "batchserve_inflight_requests") == 6
    assert read(metrics, "batchserve_queue_oldest_age_seconds") == 1.5
    assert read(metrics, "batchserve_queue_limit_rows") == 77
    assert read(metrics, "batchserve_instances") == 3
    assert read(metrics, "batchserve_model_load_duration_seconds") == 0.5
    model.oldest_arrival_s = None
    assert read(metrics, "batchserve_queue_oldest_age_seconds") == 0


def test_exactly_one_state_is_one_at_every_step(metrics: Metrics) -> None:
    model = FakeModel()
    for state in (ModelState.LOADING, ModelState.READY, ModelState.UNLOADING, ModelState.UNAVAILABLE):
        announce(metrics, state, None if state == ModelState.LOADING else model)
        assert states(metrics) == {name: float(name == state) for name in states(metrics)}


def test_no_counter_goes_back_when_a_reload_replaces_the_model(metrics: Metrics) -> None:
    old = FakeModel(counters=Counters(received=10, completed=10, rows=12), running_requests=1)
    announce(metrics, ModelState.READY, old)
    metrics.batch_ended(old, batch(10))  # type: ignore[arg-type]
    new = FakeModel(instances=2, load_s=0.7)
    announce(metrics, ModelState.READY, new)
    assert read(metrics, "batchserve_requests_received_total") == 10
    new.counters.received = new.counters.completed = 1
    old.counters.received, old.counters.completed = 11, 11  # the old one still drains
    assert read(metrics, "batchserve_requests_received_total") == 12
    assert read(metrics, "batchserve_requests_total", outcome="completed") == 12
    assert read(metrics, "batchserve_inflight_requests") == 1
    assert read(metrics, "batchserve_request_duration_seconds_count") == 10
    assert read(metrics, "batchserve_instances") == 2
    assert read(metrics, "batchserve_model_load_duration_seconds") == 0.7


def test_sums_survive_objects_that_are_no_more(metrics: Metrics) -> None:
    for _ in range(5):
        announce(metrics, ModelState.READY, FakeModel(counters=Counters(received=10, completed=9, failed=1)))
        gc.collect()
    assert read(metrics, "batchserve_requests_received_total") == 50
    assert read(metrics, "batchserve_requests_total", outcome="failed") == 5


def test_a_replaced_model_is_not_kept_alive(metrics: Metrics) -> None:
    first, second = FakeModel(), FakeModel()
    references = [weakref.ref(first), weakref.ref(second)]
    announce(metrics, ModelState.READY, first)
    metrics.batch_ended(first, batch())  # type: ignore[arg-type]
    announce(metrics, ModelState.READY, second)
    announce(metrics, ModelState.UNAVAILABLE, second)
    del first, second
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_announcing_the_same_model_twice_does_not_count_it_twice(metrics: Metrics) -> None:
    model = FakeModel(counters=Counters(received=10))
    announce(metrics, ModelState.READY, model)
    announce(metrics, ModelState.READY, model)
    assert read(metrics, "batchserve_requests_received_total") == 10


def test_the_last_numbers_of_an_unloaded_model_are_shown_for_a_while_and_then_only_its_state(
    metrics: Metrics, clock: FakeClock
) -> None:
    model = FakeModel(counters=Counters(received=10), instances=2)
    announce(metrics, ModelState.READY, model)
    announce(metrics, ModelState.UNLOADING, model)
    announce(metrics, ModelState.UNAVAILABLE, model)
    model.counters.received = 11  # a straggler that had looked it up before
    clock.now += KEEP_S - 1
    assert read(metrics, "batchserve_requests_received_total") == 11
    assert read(metrics, "batchserve_instances") == 0
    assert read(metrics, "batchserve_queue_limit_rows") == 0
    clock.now += 1
    assert read(metrics, "batchserve_requests_received_total") is None
    assert states(metrics)[ModelState.UNAVAILABLE] == 1


def test_a_model_loaded_again_soon_goes_on_where_it_was(metrics: Metrics, clock: FakeClock) -> None:
    old = FakeModel(counters=Counters(received=10))
    announce(metrics, ModelState.READY, old)
    announce(metrics, ModelState.UNAVAILABLE, old)
    clock.now += KEEP_S - 1
    announce(metrics, ModelState.LOADING)
    clock.now += KEEP_S
    announce(metrics, ModelState.READY, FakeModel(counters=Counters(received=2)))
    assert read(metrics, "batchserve_requests_received_total") == 12


def test_a_model_loaded_again_after_its_series_ended_starts_at_zero(metrics: Metrics, clock: FakeClock) -> None:
    old = FakeModel(counters=Counters(received=10))
    announce(metrics, ModelState.READY, old)
    metrics.batch_ended(old, batch(4))  # type: ignore[arg-type]
    announce(metrics, ModelState.UNAVAILABLE, old)
    clock.now += KEEP_S
    announce(metrics, ModelState.LOADING)
    assert read(metrics, "batchserve_requests_received_total") == 0
    assert read(metrics, "batchserve_request_duration_seconds_count") == 0


def test_a_model_that_failed_to_load_shows_its_state(metrics: Metrics, clock: FakeClock) -> None:
    announce(metrics, ModelState.LOADING)
    announce(metrics, ModelState.UNAVAILABLE)
    assert states(metrics)[ModelState.UNAVAILABLE] == 1
    assert read(metrics, "batchserve_requests_received_total") == 0
    assert read(metrics, "batchserve_model_load_failed") == 1
    clock.now += 2 * KEEP_S
    assert read(metrics, "batchserve_model_load_failed") == 1
    announce(metrics, ModelState.LOADING)
    assert read(metrics, "batchserve_model_load_failed") == 0


def test_a_model_that_was_unloaded_has_not_failed(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    announce(metrics, ModelState.UNLOADING, model)
    announce(metrics, ModelState.UNAVAILABLE, model)
    assert read(metrics, "batchserve_model_load_failed") == 0


def test_versions_of_one_model_have_series_of_their_own(metrics: Metrics) -> None:
    one, two = FakeModel(version=1), FakeModel(version=2)
    one.counters.received, two.counters.received = 5, 7
    metrics.model_state("digits", 1, ModelState.READY, "", one)  # type: ignore[arg-type]
    metrics.model_state("digits", 2, ModelState.READY, "", two)  # type: ignore[arg-type]
    page = metrics.render()[0]
    assert value(page, "batchserve_requests_received_total", model="digits", version="1") == 5
    assert value(page, "batchserve_requests_received_total", model="digits", version="2") == 7


def phases(metrics: Metrics) -> dict[str, float]:
    return {phase: read(metrics, "batchserve_request_phase_seconds_total", phase=phase) or 0.0 for phase in PHASES}


def test_the_phases_of_a_request_add_up_to_its_duration_and_writing_comes_on_top(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch(3, rows=6))  # type: ignore[arg-type]
    metrics.batch_ended(model, batch(1, run_s=0.5))  # type: ignore[arg-type]
    found = phases(metrics)
    assert found == {
        "decode": pytest.approx(4 * 0.001),
        "queue": pytest.approx(4 * 0.002),
        "hold": 0,
        "gather": pytest.approx(4 * 0.003),
        "run": pytest.approx(3 * 0.010 + 0.5),
        "scatter": pytest.approx(4 * 0.004),
        "encode": pytest.approx(2 * 0.005),  # a batch's answers are written one after the other: each has its share
    }
    total = read(metrics, "batchserve_request_duration_seconds_sum")
    assert sum(found.values()) - found["encode"] == pytest.approx(total)


def test_a_hold_is_no_longer_than_what_a_request_waited_and_is_taken_off_its_queueing(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch(1, queue_s=0.010, held_s=0.004))  # type: ignore[arg-type]
    metrics.batch_ended(model, batch(1, queue_s=0.001, held_s=0.004))  # type: ignore[arg-type]  # came during the hold
    found = phases(metrics)
    assert found["hold"] == pytest.approx(0.004 + 0.001)
    assert found["queue"] == pytest.approx(0.006)


def test_a_failed_run_and_one_without_clients_are_in_no_phase(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch(3, ok=False))  # type: ignore[arg-type]
    metrics.batch_ended(model, batch(0, rows=4))  # type: ignore[arg-type]
    assert set(phases(metrics).values()) == {0.0}


def test_the_latency_target_is_an_exact_bucket_whose_bound_the_gauge_names(metrics: Metrics) -> None:
    model = FakeModel(latency_target_s=0.025)
    announce(metrics, ModelState.READY, model)
    for run_s in (0.010, 0.014, 0.016, 0.100):  # and 10 ms of everything else
        metrics.batch_ended(model, batch(run_s=run_s))  # type: ignore[arg-type]
    assert read(metrics, "batchserve_model_latency_target_seconds", threshold="0.025") == 0.025
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.025") == 2
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.032") == 3


def test_a_reload_with_another_target_moves_the_bucket_and_takes_nothing_back(metrics: Metrics) -> None:
    model = FakeModel(latency_target_s=0.025)
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch())  # type: ignore[arg-type]  # kept back, of 20 ms
    announce(metrics, ModelState.READY, FakeModel(latency_target_s=0.05))
    assert read(metrics, "batchserve_model_latency_target_seconds", threshold="0.025") is None
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.025") is None
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.032") == 1
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.05") == 1
    announce(metrics, ModelState.READY, FakeModel())
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.05") is None


def test_a_target_changed_while_the_model_serves_moves_the_bucket_too(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    model.latency_target_s = 0.05
    assert read(metrics, "batchserve_request_duration_seconds_bucket", le="0.05") == 0
    assert read(metrics, "batchserve_model_latency_target_seconds", threshold="0.05") == 0.05


def test_loads_are_counted_also_those_that_changed_nothing(metrics: Metrics) -> None:
    announce(metrics, ModelState.READY, FakeModel())
    metrics.load_ended("digits", 1, ok=True)
    metrics.load_ended("digits", 1, ok=False)
    metrics.load_ended("digits", 1, ok=False)
    assert read(metrics, "batchserve_model_loads_total", outcome="ok") == 1
    assert read(metrics, "batchserve_model_loads_total", outcome="failed") == 2


def test_the_provider_in_use_is_named_while_the_model_serves(metrics: Metrics) -> None:
    announce(metrics, ModelState.READY, FakeModel(provider="CUDAExecutionProvider"))
    assert read(metrics, "batchserve_model_provider_info", provider="CUDAExecutionProvider") == 1
    announce(metrics, ModelState.UNAVAILABLE)
    assert read(metrics, "batchserve_model_provider_info", provider="CUDAExecutionProvider") is None


def test_a_build_beside_the_serving_is_in_one_state_and_without_one_there_is_none(metrics: Metrics) -> None:
    model = FakeModel(build=Build("building", "tensorrt is being built"))
    announce(metrics, ModelState.READY, model)
    seen = {state: read(metrics, "batchserve_model_build_state", state=state) for state in BUILD_STATES}
    assert seen == {"waiting": 0, "building": 1, "swapped": 0, "refused": 0, "failed": 0, "declined": 0}
    model.build = Build("refused", "tensorrt is not used: it is slower", 7.5)
    assert read(metrics, "batchserve_model_build_state", state="building") == 0
    assert read(metrics, "batchserve_model_build_state", state="refused") == 1
    assert read(metrics, "batchserve_model_build_seconds") == 7.5
    model.build = None
    assert read(metrics, "batchserve_model_build_state", state="refused") is None


def test_new_starts_of_a_models_process_are_counted(metrics: Metrics) -> None:
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    assert read(metrics, "batchserve_model_worker_restarts_total") == 0
    model.worker_restarts = 3
    assert read(metrics, "batchserve_model_worker_restarts_total") == 3


def test_a_traced_request_is_the_exemplar_of_its_bucket_in_openmetrics_only(metrics: Metrics) -> None:
    model, trace = FakeModel(), "4bf92f3577b34da6a3ce929d0e0e4736"
    announce(metrics, ModelState.READY, model)
    metrics.batch_ended(model, batch(2, trace_ids=["", trace]))  # type: ignore[arg-type]
    metrics.batch_ended(model, batch(2))  # type: ignore[arg-type]
    openmetrics, _ = metrics.render("application/openmetrics-text;version=1.0.0")
    marked = [line for line in openmetrics.decode().splitlines() if trace in line]
    (line,) = marked
    assert line.startswith('batchserve_request_duration_seconds_bucket{le="0.032",model="digits",version="1"} 4.0 # {')
    assert trace.encode() not in metrics.render()[0]


def test_holds_predictions_padding_and_costs_by_size_come_from_the_batches(metrics: Metrics) -> None:
    """10 ms runs; from cut to return 20 ms, of which 16.5 and then 42 ms were expected."""
    model = FakeModel()
    announce(metrics, ModelState.READY, model)
    for rows, expected_s, held_s in ((5, 0.0165, 0.002), (7, 0.042, 0.0)):
        event = batch(rows, predicted_s=expected_s, held_s=held_s, cut_s=999.997, padded_share=0.12)
        metrics.batch_ended(model, event)  # type: ignore[arg-type]
    metrics.batch_ended(model, batch(5, ok=False, predicted_s=1.0, held_s=0.004, cut_s=999.0))  # type: ignore[arg-type]
    assert read(metrics, "batchserve_hold_duration_seconds_count") == 2
    assert read(metrics, "batchserve_hold_duration_seconds_sum") == pytest.approx(0.006)
    assert read(metrics, "batchserve_prediction_ratio_bucket", le="0.5") == 1
    assert read(metrics, "batchserve_prediction_ratio_bucket", le="1.1") == 1
    assert read(metrics, "batchserve_prediction_ratio_bucket", le="1.25") == 2
    assert read(metrics, "batchserve_padding_ratio_bucket", le="0.1") == 0
    assert read(metrics, "batchserve_padding_ratio_bucket", le="0.15") == 2
    size = "batchserve_execution_size_duration_seconds"
    assert [read(metrics, f"{size}_count", rows=rows) for rows in ("4", "6", "8")] == [1, 1, 0]
    assert read(metrics, f"{size}_sum", rows="4") == pytest.approx(0.010)
    assert read(metrics, f"{size}_count", rows="12") is None


def test_refusal_delays_are_those_the_model_counted_and_outlive_it(metrics: Metrics) -> None:
    model = FakeModel()
    for delay_s in (0.0001, 0.00025, 0.0003, 500.0):
        model.counters.note_refusal(delay_s)
    announce(metrics, ModelState.READY, model)
    announce(metrics, ModelState.READY, FakeModel())
    name = "batchserve_refusal_duration_seconds"
    assert [read(metrics, f"{name}_bucket", le=le) for le in ("0.00025", "0.0005", "65.536", "+Inf")] == [2, 3, 3, 4]
    assert read(metrics, f"{name}_sum") == pytest.approx(500.00065)


def test_gauges_of_the_scheduler_are_those_of_the_model_that_serves(metrics: Metrics) -> None:
    state = Gauges(
        useful_rows=24,
        sustaining_rows=7,
        needed_rows=5,
        rows_per_second=321.5,
        row_s=0.002,
        batch_s=0.009,
        upper_factor=1.1,
        share=0.75,
        is_overloaded=True,
        target_s=0.05,
        smallest_target_s=0.06,
        is_attainable=False,
        idle_s=0.004,
    )
    announce(metrics, ModelState.READY, FakeModel(state=state))
    shown = {
        "useful_batch_rows": 24,
        "sustaining_batch_rows": 7,
        "needed_batch_rows": 5,
        "arrival_rate": 321.5,
        "expected_row_seconds": 0.002,
        "expected_batch_seconds": 0.009,
        "expected_upper_ratio": 1.1,
        "device_share_ratio": 0.75,
        "overloaded": 1,
        "latency_target_smallest_seconds": 0.06,
        "latency_target_attainable": 0,
        "idle_while_queued_seconds": 0.004,
    }
    assert {name: read(metrics, f"batchserve_{name}") for name in shown} == shown
    announce(metrics, ModelState.UNAVAILABLE)
    assert read(metrics, "batchserve_useful_batch_rows") == 0
