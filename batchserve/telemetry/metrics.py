"""The metrics: a listener of the engine on one side, a page for Prometheus on the other."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

import batchserve
from batchserve.core.counters import Counters
from batchserve.engine.events import NullListener
from batchserve.telemetry.exposition import PageWriter
from batchserve.telemetry.families import BUFFER_SOURCES, GC_GENERATIONS, HTTP_CLASSES, SERVER_NUMBERS, Page
from batchserve.telemetry.histogram import DURATION_BOUNDS, Histogram, RecentMax
from batchserve.telemetry.pauses import GcPauses
from batchserve.telemetry.series import ModelSeries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from batchserve.engine.events import BatchEnded
    from batchserve.engine.model import Model
    from batchserve.telemetry.gpu import GpuReading

__all__ = ["Metrics"]


class Metrics(NullListener):
    """All metrics of one server, in a registry of its own. Event loop only.

    Counts of requests are read from `Model.counters` at a scrape; only what has a distribution is fed, once a batch.

    Args:
        runtime_version: Version of ONNX Runtime, "" if there is none.
        clock: Monotonic seconds; the clock of the engine's events.
        pauses: What is known of the garbage collector's pauses; whoever starts it stops it.
        wall_clock: Seconds since the epoch, for exemplars.

    Attributes:
        registry: Holds this collector and those of the process, the platform and the garbage collector.
    """

    def __init__(
        self,
        runtime_version: str = "",
        clock: Callable[[], float] = time.monotonic,
        pauses: GcPauses | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._build = {
            "version": batchserve.__version__,
            "python": platform.python_version(),
            "onnxruntime": runtime_version,
        }
        self._clock = clock
        self._wall_clock = wall_clock
        self._series: dict[tuple[str, int], ModelSeries] = {}
        self._lag = Histogram(DURATION_BOUNDS)
        self._lag_max = RecentMax()
        self._pauses = pauses or GcPauses(clock)
        self._gpus: Callable[[], Sequence[GpuReading]] = tuple
        self._responses: Callable[[], Mapping[str, int]] | None = None
        self._http_numbers: Callable[[], Mapping[str, float]] = dict
        self._buffers: Callable[[], Mapping[str, int]] = dict
        self._writer = PageWriter()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # --- what it hears --------------------------------------------------------------------------------------------

    def model_state(self, name: str, version: int, state: str, reason: str, model: Model | None) -> None:
        """Note that a version changed state: its children exist from its first state on."""
        self._of(name, version).model_state(state, model, self._clock())

    def load_ended(self, name: str, version: int, *, ok: bool) -> None:
        """Count a load, also one that changed nothing."""
        self._of(name, version).load_ended(ok=ok)

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        """Note the times of one execution."""
        self._of(model.name, model.version).batch_ended(event)

    def observe_lag(self, lag_s: float) -> None:
        """Note how late a timer of the event loop fired; `LoopLag` calls this."""
        self._lag.observe(np.array([lag_s]))
        self._lag_max.observe(lag_s, self._clock())

    def watch_http(
        self,
        responses: Callable[[], Mapping[str, int]],
        numbers: Callable[[], Mapping[str, float]],
        buffers: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Take the frontend's numbers from now on; until then there are none. They are asked for at each scrape.

        Args:
            responses: Responses sent so far by class of status: `1xx` to `5xx`; what is missing is 0. Only grows.
            numbers: Values of `SERVER_NUMBERS`, by the name without `batchserve_`; what is missing is 0.
            buffers: Numbers of the pool of body buffers: `used_bytes`, `idle_bytes`, `high_bytes`, `hits`, `misses`;
                empty if there is no pool.
        """
        self._responses, self._http_numbers, self._buffers = responses, numbers, buffers

    def watch_gpus(self, readings: Callable[[], Sequence[GpuReading]]) -> None:
        """Take the GPUs' numbers from now on; until then there are none. They are asked for at each scrape."""
        self._gpus = readings

    def totals(self, name: str, version: int) -> Counters:
        """Return the counters of one version across reloads, as the page shows them."""
        series = self._series.get((name, version))
        return Counters() if series is None else series.totals()

    def lag_max(self) -> float:
        """Return the largest lag of the event loop of late, in seconds, as the page shows it."""
        return self._lag_max.read(self._clock())

    def _of(self, name: str, version: int) -> ModelSeries:
        key = (name, version)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = ModelSeries(*key, self._wall_clock)
        return series

    # --- what it says ---------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Yield our metrics with their present values; the registry calls this."""
        now, page = self._clock(), Page()
        for _, series in sorted(self._series.items()):
            series.write(page, now)
        page.histogram("batchserve_event_loop_lag_seconds", (), self._lag.buckets(), self._lag.sum)
        page.number("batchserve_event_loop_lag_max_seconds", (), self._lag_max.read(now))
        self._write_pauses(page, now)
        self._write_http(page)
        self._write_gpus(page)
        page.info("batchserve_build_info", self._build)
        yield from page.metrics.values()

    def _write_pauses(self, page: Page, now: float) -> None:
        for generation, seconds in zip(GC_GENERATIONS, self._pauses.seconds, strict=True):
            page.number("batchserve_gc_pause_seconds_total", (generation,), seconds)
        page.number("batchserve_gc_pause_max_seconds", (), self._pauses.longest_s(now))

    def _write_gpus(self, page: Page) -> None:
        for reading in self._gpus():
            gpu = (reading.gpu,)
            page.info("batchserve_gpu_info", {"gpu": reading.gpu, "name": reading.name, "uuid": reading.uuid})
            for name, value in reading.values.items():
                page.number(name, gpu, value)

    def _write_http(self, page: Page) -> None:
        if self._responses is None:
            return
        counts = self._responses()
        for status in HTTP_CLASSES:
            page.number("batchserve_http_responses_total", (status,), counts.get(status, 0))
        numbers = self._http_numbers()
        for name in SERVER_NUMBERS:
            page.number(name, (), numbers.get(name.removeprefix("batchserve_"), 0))
        pool = self._buffers()
        for state in ("used", "idle", "high"):
            page.number(f"batchserve_buffer_{state}_bytes", (), pool.get(f"{state}_bytes", 0))
        for source, name in zip(BUFFER_SOURCES, ("hits", "misses"), strict=True):
            page.number("batchserve_buffers_lent_total", (source,), pool.get(name, 0))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write the page that `/metrics` answers.

        Args:
            accept: The request's `Accept` header. OpenMetrics if it asks for that, else Prometheus' text format 0.0.4.

        Returns:
            The body, and its `Content-Type`.
        """
        try:
            _, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library compares a version such as "1.x" with numbers
            _, content_type = choose_encoder("")
        if not (content_type.isascii() and content_type.isprintable()):  # it repeats the version that was asked for
            _, content_type = choose_encoder("")
        is_openmetrics = content_type.startswith("application/openmetrics-text")
        return self._writer.write(self.registry.collect(), is_openmetrics=is_openmetrics), content_type
