"""Pauses of the garbage collector."""

from __future__ import annotations

import gc

from support.telemetry_fakes import FakeClock, value

from batchserve.telemetry.metrics import Metrics
from batchserve.telemetry.pauses import GcPauses


class SteppingClock(FakeClock):
    """A clock that moves by 2 ms whenever it is read."""

    def __call__(self) -> float:
        self.now += 0.002
        return self.now


def test_a_collection_is_timed_and_charged_to_its_generation() -> None:
    pauses = GcPauses(SteppingClock())
    metrics = Metrics(clock=FakeClock(1000.1), pauses=pauses)
    gc.disable()  # no collection but those below
    try:
        pauses.start()
        pauses.start()  # twice is once
        gc.collect(1)
        gc.collect(2)
        gc.collect(2)
        pauses.stop()
        gc.collect(2)
    finally:
        gc.enable()
    page, _ = metrics.render()
    seconds = [value(page, "batchserve_gc_pause_seconds_total", generation=str(g)) for g in range(3)]
    assert [round(each or 0, 6) for each in seconds] == [0, 0.002, 0.004]
    assert round(value(page, "batchserve_gc_pause_max_seconds") or 0, 6) == 0.002
    assert pauses._heard not in gc.callbacks


def test_a_collection_that_was_under_way_at_the_start_is_left_out() -> None:
    pauses = GcPauses(SteppingClock())
    pauses._heard("stop", {"generation": 2})
    assert pauses.seconds == [0, 0, 0]
