"""Stand-ins for the engine, as far as telemetry can see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from batchserve.core.counters import Counters
from batchserve.core.limits import Limits
from batchserve.engine.events import BatchEnded
from batchserve.engine.gauges import Gauges


@dataclass(eq=False)
class FakeModel:
    """The part of `engine.model.Model` that telemetry reads."""

    name: str = "digits"
    version: int = 1
    counters: Counters = field(default_factory=Counters)
    queued_rows: int = 0
    queued_requests: int = 0
    running_requests: int = 0
    oldest_arrival_s: float | None = None
    load_s: float = 0.5
    instances: int = 1
    max_queue_size: int = 1024
    limits: Limits = field(default_factory=lambda: Limits(max_batch_size=8, timeout_s=60.0, max_queue_size=1024))
    state: Gauges = field(default_factory=Gauges)

    def gauges(self, now: float) -> Gauges:
        return self.state


class FakeClock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def batch(
    requests: int = 1,
    *,
    rows: int | None = None,
    start_s: float = 1000.0,
    decode_s: float = 0.001,
    queue_s: float = 0.002,
    gather_s: float = 0.003,
    run_s: float = 0.010,
    scatter_s: float = 0.004,
    instance: int = 0,
    ok: bool = True,
    **more: float,
) -> BatchEnded:
    """One execution whose requests all had the same durations."""
    admitted_s = start_s - queue_s
    answered = requests if ok else 0
    return BatchEnded(
        rows=requests if rows is None else rows,
        requests=requests,
        reason="full",
        instance=instance,
        ok=ok,
        start_s=start_s,
        run_start_s=start_s + gather_s,
        run_end_s=start_s + gather_s + run_s,
        done_s=start_s + gather_s + run_s + scatter_s,
        arrivals_s=[admitted_s - decode_s] * answered,
        admissions_s=[admitted_s] * answered,
        completed_rows=answered,
        late=0,
        **more,
    )


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read a page in the text format: value by sample name and labels."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is on the page twice"
            found[key] = sample.value
    return found


def value(page: bytes, name: str, **labels: str) -> float | None:
    """Return one sample of a page, None if it is not there."""
    return samples(page).get((name, frozenset(labels.items())))
