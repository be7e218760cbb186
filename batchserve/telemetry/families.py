"""Every metric of our own, in one table: what `/metrics` shows, and what docs/metrics.md is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from batchserve.engine.events import BUILD_STATES, ModelState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.telemetry.histogram import Bucket

__all__ = [
    "BUFFER_SOURCES",
    "BUILD_STATES",
    "EXECUTION_OUTCOMES",
    "FAMILIES",
    "GC_GENERATIONS",
    "HTTP_CLASSES",
    "LOAD_OUTCOMES",
    "OUTCOMES",
    "PHASES",
    "SERVER_NUMBERS",
    "STATES",
    "Family",
    "Page",
]

OUTCOMES = ("completed", "invalid", "refused", "expired", "cancelled", "failed")
"""Each request that a model received ends in exactly one of these (batching.md section 12, invariant 1)."""

EXECUTION_OUTCOMES = ("ok", "failed")
LOAD_OUTCOMES = ("ok", "failed")
STATES = (ModelState.LOADING, ModelState.READY, ModelState.UNLOADING, ModelState.UNAVAILABLE)
HTTP_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

BUFFER_SOURCES = ("pool", "system")
"""Where a lent body buffer came from."""

PHASES = ("decode", "queue", "hold", "gather", "run", "scatter", "encode")
"""Where a completed request's time goes, in this order. All but `encode`, which comes after, add up to its duration."""

GC_GENERATIONS = ("0", "1", "2")

SERVER_NUMBERS = (
    "batchserve_ready",
    "batchserve_http_connections",
    "batchserve_http_connections_limit",
    "batchserve_http_connections_opened_total",
    "batchserve_http_inflight_bytes",
    "batchserve_http_inflight_limit_bytes",
    "batchserve_http_body_bytes_total",
)
"""What the frontend knows as one number each."""

_MODEL = ("model", "version")
_GPU = ("gpu",)


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
    kind: Literal["counter", "gauge", "histogram", "summary", "info"]
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
        if self.kind == "summary":
            return SummaryMetricFamily(self.name, self.text, labels=self.labels, unit=self.unit)
        return InfoMetricFamily(self.name.removesuffix("_info"), self.text)  # its labels come with its values


