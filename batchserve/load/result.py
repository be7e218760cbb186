"""What came of a run, in figures that can be written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from batchserve.load.latencies import Latencies

if TYPE_CHECKING:
    from batchserve.load.generator import Applied
    from batchserve.load.plan import Plan

__all__ = ["Moment", "Result", "StreamResult", "sum_up"]

LATE_S = 1e-3


@dataclass(frozen=True)
class StreamResult:
    """What came of the requests of one stream.

    Attributes:
        name: The stream's.
        answered: Right answers.
        failed: Failed requests by kind.
        within: Right answers within the target; all without one.
        target_s: What latency counts as good; None for any.
        latency_s: Mean, extremes and percentiles of the right answers; empty without any.
        latencies: All of them.
    """

    name: str
    answered: int
    failed: Mapping[str, int]
    within: int
    target_s: float | None
    latency_s: Mapping[str, float]
    latencies: Latencies = field(repr=False)

    @property
    def within_share(self) -> float:
        """Share of all requests that had a right answer within the target; 1 if there was none."""
        count = self.answered + sum(self.failed.values())
        return self.within / count if count else 1.0


@dataclass(frozen=True)
class Moment:
    """What came of the requests that were due in one second of the run."""

    second: int
    due: int
    answered: int
    failed: int
    within: int
    p50_s: float | None
    p99_s: float | None
    max_s: float | None


@dataclass(frozen=True)
class Result:
    """What came of a run's requests that were due after its warm-up.

    Attributes:
        loop: `open` or `closed`.
        started: Wall-clock time of the run's beginning, ISO 8601.
        window_s: Length of the time in which the counted requests were due.
        offered: How many were due then (open loop) or were sent (closed).
        total: Everything together; its target is the plan's.
        streams: One by one.
        timeline: By second, those without a request too.
        lag_s: How late the load itself was in handling what was due; empty in a closed loop.
        phases_s: What the server said about where the time went, by phase; of those requests that asked.
        batch_rows: Number of those requests by the rows that ran with each.
        examples: What was said with the first failure of each kind.
        cpu_share: Processor time of this process over the run's time.
        most_waiting: The most requests that were due at one moment and had no connection.
        connections: The most connections at one moment.
        tick_s: The longest tick of an open loop; 0 if each request and answer was handled at once.
    """

    loop: str
    started: str
    window_s: float
    offered: int
    total: StreamResult
    streams: Sequence[StreamResult]
    timeline: Sequence[Moment]
    lag_s: Mapping[str, float]
    phases_s: Mapping[str, Mapping[str, float]]
    batch_rows: Mapping[int, int]
    examples: Mapping[str, str]
    cpu_share: float
    most_waiting: int
    connections: int
    tick_s: float

    @property
    def offered_per_s(self) -> float:
        """Requests a second that were due or sent."""
        return self.offered / self.window_s

    @property
    def answered_per_s(self) -> float:
        """Right answers a second."""
        return self.total.answered / self.window_s

    @property
    def goodput_per_s(self) -> float:
        """Right answers within the target a second."""
        return self.total.within / self.window_s

    @property
    def is_load_late(self) -> bool:
        """True if the load itself was late with more than a hundredth of the requests.

        Late is by more than a millisecond, and by more than a twentieth of the target. Then this machine is what
        limits, and latencies hold some of the load's own.
        """
        return self.lag_s.get("p99", 0.0) > max(LATE_S, 0.05 * (self.total.target_s or 0.0))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values, the histogram of all latencies included."""
        plain = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name not in ("total", "streams", "timeline")
        }
        plain["batch_rows"] = {str(rows): count for rows, count in sorted(self.batch_rows.items())}
        rates = {name: getattr(self, name) for name in ("offered_per_s", "answered_per_s", "goodput_per_s")}
        return {
            **plain,
            **rates,
            "is_load_late": self.is_load_late,
            "total": _plain(self.total),
            "streams": [_plain(stream) for stream in self.streams],
            "timeline": [dataclasses.asdict(moment) for moment in self.timeline],
            "histogram": self.total.latencies.buckets(),
        }


def _plain(stream: StreamResult) -> dict[str, Any]:
    plain = {one.name: getattr(stream, one.name) for one in dataclasses.fields(stream) if one.name != "latencies"}
    return plain | {"within_share": stream.within_share}


def sum_up(plan: Plan, applied: Applied) -> Result:
    """Sum up a run that has ended."""
    tally = applied.tally
    streams = [
        StreamResult(
            name=name,
            answered=stream.latencies.count,
            failed=dict(stream.failures),
            within=stream.within,
            target_s=plan.target_of(index),
            latency_s=stream.latencies.summary(),
            latencies=stream.latencies,
        )
        for index, (name, stream) in enumerate(zip(plan.streams, tally.streams, strict=True))
    ]
    latencies = Latencies()
    for one in streams:
        latencies.merge(one.latencies)
    failed = dict(tally.failures())
    total = StreamResult(
        name="all",
        answered=latencies.count,
        failed=failed,
        within=sum(stream.within for stream in streams),
        target_s=plan.target_s,
        latency_s=latencies.summary(),
        latencies=latencies,
    )
    is_open = plan.times_s is not None
    return Result(
        loop="open" if is_open else "closed",
        started=datetime.fromtimestamp(applied.started_at, UTC).isoformat(timespec="milliseconds"),
        window_s=plan.duration_s - plan.warmup_s,
        offered=total.answered + sum(failed.values()),
        total=total,
        streams=streams,
        timeline=_timeline(plan, applied),
        lag_s=tally.lag.summary(),
        phases_s={name: phase.summary() for name, phase in tally.phases.items()},
        batch_rows=dict(tally.batch_rows),
        examples=dict(tally.examples),
        cpu_share=applied.cpu_s / applied.elapsed_s if applied.elapsed_s else 0.0,
        most_waiting=applied.most_waiting,
        connections=applied.connections,
        tick_s=applied.tick_s,
    )


def _timeline(plan: Plan, applied: Applied) -> list[Moment]:
    """Lay the seconds out one after the other, from the end of the warm-up."""
    seconds = applied.tally.seconds
    times_s = plan.times_s
    due = None if times_s is None else np.bincount(times_s[times_s >= plan.warmup_s].astype(np.int64))
    numbers = range(int(plan.warmup_s), int(np.ceil(plan.duration_s)))
    moments = []
    for number in numbers:
        second = seconds.get(number)
        count = int(due[number]) if due is not None and number < len(due) else 0
        if second is None:
            moments.append(Moment(number, count, 0, 0, 0, None, None, None))
            continue
        answered, latencies = second.latencies.count, second.latencies
        points = [latencies.at(0.5), latencies.at(0.99), latencies.most_s] if answered else [None, None, None]
        if due is None:
            count = answered + second.failed
        moments.append(Moment(number, count, answered, second.failed, second.within, *points))
    return moments
