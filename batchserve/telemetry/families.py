"""Every metric of our own, in one table: what `/metrics` shows, and what docs/metrics.md is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from batchserve.engine.events import ModelState

__all__ = ["BUFFER_SOURCES", "EXECUTION_OUTCOMES", "FAMILIES", "HTTP_CLASSES", "OUTCOMES", "STATES", "Family", "Page"]

OUTCOMES = ("completed", "invalid", "refused", "expired", "cancelled", "failed")
"""Each request that a model received ends in exactly one of these (batching.md section 12, invariant 1)."""

EXECUTION_OUTCOMES = ("ok", "failed")
STATES = (ModelState.LOADING, ModelState.READY, ModelState.UNLOADING, ModelState.UNAVAILABLE)
HTTP_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

BUFFER_SOURCES = ("pool", "system")
"""Where a lent body buffer came from."""

_MODEL = ("model", "version")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its children.

    Attributes:
        name: As exported, a counter's with `_total`, the info's with `_info`. Ends in the unit if there is one.
        kind: What Prometheus calls its type.
        text: Its help line.
        labels: Label names.
        unit: Base unit, "" for plain counts and flags.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    text: str
    labels: tuple[str, ...] = _MODEL
    unit: str = ""

    def metric(self) -> Metric:
        """Make the library's object for one scrape, without samples."""
        if self.kind == "counter":
            return CounterMetricFamily(self.name, self.text, labels=self.labels, unit=self.unit)
        if self.kind == "gauge":
            return GaugeMetricFamily(self.name, self.text, labels=self.labels, unit=self.unit)
        if self.kind == "histogram":
            return HistogramMetricFamily(self.name, self.text, labels=self.labels, unit=self.unit)
        return InfoMetricFamily(self.name.removesuffix("_info"), self.text)


FAMILIES: tuple[Family, ...] = (
    Family("batchserve_requests_received_total", "counter", "Requests that named this model, whatever became of them."),
    Family("batchserve_requests_total", "counter", "Requests that ended, by how.", (*_MODEL, "outcome")),
    Family("batchserve_requests_late_total", "counter", "Completed requests that were answered past their deadline."),
    Family("batchserve_requests_refused_total", "counter", "Refused requests, by reason.", (*_MODEL, "reason")),
    Family("batchserve_rows_total", "counter", "Rows of completed requests.", unit="rows"),
    Family("batchserve_executions_total", "counter", "Runs of batches that came back.", (*_MODEL, "outcome")),
    Family("batchserve_executions_in_place_total", "counter", "Runs done on the event loop's thread."),
    Family("batchserve_batches_total", "counter", "Runs started, by why the batch was cut.", (*_MODEL, "reason")),
    Family(
        "batchserve_request_duration_seconds",
        "histogram",
        "Completed requests: last byte read until the answer was ready.",
        unit="seconds",
    ),
    Family(
        "batchserve_queue_duration_seconds",
        "histogram",
        "Completed requests: admission until an instance took the batch up.",
        unit="seconds",
    ),
    Family(
        "batchserve_execution_duration_seconds",
        "histogram",
        "Successful runs: time inside the runtime.",
        unit="seconds",
    ),
    Family("batchserve_batch_rows", "histogram", "Rows per successful run.", unit="rows"),
    Family("batchserve_gather_seconds_total", "counter", "Joining rows before successful runs.", unit="seconds"),
    Family("batchserve_scatter_seconds_total", "counter", "Splitting rows after successful runs.", unit="seconds"),
    Family(
        "batchserve_instance_busy_seconds_total",
        "counter",
        "Time an instance was taken by a batch, successful or not.",
        (*_MODEL, "slot"),  # not "instance": Prometheus gives every series a label of that name
        unit="seconds",
    ),
    Family("batchserve_instances", "gauge", "Instances that can run a batch at once."),
    Family("batchserve_inflight_requests", "gauge", "Requests admitted and not ended: queued or running."),
    Family("batchserve_queue_requests", "gauge", "Requests that wait."),
    Family("batchserve_queue_rows", "gauge", "Rows that wait.", unit="rows"),
    Family("batchserve_queue_limit_rows", "gauge", "Rows that may wait: max_queue_size.", unit="rows"),
    Family("batchserve_queue_oldest_age_seconds", "gauge", "Age of the oldest request that waits.", unit="seconds"),
    Family("batchserve_model_state", "gauge", "1 for the state the version is in.", (*_MODEL, "state")),
    Family("batchserve_model_load_duration_seconds", "gauge", "Last load until ready.", unit="seconds"),
    Family(
        "batchserve_event_loop_lag_seconds",
        "histogram",
        "How late a timer of the event loop fires.",
        (),
        unit="seconds",
    ),
    Family(
        "batchserve_event_loop_lag_max_seconds",
        "gauge",
        "Largest lag of the last one to two minutes.",
        (),
        unit="seconds",
    ),
    Family("batchserve_http_responses_total", "counter", "HTTP responses, by class of status.", ("status",)),
    Family("batchserve_http_connections", "gauge", "HTTP connections that are open.", ()),
    Family("batchserve_http_inflight_bytes", "gauge", "Request bodies held in memory.", (), unit="bytes"),
    Family("batchserve_buffer_used_bytes", "gauge", "Body buffers that hold a request's body.", (), unit="bytes"),
    Family("batchserve_buffer_idle_bytes", "gauge", "Body buffers kept for the next request.", (), unit="bytes"),
    Family("batchserve_buffer_high_bytes", "gauge", "Most that body buffers ever held at once.", (), unit="bytes"),
    Family("batchserve_buffers_lent_total", "counter", "Body buffers lent, by where from.", ("source",)),
    Family("batchserve_build_info", "info", "Versions in use.", ("version", "python", "onnxruntime")),
)
"""In the order in which they are rendered."""


class Page:
    """The families of one scrape, filled sample by sample."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {family.name: family.metric() for family in FAMILIES}

    def number(self, name: str, labels: Sequence[str], value: float) -> None:
        """Add one sample of a counter or gauge."""
        metric = self.metrics[name]
        assert isinstance(metric, CounterMetricFamily | GaugeMetricFamily), name
        metric.add_metric(labels, value)

    def histogram(self, name: str, labels: Sequence[str], buckets: Sequence[tuple[str, float]], total: float) -> None:
        """Add one child of a histogram: its cumulative buckets and the sum of its values."""
        metric = self.metrics[name]
        assert isinstance(metric, HistogramMetricFamily), name
        metric.add_metric(labels, buckets, total)

    def info(self, name: str, values: dict[str, str]) -> None:
        """Add the one sample of an info."""
        metric = self.metrics[name]
        assert isinstance(metric, InfoMetricFamily), name
        metric.add_metric((), values)
