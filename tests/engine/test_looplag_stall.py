"""The loop lag on real event loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from batchserve.telemetry.looplag import LoopLag

uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed here")


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_callback_that_holds_the_loop_shows_as_lag(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A stall of 80 ms that begins right after the timer was set is seen as at least 80 ms less the period."""
    stall_s, period_s = 0.08, 0.02

    async def measure() -> list[float]:
        seen: list[float] = []
        enough = asyncio.Event()

        def observe(lag_s: float) -> None:
            seen.append(lag_s)
            if len(seen) == 3:
                enough.set()

        lag = LoopLag(observe, period_s)
        lag.start(asyncio.get_running_loop())
        until = time.monotonic() + stall_s
        while time.monotonic() < until:  # what no callback should do
            pass
        await enough.wait()
        lag.stop()
        return seen

    with asyncio.Runner(loop_factory=new_loop) as runner:
        seen = runner.run(measure())
    assert seen[0] >= stall_s - period_s - 0.002  # uvloop's timers may be early by their resolution and its cached time
    assert all(lag_s >= 0 for lag_s in seen)
