"""What the metrics know of one model version: it outlives reloads, so that no counter goes back."""

from __future__ import annotations

import time
import weakref
from dataclasses import fields
from typing import TYPE_CHECKING

from batchserve.core.cost import size_starts
from batchserve.core.counters import REFUSAL_BOUNDS_S, Counters
from batchserve.engine.events import ModelState
from batchserve.engine.gauges import Gauges
from batchserve.telemetry.durations import Durations
from batchserve.telemetry.families import BUILD_STATES, LOAD_OUTCOMES, STATES
from batchserve.telemetry.histogram import bound_name, cumulative

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchserve.engine.events import BatchEnded
    from batchserve.engine.model import Model
    from batchserve.telemetry.families import Page

__all__ = ["KEEP_S", "ModelSeries"]

KEEP_S = 300.0
"""After a version is gone its numbers are shown for so long, so that every scraper sees the last of them."""


class ModelSeries:
    """The numbers of one name and version, across reloads. Event loop only.

    One `Model` object serves; those it replaced may still drain. Counters are read where they are, and an object that
    is no more leaves its sums behind.

    Invariant: no total goes back while it is shown, whichever objects come and go.

    Args:
        name: The model's name.
        version: Its version.
        wall_clock: Seconds since the epoch, for exemplars.
    """

    def __init__(self, name: str, version: int, wall_clock: Callable[[], float] = time.time) -> None:
        self.labels = (_label(name), str(version))
        self._wall_clock = wall_clock
        self._state = ModelState.LOADING
        self._gone_s: float | None = None
        self._has_failed = False
        self._model: Model | None = None
        self._forget()

    def _forget(self) -> None:
        self._left = Counters()  # of objects that are no more
        self._replaced: list[tuple[weakref.ref[Model], Counters]] = []  # no strong reference: it would hold a session
        self._load_s = 0.0
        self._durations = Durations(self._wall_clock)
        self._loads = dict.fromkeys(LOAD_OUTCOMES, 0)

    # --- events ---------------------------------------------------------------------------------------------------

    def model_state(self, state: str, model: Model | None, now: float) -> None:
        """Note that the version changed state; `model` is the loaded object, if there is one."""
        if self._is_over(now):
            self._forget()
        self._state = state
        self._has_failed = state == ModelState.UNAVAILABLE and model is None  # one that served before left on purpose
        self._gone_s = now if state == ModelState.UNAVAILABLE else None
        if state == ModelState.READY and model is not None and model is not self._model:
            self._replace(model)
            self._load_s = model.load_s
            self._durations.mark(model.latency_target_s)
            self._durations.expect(model.instances, size_starts(model.limits.run_rows))
        elif state == ModelState.UNAVAILABLE:
            self._replace(None)

    def load_ended(self, *, ok: bool) -> None:
        """Count a load."""
        self._loads["ok" if ok else "failed"] += 1

    def batch_ended(self, event: BatchEnded) -> None:
        """Note the times of a batch."""
        self._durations.add(event)

    def _replace(self, model: Model | None) -> None:
        """Let another object, or none, serve from now on; the one before may still count what it drains."""
        if self._model is not None:
            self._replaced.append((weakref.ref(self._model), self._model.counters))
        self._model = model
        alive = []
        for reference, counters in self._replaced:
            if reference() is None:
                _add(self._left, counters)
            else:
                alive.append((reference, counters))
        self._replaced = alive

    # --- scrape ---------------------------------------------------------------------------------------------------

    def write(self, page: Page, now: float) -> None:
        """Add its samples to a page. Long after the version has gone, only that it has."""
        for name in STATES:
            page.number("batchserve_model_state", (*self.labels, name), float(name == self._state))
        page.number("batchserve_model_load_failed", self.labels, float(self._has_failed))
        if self._is_over(now):
            self._forget()
            return
        if self._model is not None:
            self._durations.mark(self._model.latency_target_s)  # it may change while the model serves
        self._durations.settle()
        self._durations.write(page, self.labels)
        self._write_counters(page)
        self._write_loads(page)
        self._write_gauges(page, now)

    def _is_over(self, now: float) -> bool:
        return self._gone_s is not None and now >= self._gone_s + KEEP_S

    def totals(self) -> Counters:
        """Return the counters of all objects that ever were this version, as long as it is shown."""
        total = Counters()
        _add(total, self._left)
        for _, counters in self._replaced:
            _add(total, counters)
        if self._model is not None:
            _add(total, self._model.counters)
        return total

    def _write_counters(self, page: Page) -> None:
        total, labels = self.totals(), self.labels
        outcomes = {
            "completed": total.completed,
            "invalid": total.invalid,
            "refused": sum(total.refused.values()),
            "expired": total.expired,
            "cancelled": total.cancelled,
            "failed": total.failed,
        }
        page.number("batchserve_requests_received_total", labels, total.received)
        for outcome, count in outcomes.items():
            page.number("batchserve_requests_total", (*labels, outcome), count)
        page.number("batchserve_requests_late_total", labels, total.late)
        for reason, count in total.refused.items():
            page.number("batchserve_requests_refused_total", (*labels, reason), count)
        page.histogram(
            "batchserve_refusal_duration_seconds",
            labels,
            cumulative(REFUSAL_BOUNDS_S, total.refusal_delays),
            total.refusal_delay_s,
        )
        page.number("batchserve_rows_total", labels, total.rows)
        page.number("batchserve_failed_rows_total", labels, total.failed_rows)
        page.number("batchserve_executions_total", (*labels, "ok"), total.executions)
        page.number("batchserve_executions_total", (*labels, "failed"), total.failed_executions)
        page.number("batchserve_executions_in_place_total", labels, total.in_place)
        page.number("batchserve_tokens_total", labels, total.tokens)
        page.number("batchserve_padding_tokens_total", labels, total.padding)
        for reason, count in total.batches.items():
            page.number("batchserve_batches_total", (*labels, reason), count)

    def _write_loads(self, page: Page) -> None:
        page.number("batchserve_model_load_duration_seconds", self.labels, self._load_s)
        for outcome, count in self._loads.items():
            page.number("batchserve_model_loads_total", (*self.labels, outcome), count)

    def _write_gauges(self, page: Page, now: float) -> None:
        labels, model = self.labels, self._model
        models = [replaced for reference, _ in self._replaced if (replaced := reference()) is not None]
        if model is not None:
            models.append(model)
        queued = sum(each.queued_requests for each in models)
        oldest_s = min((each.oldest_arrival_s for each in models if each.oldest_arrival_s is not None), default=now)
        page.number("batchserve_inflight_requests", labels, queued + sum(each.running_requests for each in models))
        page.number("batchserve_queue_requests", labels, queued)
        page.number("batchserve_queue_rows", labels, sum(each.queued_rows for each in models))
        page.number("batchserve_queue_oldest_age_seconds", labels, max(0.0, now - oldest_s))
        page.number("batchserve_queue_limit_rows", labels, 0 if model is None else model.max_queue_size)
        page.number("batchserve_instances", labels, 0 if model is None else model.instances)
        self._write_scheduler(page, Gauges() if model is None else model.gauges(now))
        build = None if model is None else model.build
        page.number("batchserve_model_build_seconds", labels, 0.0 if build is None else build.seconds)
        page.number("batchserve_model_swaps_total", labels, 0 if build is None else build.swaps)
        page.number("batchserve_model_worker_restarts_total", labels, 0 if model is None else model.worker_restarts)
        if model is not None:
            self._write_facts(page, model)

    def _write_facts(self, page: Page, model: Model) -> None:
        """Say how the serving object is set up."""
        name, version = self.labels
        target_s, build = model.latency_target_s, model.build
        if build is not None:
            for state in BUILD_STATES:
                page.number("batchserve_model_build_state", (*self.labels, state), float(state == build.state))
        page.info(
            "batchserve_model_provider_info", {"model": name, "version": version, "provider": model.provider or "none"}
        )
        for slot, (device, time_ratio) in enumerate(model.places):
            page.number("batchserve_slot_time_ratio", (*self.labels, str(slot), device), time_ratio)
        if target_s is not None:
            labels = (*self.labels, bound_name(target_s))
            page.number("batchserve_model_latency_target_seconds", labels, target_s)

    def _write_scheduler(self, page: Page, gauges: Gauges) -> None:
        for name, value in (
            ("useful_batch_rows", gauges.useful_rows),
            ("sustaining_batch_rows", gauges.sustaining_rows),
            ("needed_batch_rows", gauges.needed_rows),
            ("arrival_rate", gauges.rows_per_second),
            ("expected_row_seconds", gauges.row_s),
            ("expected_batch_seconds", gauges.batch_s),
            ("expected_upper_ratio", gauges.upper_factor),
            ("device_share_ratio", gauges.share),
            ("overloaded", gauges.is_overloaded),
            ("latency_target_smallest_seconds", gauges.smallest_target_s),
            ("latency_target_attainable", gauges.is_attainable),
            ("idle_while_queued_seconds", gauges.idle_s),
        ):
            page.number(f"batchserve_{name}", self.labels, float(value))


def _add(total: Counters, part: Counters) -> None:
    for field in fields(Counters):
        value = getattr(part, field.name)
        if isinstance(value, dict):
            sums = getattr(total, field.name)
            for key, count in value.items():
                sums[key] = sums.get(key, 0) + count
        elif isinstance(value, list):
            setattr(
                total, field.name, [one + other for one, other in zip(getattr(total, field.name), value, strict=True)]
            )
        else:
            setattr(total, field.name, getattr(total, field.name) + value)


def _label(text: str) -> str:
    """Make a label value that UTF-8 can hold: a folder's name may have bytes that are not."""
    return text.encode("utf-8", "backslashreplace").decode()
