"""The console's numbers: what they are of, how right they are, and that nothing is done when nobody looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.telemetry_fakes import FakeClock, FakeModel, batch

from batchserve.core.cost import CostModel
from batchserve.core.counters import Counters
from batchserve.core.sizing import Sizing
from batchserve.engine.events import Listener
from batchserve.telemetry.live import WINDOW_TICKS, Live


class Watched:
    """One model with its listeners, as the engine has them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.model = FakeModel(instances=2)
        self.model.cost = CostModel([(1, 0.001), (8, 0.004)], 60.0)  # type: ignore[attr-defined]
        self.model.sizing = Sizing(self.model.cost, 8)  # type: ignore[attr-defined]
        self.listeners: list[Listener] = []
        self.live = Live(lambda: [self.model], self.listeners, self._totals, lambda: 0.002, self.clock)  # type: ignore[list-item,return-value]

    def _totals(self, name: str, version: int) -> Counters:
        counters = self.model.counters
        return replace(counters, refused=dict(counters.refused), batches=dict(counters.batches))

    def tell(self, event: object) -> None:
        for listener in list(self.listeners):
            listener.batch_ended(self.model, event)  # type: ignore[arg-type]

    def tick(self) -> dict[str, object]:
        self.clock.now += 1.0
        return self.read()

    def read(self) -> dict[str, object]:
        (numbers,) = self.live.read()["models"]
        return dict(numbers)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_it_listens_only_between_start_and_stop(watched: Watched) -> None:
    assert watched.listeners == []
    watched.live.start()
    watched.live.start()
    assert watched.listeners == [watched.live]
    watched.live.stop()
    watched.live.stop()
    assert watched.listeners == []


def test_what_was_heard_before_is_forgotten(watched: Watched) -> None:
    watched.live.start()
    watched.tell(batch(5))
    watched.live.stop()
    watched.live.start()
    assert watched.read()["latency_ms"] == {"count": 0, "p50": None, "p90": None, "p99": None}


def test_percentiles_are_right_to_a_step(watched: Watched) -> None:
    """Against numpy's on the values themselves: a step is 4.4 %, and half of one is the least to be hoped for."""
    watched.live.start()
    watched.read()
    dice = np.random.default_rng(3)
    times_s = dice.lognormal(-6.0, 0.8, 5000)
    for chunk in np.split(times_s, 100):
        event = batch(len(chunk))
        watched.tell(replace(event, arrivals_s=(event.done_s - chunk).tolist()))
    latency = watched.tick()["latency_ms"]
    assert isinstance(latency, dict)
    assert latency["count"] == 5000
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert latency[name] == pytest.approx(np.percentile(times_s, share) * 1e3, rel=0.045)


def test_phases_sizes_and_operating_point_are_means_of_the_window(watched: Watched) -> None:
    watched.live.start()
    watched.read()
    watched.tell(batch(2, rows=4))
    watched.tell(batch(2, rows=8, run_s=0.020))
    watched.tell(batch(1, rows=8, ok=False))
    numbers = watched.tick()
    phases = numbers["phases_ms"]
    assert isinstance(phases, dict)
    assert phases == pytest.approx({"decode": 1.0, "queue": 2.0, "gather": 3.0, "run": 15.0, "scatter": 4.0}, abs=0.01)
    assert numbers["sizes"] == [[4, 1], [8, 2]]
    assert numbers["operating_point"] == pytest.approx([6.0, 15.0], abs=0.01)
    assert numbers["sizing"] == {"useful": 8, "is_overloaded": False}
    assert numbers["cost"] == {"points": [[1.0, 1.0], [8.0, 4.0]]}


def test_rates_are_those_of_the_last_second(watched: Watched) -> None:
    watched.live.start()
    first = watched.read()["rates"]
    assert first == {"received": 0.0, "completed": 0.0, "rows": 0.0, "batches": 0.0, "errors": 0.0}
    counters = watched.model.counters
    counters.received, counters.completed, counters.rows = 100, 90, 180
    counters.refused["queue"] = 10
    counters.batches["full"] = 30
    watched.clock.now += 1.0
    numbers = watched.tick()
    assert numbers["rates"] == {"received": 50.0, "completed": 45.0, "rows": 90.0, "batches": 15.0, "errors": 5.0}
    assert numbers["reasons"] == {"full": 30}
    assert watched.tick()["rates"] == dict.fromkeys(("received", "completed", "rows", "batches", "errors"), 0.0)


def test_busy_is_the_share_of_each_instance(watched: Watched) -> None:
    watched.live.start()
    watched.read()
    watched.tell(batch(1, instance=1, gather_s=0.1, run_s=0.3, scatter_s=0.1))
    assert watched.tick()["busy"] == [0.0, 0.5]


def test_old_seconds_leave_the_window(watched: Watched) -> None:
    watched.live.start()
    watched.read()
    watched.tell(batch(3))
    for _ in range(WINDOW_TICKS):
        numbers = watched.tick()
        assert numbers["sizes"] == [[3, 1]]
    assert watched.tick()["sizes"] == []


def test_many_batches_are_counted_before_they_pile_up(watched: Watched) -> None:
    watched.live.start()
    watched.read()
    for _ in range(2000):
        watched.tell(batch(1))
    (kept,) = watched.live._watched.values()
    assert len(kept._events) < 1024
    latency = watched.tick()["latency_ms"]
    assert isinstance(latency, dict)
    assert latency["count"] == 2000


def test_a_version_that_left_is_not_kept(watched: Watched) -> None:
    watched.live.start()
    watched.tell(batch(1))
    watched.read()
    watched.live._models = list
    assert watched.live.read()["models"] == []
    assert watched.live._watched == {}