FAMILIES: tuple[Family, ...] = (
    Family("batchserve_requests_received_total", "counter", "Requests that named this model, whatever became of them."),
    Family("batchserve_requests_total", "counter", "Requests that ended, by how.", (*_MODEL, "outcome")),
    Family("batchserve_requests_late_total", "counter", "Completed requests that were answered past their deadline."),
    Family("batchserve_requests_refused_total", "counter", "Refused requests, by reason.", (*_MODEL, "reason")),
    Family(
        "batchserve_refusal_duration_seconds",
        "histogram",
        "Requests refused at the queue: last byte read until that was known.",
        unit="seconds",
    ),
    Family("batchserve_rows_total", "counter", "Rows of completed requests.", unit="rows"),
    Family("batchserve_failed_rows_total", "counter", "Rows of requests that the model failed on.", unit="rows"),
    Family("batchserve_executions_total", "counter", "Runs of batches that came back.", (*_MODEL, "outcome")),
    Family("batchserve_executions_in_place_total", "counter", "Runs done on the event loop's thread."),
    Family("batchserve_tokens_total", "counter", "Rows times length of successful runs, where the model pads."),
    Family("batchserve_padding_tokens_total", "counter", "Of those tokens, padding that no request sent."),
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
    Family(
        "batchserve_execution_size_duration_seconds",
        "summary",
        "Successful runs: time inside the runtime, by the class of their rows.",
        (*_MODEL, "rows"),
        unit="seconds",
    ),
    Family("batchserve_batch_rows", "histogram", "Rows per successful run.", unit="rows"),
    Family(
        "batchserve_request_phase_seconds_total",
        "counter",
        "Where the time of completed requests went.",
        (*_MODEL, "phase"),
        unit="seconds",
    ),
    Family(
        "batchserve_hold_duration_seconds",
        "histogram",
        "Batches that were held on purpose: for how long.",
        unit="seconds",
    ),
    Family(
        "batchserve_prediction_ratio", "histogram", "Successful runs: hand-over until return, to what was expected."
    ),
    Family("batchserve_padding_ratio", "histogram", "Successful runs: part of the elements that is padding."),
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
    Family("batchserve_useful_batch_rows", "gauge", "Rows per batch in use.", unit="rows"),
    Family("batchserve_sustaining_batch_rows", "gauge", "Smallest batch that carries the load.", unit="rows"),
    Family("batchserve_needed_batch_rows", "gauge", "Batch that is aimed at.", unit="rows"),
    Family("batchserve_arrival_rate", "gauge", "Rows that arrive in a second, those refused too."),
    Family("batchserve_expected_row_seconds", "gauge", "Expected time of a batch of one row.", unit="seconds"),
    Family(
        "batchserve_expected_batch_seconds", "gauge", "Expected time of a batch of the size in use.", unit="seconds"
    ),
    Family("batchserve_expected_upper_ratio", "gauge", "Upper value of the expected time to its mean."),
    Family("batchserve_device_share_ratio", "gauge", "Part of its device that the model can count on."),
    Family(
        "batchserve_slot_time_ratio",
        "gauge",
        "What a run takes on the slot's device, as a multiple of the device that was quickest at load.",
        (*_MODEL, "slot", "device"),
    ),
    Family("batchserve_overloaded", "gauge", "1 while more arrives than can be carried."),
    Family(
        "batchserve_latency_target_smallest_seconds",
        "gauge",
        "Smallest latency target that could be held now.",
        unit="seconds",
    ),
    Family("batchserve_latency_target_attainable", "gauge", "0 if the latency target cannot be held."),
    Family(
        "batchserve_idle_while_queued_seconds",
        "gauge",
        "Time since the last decision while something waits and a slot is idle.",
        unit="seconds",
    ),
    Family("batchserve_model_state", "gauge", "1 for the state the version is in.", (*_MODEL, "state")),
    Family("batchserve_model_load_failed", "gauge", "1 if the version does not serve because its load failed."),
    Family(
        "batchserve_model_build_state", "gauge", "1 for the state of a build beside the serving.", (*_MODEL, "state")
    ),
    Family("batchserve_model_build_seconds", "gauge", "Last build of a provider beside the serving.", unit="seconds"),
    Family("batchserve_model_swaps_total", "counter", "Changes to a provider built beside the serving."),
    Family("batchserve_model_worker_restarts_total", "counter", "New starts of the process that the model runs in."),
    Family("batchserve_model_load_duration_seconds", "gauge", "Last load until ready.", unit="seconds"),
    Family("batchserve_model_loads_total", "counter", "Loads and reloads that ended, by how.", (*_MODEL, "outcome")),
    Family("batchserve_model_provider_info", "info", "Execution provider in use.", (*_MODEL, "provider")),
    Family(
        "batchserve_model_latency_target_seconds",
        "gauge",
        "latency_target; its label is the bound of the duration's bucket.",
        (*_MODEL, "threshold"),
        unit="seconds",
    ),
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
    Family(
        "batchserve_gc_pause_seconds_total",
        "counter",
        "Time in the garbage collector, by the oldest generation that was looked at.",
        ("generation",),
        unit="seconds",
    ),
    Family(
        "batchserve_gc_pause_max_seconds",
        "gauge",
        "Longest pause for the garbage collector in the last one to two minutes.",
        (),
        unit="seconds",
    ),
    Family("batchserve_ready", "gauge", "1 if the server is ready, as its health endpoint says.", ()),
    Family("batchserve_http_responses_total", "counter", "HTTP responses, by class of status.", ("status",)),
    Family("batchserve_http_connections", "gauge", "HTTP connections that are open.", ()),
    Family("batchserve_http_connections_limit", "gauge", "HTTP connections that may be open: max_connections.", ()),
    Family("batchserve_http_connections_opened_total", "counter", "HTTP connections that clients have opened.", ()),
    Family("batchserve_http_inflight_bytes", "gauge", "Request bodies held in memory.", (), unit="bytes"),
    Family(
        "batchserve_http_inflight_limit_bytes", "gauge", "Bytes that may be held: max_inflight_bytes.", (), unit="bytes"
    ),
    Family("batchserve_http_body_bytes_total", "counter", "Bytes of request bodies taken in.", (), unit="bytes"),
    Family("batchserve_buffer_used_bytes", "gauge", "Body buffers that hold a request's body.", (), unit="bytes"),
    Family("batchserve_buffer_idle_bytes", "gauge", "Body buffers kept for the next request.", (), unit="bytes"),
    Family("batchserve_buffer_high_bytes", "gauge", "Most that body buffers ever held at once.", (), unit="bytes"),
    Family("batchserve_buffers_lent_total", "counter", "Body buffers lent, by where from.", ("source",)),
    Family("batchserve_gpu_info", "info", "What each GPU is.", (*_GPU, "name", "uuid")),
    Family("batchserve_gpu_utilization_ratio", "gauge", "Share of time in which a kernel ran.", _GPU, unit="ratio"),
    Family("batchserve_gpu_memory_used_bytes", "gauge", "Device memory in use, by anybody.", _GPU, unit="bytes"),
    Family("batchserve_gpu_memory_bytes", "gauge", "Device memory there is.", _GPU, unit="bytes"),
    Family("batchserve_gpu_power_watts", "gauge", "Power drawn.", _GPU, unit="watts"),
    Family("batchserve_gpu_energy_joules_total", "counter", "Energy used since first seen.", _GPU, unit="joules"),
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

    def histogram(self, name: str, labels: Sequence[str], buckets: Sequence[Bucket], total: float) -> None:
        """Add one child of a histogram: its cumulative buckets and the sum of its values."""
        metric = self.metrics[name]
        assert isinstance(metric, HistogramMetricFamily), name
        metric.add_metric(labels, buckets, total)

    def summary(self, name: str, labels: Sequence[str], count: int, total: float) -> None:
        """Add one child of a summary: how many values there were, and their sum."""
        metric = self.metrics[name]
        assert isinstance(metric, SummaryMetricFamily), name
        metric.add_metric(labels, count_value=count, sum_value=total)

    def info(self, name: str, values: dict[str, str]) -> None:
        """Add one sample of an info."""
        metric = self.metrics[name]
        assert isinstance(metric, InfoMetricFamily), name
        metric.add_metric((), values)
