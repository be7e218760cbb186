"""What the console shows of the last seconds. Listens only while somebody looks; otherwise it is not there."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from batchserve.engine.events import NullListener
from batchserve.telemetry.process import ProcessUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from batchserve.core.counters import Counters
    from batchserve.core.tensors import Array
    from batchserve.engine.events import BatchEnded, Listener
    from batchserve.engine.model import Model

__all__ = ["WINDOW_TICKS", "Live"]

WINDOW_TICKS = 10
"""Percentiles, batch sizes and reasons are those of so many of the latest readings, which come once a second."""

_STEPS = 16
_BOUNDS = 2e-5 * 2.0 ** (np.arange(22 * _STEPS + 1) / _STEPS)
"""Seconds: 20 us up to 84 s in steps of 4.4 %, so a percentile is right to about two percent."""

SETTLE_WORK = 1024
"""Batches are kept as they came until so many requests are in them: counting many at once is a tenth of the work."""


class Live(NullListener):
    """Reads the server once a second for whoever looks. Event loop only.

    Invariant: it is one of `listeners` exactly between `start` and `stop`, so that nothing is done when nobody looks.

    Args:
        models: Gives the versions that serve.
        listeners: The engine's listeners, which the engine reads anew at each event.
        totals: Gives the counters of a name and version across reloads, as `/metrics` shows them; made anew each time.
        lag_max: Gives the largest lag of the event loop of late, in seconds.
        clock: Monotonic seconds; the clock of the engine's events.
    """

    def __init__(
        self,
        models: Callable[[], Sequence[Model]],
        listeners: list[Listener],
        totals: Callable[[str, int], Counters],
        lag_max: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._listeners = listeners
        self._totals = totals
        self._lag_max = lag_max
        self._clock = clock
        self._started_s = clock()
        self._watched: dict[tuple[str, int], _Watched] = {}
        self._process = ProcessUse(clock)

    def start(self) -> None:
        """Begin to listen. Does nothing if it listens already."""
        if self not in self._listeners:
            self._listeners.append(self)
            self._process.restart()

    def stop(self) -> None:
        """Listen no more, and forget what was heard."""
        if self in self._listeners:
            self._listeners.remove(self)
        self._watched.clear()

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        """Keep the times of a batch."""
        self._of(model).add(event)

    def _of(self, model: Model) -> _Watched:
        key = (model.name, model.version)
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched()
        return watched

    def read(self) -> dict[str, Any]:
        """Return the present numbers, of plain JSON types; rates and percentiles are those since the last readings."""
        now = self._clock()
        models = self._models()
        serving = {(model.name, model.version) for model in models}
        for key in [key for key in self._watched if key not in serving]:
            del self._watched[key]
        return {
            "uptime_s": round(now - self._started_s, 1),
            "lag_max_ms": _ms(self._lag_max()),
            "process": self._process.read(),
            "models": [self._read_model(model, now) for model in models],
        }

    def _read_model(self, model: Model, now: float) -> dict[str, Any]:
        totals = self._totals(model.name, model.version)
        oldest_s = model.oldest_arrival_s
        return {
            "name": model.name,
            "version": str(model.version),
            "totals": _outcomes(totals),
            "refused": {reason: count for reason, count in totals.refused.items() if count},
            "queue": {
                "requests": model.queued_requests,
                "rows": model.queued_rows,
                "limit_rows": model.max_queue_size,
                "running": model.running_requests,
                "oldest_ms": 0.0 if oldest_s is None else _ms(max(0.0, now - oldest_s)),
            },
            "sizing": {"useful": model.sizing.useful, "is_overloaded": model.sizing.is_overloaded},
            "cost": {"points": [[round(rows, 2), _ms(seconds)] for rows, seconds in model.cost.points]},
            **self._of(model).read(totals, now, model.instances),
        }


@dataclass(slots=True)
class _Snapshot:
    """Sums up to one reading; everything shown is the difference of two of them."""

    at_s: float
    counters: Counters
    latencies: Array
    waits: Array
    sizes: dict[int, int]
    phases_s: Array
    requests: int
    good_runs: int
    good_rows: int
    run_s: float
    busy_s: dict[int, float]


class _Watched:
    """The sums of one model version since somebody looks."""

    def __init__(self) -> None:
        self._events: list[BatchEnded] = []
        self._unsettled = 0
        self._latencies = np.zeros(len(_BOUNDS) + 1, np.int64)
        self._waits = np.zeros(len(_BOUNDS) + 1, np.int64)
        self._sizes: dict[int, int] = {}
        self._phases_s = np.zeros(5)
        self._requests = self._good_runs = self._good_rows = 0
        self._run_s = 0.0
        self._busy_s: dict[int, float] = {}
        self._snapshots: deque[_Snapshot] = deque(maxlen=WINDOW_TICKS)

    def add(self, event: BatchEnded) -> None:
        self._events.append(event)
        self._unsettled += len(event.arrivals_s) + 3
        if self._unsettled >= SETTLE_WORK:
            self._settle()

    def _settle(self) -> None:
        events, self._events, self._unsettled = self._events, [], 0
        if not events:
            return
        counts = np.array([len(event.arrivals_s) for event in events])
        moments = np.array([[e.start_s, e.run_start_s, e.run_end_s, e.done_s] for e in events])
        arrivals_s = _joined(event.arrivals_s for event in events)
        admissions_s = _joined(event.admissions_s for event in events)
        starts_s, dones_s = np.repeat(moments[:, 0], counts), np.repeat(moments[:, 3], counts)
        self._latencies += _counted(dones_s - arrivals_s)
        self._waits += _counted(starts_s - admissions_s)
        lasted = np.diff(moments, axis=1)  # gather, run, scatter
        self._phases_s += (
            float((admissions_s - arrivals_s).sum()),
            float((starts_s - admissions_s).sum()),
            *(lasted * counts[:, None]).sum(axis=0),
        )
        self._requests += len(arrivals_s)
        for event, (_, run_s, _) in zip(events, lasted.tolist(), strict=True):
            self._sizes[event.rows] = self._sizes.get(event.rows, 0) + 1
            busy_s = event.done_s - event.start_s
            self._busy_s[event.instance] = self._busy_s.get(event.instance, 0.0) + busy_s
            if event.ok:
                self._good_runs += 1
                self._good_rows += event.rows
                self._run_s += run_s

    def read(self, totals: Counters, now: float, instances: int) -> dict[str, Any]:
        self._settle()
        here = _Snapshot(
            now,
            totals,
            self._latencies.copy(),
            self._waits.copy(),
            dict(self._sizes),
            self._phases_s.copy(),
            self._requests,
            self._good_runs,
            self._good_rows,
            self._run_s,
            dict(self._busy_s),
        )
        last = self._snapshots[-1] if self._snapshots else here
        first = self._snapshots[0] if self._snapshots else here
        self._snapshots.append(here)
        return {**_rates(here, last, instances), **_window(here, first)}


def _rates(here: _Snapshot, last: _Snapshot, instances: int) -> dict[str, Any]:
    """Say what happened since the last reading, by second."""
    took_s = max(here.at_s - last.at_s, 1e-9)
    is_first = here is last
    busy_s = [here.busy_s.get(index, 0.0) - last.busy_s.get(index, 0.0) for index in range(instances)]

    def rate(value: Callable[[Counters], int]) -> float:
        return 0.0 if is_first else round((value(here.counters) - value(last.counters)) / took_s, 1)

    return {
        "rates": {
            "received": rate(lambda c: c.received),
            "completed": rate(lambda c: c.completed),
            "rows": rate(lambda c: c.rows),
            "batches": rate(lambda c: sum(c.batches.values())),
            "errors": rate(lambda c: c.invalid + c.expired + c.failed + sum(c.refused.values())),
        },
        "busy": [round(min(1.0, seconds / took_s), 3) for seconds in busy_s],
    }


def _window(here: _Snapshot, first: _Snapshot) -> dict[str, Any]:
    """Say what the latest seconds were like."""
    requests, runs = here.requests - first.requests, here.good_runs - first.good_runs
    sizes = {rows: count - first.sizes.get(rows, 0) for rows, count in sorted(here.sizes.items())}
    reasons = {name: n - first.counters.batches.get(name, 0) for name, n in here.counters.batches.items()}
    phases_s = (here.phases_s - first.phases_s) / max(requests, 1)
    at = None
    if runs:
        at = [round((here.good_rows - first.good_rows) / runs, 2), _ms((here.run_s - first.run_s) / runs)]
    return {
        "window_s": round(here.at_s - first.at_s, 1),
        "latency_ms": _percentiles(here.latencies - first.latencies),
        "wait_ms": _percentiles(here.waits - first.waits),
        "phases_ms": dict(
            zip(("decode", "queue", "gather", "run", "scatter"), map(_ms, phases_s.tolist()), strict=True)
        ),
        "sizes": [[rows, count] for rows, count in sizes.items() if count],
        "reasons": {name: count for name, count in reasons.items() if count},
        "operating_point": at,
    }


def _percentiles(counts: Array) -> dict[str, float | int | None]:
    """Read percentiles from counts, geometrically between the two bounds of a step; None where there is nothing."""
    total = int(counts.sum())
    found: dict[str, float | int | None] = {"count": total, "p50": None, "p90": None, "p99": None}
    if total:
        sums = counts.cumsum()
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            rank = share * total
            step = int(np.searchsorted(sums, rank))
            below = int(sums[step - 1]) if step else 0
            low = _BOUNDS[max(0, min(step, len(_BOUNDS) - 1) - 1)]
            high = _BOUNDS[min(step, len(_BOUNDS) - 1)]
            part = (rank - below) / max(int(counts[step]), 1)
            found[name] = _ms(float(low * (high / low) ** part))
    return found


def _counted(seconds: Array) -> Array:
    return np.bincount(_BOUNDS.searchsorted(seconds), minlength=len(_BOUNDS) + 1)


def _joined(times: Iterable[Sequence[float]]) -> Array:
    return np.fromiter(chain.from_iterable(times), dtype=np.float64)


def _outcomes(totals: Counters) -> Mapping[str, int]:
    return {
        "received": totals.received,
        "completed": totals.completed,
        "late": totals.late,
        "invalid": totals.invalid,
        "refused": sum(totals.refused.values()),
        "expired": totals.expired,
        "cancelled": totals.cancelled,
        "failed": totals.failed,
        "rows": totals.rows,
        "executions": totals.executions,
        "failed_executions": totals.failed_executions,
    }


def _ms(seconds: float) -> float:
    """Milliseconds to the microsecond."""
    return round(seconds * 1e3, 3)
