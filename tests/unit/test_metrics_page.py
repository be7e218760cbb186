"""The page that `/metrics` answers."""

from __future__ import annotations

import platform

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.telemetry_fakes import FakeClock, FakeModel, batch, value

import batchserve
from batchserve.engine.events import ModelState
from batchserve.telemetry.families import FAMILIES
from batchserve.telemetry.metrics import Metrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OURS = "batchserve_"


def busy_metrics(names: tuple[str, ...] = ("digits",)) -> Metrics:
    metrics = Metrics("1.31.1", FakeClock())
    for name in names:
        model = FakeModel(name=name)
        model.counters.received = model.counters.completed = 3
        metrics.model_state(name, 1, ModelState.READY, "", model)  # type: ignore[arg-type]
        metrics.batch_ended(model, batch(3))  # type: ignore[arg-type]
    metrics.observe_lag(0.003)
    return metrics


def own_lines(page: bytes) -> list[str]:
    return [line for line in page.decode().splitlines() if OURS in line]


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=0.0.4", "application/json"])
def test_the_page_is_prometheus_text_unless_openmetrics_is_asked_for(accept: str) -> None:
    page, content_type = busy_metrics().render(accept)
    assert content_type == TEXT
    families = {family.name: family for family in parse_text(page.decode())}
    assert families["batchserve_requests"].type == "counter"
    assert families["batchserve_request_duration_seconds"].type == "histogram"


def test_a_prometheus_server_gets_openmetrics() -> None:
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
    page, content_type = busy_metrics().render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert page.endswith(b"# EOF\n")
    units = {family.name: family.unit for family in parse_openmetrics(page.decode())}
    assert units["batchserve_request_duration_seconds"] == "seconds"
    assert units["batchserve_batch_rows"] == "rows"


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "application/openmetrics-text;version=1.x",
        "text/plain;version=",
        "text/plain;version=one",
        "application/openmetrics-text;version=1.0.0\udcff",
        "application/openmetrics-text;version=1.0.0.é",
        f"application/openmetrics-text;version={'9' * 5000}",
        ",,;;=,",
    ],
)
def test_an_odd_accept_header_gets_a_page_all_the_same(accept: str) -> None:
    page, content_type = busy_metrics().render(accept)
    assert b"batchserve_requests_total" in page
    content_type.encode("ascii")


def test_each_family_stands_once_with_its_type_and_help() -> None:
    lines = own_lines(busy_metrics(("a", "b")).render()[0])
    for family in FAMILIES:
        kind = "gauge" if family.kind == "info" else family.kind
        assert lines.count(f"# TYPE {family.name} {kind}") == 1
        assert lines.count(f"# HELP {family.name} {family.text}") == 1


def test_the_page_does_not_depend_on_the_order_of_loading_nor_on_earlier_scrapes() -> None:
    one, other = busy_metrics(("a", "b", "c")), busy_metrics(("c", "a", "b"))
    first = own_lines(one.render()[0])
    assert own_lines(one.render()[0]) == first
    assert own_lines(other.render()[0]) == first


def test_a_model_name_may_be_anything_a_folder_may_be_called() -> None:
    for name in ('quo"te', "back\\slash", "new\nline", "ünïcode", "not-utf8-\udcff"):
        page, _ = busy_metrics((name,)).render()
        names = {
            sample.labels["model"]
            for family in parse_text(page.decode())
            for sample in family.samples
            if "model" in sample.labels
        }
        assert names == {name.replace("\udcff", "\\udcff")}


def test_build_info_names_the_versions_in_use() -> None:
    page, _ = busy_metrics().render()
    versions = {"version": batchserve.__version__, "python": platform.python_version(), "onnxruntime": "1.31.1"}
    assert value(page, "batchserve_build_info", **versions) == 1


def test_loop_lag_is_a_histogram_and_its_recent_maximum() -> None:
    clock = FakeClock()
    metrics = Metrics(clock=clock)
    assert value(metrics.render()[0], "batchserve_event_loop_lag_seconds_count") == 0
    metrics.observe_lag(0.25)
    metrics.observe_lag(0.003)
    page, _ = metrics.render()
    assert value(page, "batchserve_event_loop_lag_seconds_count") == 2
    assert value(page, "batchserve_event_loop_lag_seconds_bucket", le="0.004") == 1
    assert value(page, "batchserve_event_loop_lag_max_seconds") == 0.25
    clock.now += 600
    assert value(metrics.render()[0], "batchserve_event_loop_lag_max_seconds") == 0


def test_http_numbers_are_asked_for_at_each_scrape_and_absent_before() -> None:
    metrics = Metrics()
    assert value(metrics.render()[0], "batchserve_http_connections") is None
    responses = {"2xx": 7}
    metrics.watch_http(lambda: responses, lambda: {"http_connections": 3, "http_inflight_bytes": 4096})
    page, _ = metrics.render()
    assert value(page, "batchserve_http_responses_total", status="2xx") == 7
    assert value(page, "batchserve_http_responses_total", status="5xx") == 0
    assert value(page, "batchserve_http_connections") == 3
    assert value(page, "batchserve_http_inflight_bytes") == 4096
    responses["5xx"] = 1
    assert value(metrics.render()[0], "batchserve_http_responses_total", status="5xx") == 1


def test_the_process_and_the_interpreter_are_on_the_page() -> None:
    page, _ = Metrics().render()
    assert b"python_info{" in page
    assert b"python_gc_collections_total{" in page
    if platform.system() == "Linux":
        assert (value(page, "process_resident_memory_bytes") or 0) > 1 << 20


def test_servers_in_one_process_share_nothing() -> None:
    one, other = busy_metrics(("a",)), busy_metrics(("b",))
    assert b'model="b"' not in one.render()[0]
    assert b'model="a"' not in other.render()[0]
    assert not [family for family in REGISTRY.collect() if family.name.startswith(OURS)]
