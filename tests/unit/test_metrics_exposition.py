"""Pages of metrics: exactly what prometheus-client would write, in less time."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest as text_of
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_of
from support.telemetry_fakes import FakeModel, batch, full_metrics

from batchserve.engine.events import ModelState
from batchserve.telemetry import exposition
from batchserve.telemetry.exposition import PageWriter

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class Frozen:
    """A registry of what was collected once, so that two writers get the same."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = metrics

    def collect(self) -> list[Metric]:
        return self.metrics


def everything(*names: str) -> Frozen:
    metrics = full_metrics()
    for number, name in enumerate(names):
        model = FakeModel(name=name)
        model.counters.received = 10**number
        metrics.model_state(name, 1, ModelState.READY, "", model)  # type: ignore[arg-type]
        metrics.batch_ended(model, batch(2, trace_ids=["ab" * 16, ""]))  # type: ignore[arg-type]
    return Frozen(list(metrics.registry.collect()))


@pytest.mark.parametrize("turn", ["first", "again"])
def test_pages_are_byte_for_byte_those_of_the_library(turn: str) -> None:
    frozen, writer = (
        everything("a", 'quo"te', "back\\slash", "new\nline", "ünïcode", *(f"m{n}" for n in range(12))),
        PageWriter(),
    )
    if turn == "again":  # from what is remembered
        writer.write(frozen.metrics, is_openmetrics=False)
    assert writer.write(frozen.metrics, is_openmetrics=False) == text_of(frozen)  # type: ignore[arg-type]
    assert writer.write(frozen.metrics, is_openmetrics=True) == openmetrics_of(frozen)  # type: ignore[arg-type]


def test_the_metrics_page_is_written_so() -> None:
    metrics = full_metrics()
    page, content_type = metrics.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert page.endswith(b"# EOF\n")


@pytest.mark.parametrize("value", [0, 1, -2.5, 1e-9, 123456789.0, 1e21, math.inf, -math.inf, math.nan, True])
def test_values_are_written_as_go_does(value: float) -> None:
    metric = GaugeMetricFamily("g", 'help with "quotes" and \\', labels=["one", "two"])
    metric.add_metric(["x", "y"], value)
    frozen = Frozen([metric])
    assert PageWriter().write([metric], is_openmetrics=False) == text_of(frozen)  # type: ignore[arg-type]
    assert PageWriter().write([metric], is_openmetrics=True) == openmetrics_of(frozen)  # type: ignore[arg-type]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "MOST_SERIES", 10)
    writer = PageWriter()
    for number in range(50):
        metric = GaugeMetricFamily("g", "help", labels=["name"])
        metric.add_metric([str(number)], 1)
        assert f'g{{name="{number}"}} 1.0'.encode() in writer.write([metric], is_openmetrics=False)
    assert len(writer._series) <= 11


def test_an_empty_registry_is_an_empty_page() -> None:
    assert PageWriter().write(CollectorRegistry().collect(), is_openmetrics=False) == b""
    assert PageWriter().write(CollectorRegistry().collect(), is_openmetrics=True) == b"# EOF\n"
