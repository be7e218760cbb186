"""The loop lag is how late a timer fires, by a clock and a loop that the test holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.telemetry_fakes import FakeClock

from batchserve.telemetry.looplag import LoopLag


class FakeTimer:
    def __init__(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.delay_s = delay_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    def __init__(self) -> None:
        self.timers: list[FakeTimer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(delay_s, callback))
        return self.timers[-1]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


def started(loop: FakeLoop, clock: FakeClock) -> tuple[LoopLag, list[float]]:
    seen: list[float] = []
    lag = LoopLag(seen.append, period_s=0.1, clock=clock)
    lag.start(loop)  # type: ignore[arg-type]
    return lag, seen


def test_the_lag_is_the_time_since_the_timer_was_due(loop: FakeLoop, clock: FakeClock) -> None:
    _, seen = started(loop, clock)
    clock.now += 0.1 + 0.025
    loop.timers[-1].callback()
    assert seen == [pytest.approx(0.025)]


def test_a_timer_that_fires_early_shows_no_lag(loop: FakeLoop, clock: FakeClock) -> None:
    _, seen = started(loop, clock)
    clock.now += 0.0995
    loop.timers[-1].callback()
    assert seen == [0.0]


def test_a_long_stall_is_one_lag_and_the_next_timer_counts_from_its_end(loop: FakeLoop, clock: FakeClock) -> None:
    _, seen = started(loop, clock)
    clock.now += 5.1
    loop.timers[-1].callback()
    assert len(loop.timers) == 2
    assert loop.timers[-1].delay_s == 0.1
    clock.now += 0.1
    loop.timers[-1].callback()
    assert seen == [pytest.approx(5.0), pytest.approx(0.0, abs=1e-9)]


def test_nothing_is_observed_after_the_stop(loop: FakeLoop, clock: FakeClock) -> None:
    lag, seen = started(loop, clock)
    lag.stop()
    assert loop.timers[-1].is_cancelled
    loop.timers[-1].callback()  # as a loop does that had taken it up already
    assert (seen, len(loop.timers)) == ([], 1)
    lag.stop()


def test_starting_twice_runs_one_timer(loop: FakeLoop, clock: FakeClock) -> None:
    lag, _ = started(loop, clock)
    lag.start(loop)  # type: ignore[arg-type]
    assert len(loop.timers) == 1


def test_it_can_be_started_again(loop: FakeLoop, clock: FakeClock) -> None:
    lag, seen = started(loop, clock)
    lag.stop()
    clock.now += 50
    lag.start(loop)  # type: ignore[arg-type]
    clock.now += 0.1
    loop.timers[-1].callback()
    assert seen == [pytest.approx(0.0, abs=1e-9)]
