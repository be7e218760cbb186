"""Where the time of one model version's requests and batches went."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from batchserve.core.cost import size_start
from batchserve.telemetry.families import PHASES
from batchserve.telemetry.histogram import DURATION_BOUNDS, RATIO_BOUNDS, ROW_BOUNDS, SHARE_BOUNDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchserve.core.tensors import Array
    from batchserve.engine.events import BatchEnded
    from batchserve.telemetry.families import Page

__all__ = ["Durations"]

SETTLE_NUMBERS = 4096
"""Numbers are kept as they came until there are so many: some 270 lone requests, or 50 batches of 32.

Counted together, a lone request costs 1.2 µs and a batch of 32 4.0 µs (best of seven, Python 3.11,
numpy 2.4). The events themselves are not kept: every one is three objects that the garbage collector would walk.
"""

_NUMBERS = 13
"""Of each batch, in the order of `add`."""


class Durations:
    """Sums and distributions of times. Event loop only.

    Invariant: no total goes back.

    Args:
        wall_clock: Seconds since the epoch, for exemplars.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._numbers: list[float] = []
        self._arrivals_s: list[float] = []
        self._admissions_s: list[float] = []
        self._traced: list[tuple[float, float, str]] = []  # done, arrival, trace
        self._busy_s = {0: 0.0}  # by instance
        self._gather_s = self._scatter_s = 0.0
        self._phase_s = dict.fromkeys(PHASES, 0.0)
        self._sizes: dict[int, tuple[int, float]] = {size_start(1): (0, 0.0)}  # by smallest rows of the class
        self._requests = Histogram(DURATION_BOUNDS)
        self._queues = Histogram(DURATION_BOUNDS)
        self._executions = Histogram(DURATION_BOUNDS)
        self._rows = Histogram(ROW_BOUNDS)
        self._holds = Histogram(DURATION_BOUNDS)
        self._predictions = Histogram(RATIO_BOUNDS)
        self._paddings = Histogram(SHARE_BOUNDS)

    @property
    def kept(self) -> int:
        """How many numbers wait to be counted."""
        return len(self._numbers) + len(self._arrivals_s)

    def expect(self, instances: int, sizes: Iterable[int]) -> None:
        """Show instances and classes of sizes at 0 before they are used."""
        for instance in range(instances):
            self._busy_s.setdefault(instance, 0.0)
        for rows in sizes:
            self._sizes.setdefault(rows, (0, 0.0))

    def mark(self, target_s: float | None) -> None:
        """Give a latency target a bucket of its own."""
        self.settle()  # what was observed so far belongs to the old buckets
        self._requests.mark(target_s)

    def add(self, event: BatchEnded) -> None:
        """Keep the times of a batch; they are counted later, many at once."""
        arrivals_s = event.arrivals_s
        self._numbers += (
            event.start_s,
            event.run_start_s,
            event.run_end_s,
            event.done_s,
            event.answered_s,
            event.cut_s,
            event.predicted_s,
            event.held_s,
            event.padded_share,
            event.rows,
            event.instance,
            event.ok,
            len(arrivals_s),
        )
        self._arrivals_s += arrivals_s
        self._admissions_s += event.admissions_s
        if event.trace_ids:
            done_s = event.done_s
            self._traced += [
                (done_s, arrival_s, trace_id)
                for arrival_s, trace_id in zip(arrivals_s, event.trace_ids, strict=True)
                if trace_id
            ]
        if len(self._numbers) + len(self._arrivals_s) >= SETTLE_NUMBERS:
            self.settle()

    def settle(self) -> None:
        """Count what was kept."""
        if not self._numbers:
            return
        table = np.array(self._numbers, dtype=np.float64).reshape(-1, _NUMBERS).T
        arrivals_s, admissions_s = np.array(self._arrivals_s), np.array(self._admissions_s)
        self._numbers, self._arrivals_s, self._admissions_s = [], [], []
        start_s, _, _, done_s, _, _, _, held_s, _, _, instances, oks, numbers = table
        counts = numbers.astype(np.int64)
        queued_s = np.repeat(start_s, counts) - admissions_s
        intended_s = np.minimum(np.repeat(held_s, counts), np.maximum(queued_s, 0.0))
        self._requests.observe(np.repeat(done_s, counts) - arrivals_s)
        self._queues.observe(queued_s)
        self._holds.observe(held_s[held_s > 0])
        waits = (_total(admissions_s - arrivals_s), _total(queued_s - intended_s), _total(intended_s))
        self._add_phases(table, counts, waits)
        busy_s = np.bincount(instances.astype(np.int64), np.maximum(done_s - start_s, 0.0))
        for instance, seconds in enumerate(busy_s.tolist()):
            self._busy_s[instance] = self._busy_s.get(instance, 0.0) + seconds
        self._add_runs(table[:, oks > 0])
        if self._traced:
            self._exemplify()

    def _add_phases(self, table: Array, counts: Array, waits: tuple[float, float, float]) -> None:
        """Charge each request with its own waits and with all of its batch's work; of the writing with its share."""
        spans = np.maximum(np.diff(table[:5], axis=0), 0.0)
        gather_s, run_s, scatter_s = (spans[:3] @ counts).tolist()
        encode_s = float(spans[3][counts > 0].sum())
        for phase, seconds in zip(PHASES, (*waits, gather_s, run_s, scatter_s, encode_s), strict=True):
            self._phase_s[phase] += seconds

    def _add_runs(self, table: Array) -> None:
        """Count successful runs."""
        start_s, run_start_s, run_end_s, done_s, _, cut_s, predicted_s, _, padded, rows, *_ = table
        run_s = np.maximum(run_end_s - run_start_s, 0.0)
        self._executions.observe(run_s)
        self._rows.observe(rows)
        self._paddings.observe(padded)
        known = (predicted_s > 0) & (cut_s > 0)
        self._predictions.observe((done_s[known] - cut_s[known]) / predicted_s[known])
        self._gather_s += _total(run_start_s - start_s)
        self._scatter_s += _total(done_s - run_end_s)
        seen, places = np.unique(rows, return_inverse=True)
        runs, seconds = np.bincount(places), np.bincount(places, run_s)
        for size, more, more_s in zip(seen.tolist(), runs.tolist(), seconds.tolist(), strict=True):
            start = size_start(int(size))
            before, before_s = self._sizes.get(start, (0, 0.0))
            self._sizes[start] = (before + more, before_s + more_s)

    def _exemplify(self) -> None:
        """Keep the last trace of each bucket; that it was some moments ago is no matter."""
        wall_s, traced, self._traced = self._wall_clock(), self._traced, []
        for done_s, arrival_s, trace_id in traced:
            self._requests.exemplify(max(0.0, done_s - arrival_s), trace_id, wall_s)

    def write(self, page: Page, labels: tuple[str, str]) -> None:
        """Add the samples to a page."""
        for name, histogram in (
            ("batchserve_request_duration_seconds", self._requests),
            ("batchserve_queue_duration_seconds", self._queues),
            ("batchserve_execution_duration_seconds", self._executions),
            ("batchserve_batch_rows", self._rows),
            ("batchserve_hold_duration_seconds", self._holds),
            ("batchserve_prediction_ratio", self._predictions),
            ("batchserve_padding_ratio", self._paddings),
        ):
            page.histogram(name, labels, histogram.buckets(), histogram.sum)
        for rows, (runs, seconds) in sorted(self._sizes.items()):
            page.summary("batchserve_execution_size_duration_seconds", (*labels, str(rows)), runs, seconds)
        page.number("batchserve_gather_seconds_total", labels, self._gather_s)
        page.number("batchserve_scatter_seconds_total", labels, self._scatter_s)
        for phase, seconds in self._phase_s.items():
            page.number("batchserve_request_phase_seconds_total", (*labels, phase), seconds)
        for instance, busy_s in sorted(self._busy_s.items()):
            page.number("batchserve_instance_busy_seconds_total", (*labels, str(instance)), busy_s)


def _total(seconds: Array) -> float:
    """Add up spans; one that is below 0 by a hair counts as 0, so that no sum can go back."""
    return float(np.maximum(seconds, 0.0).sum())
