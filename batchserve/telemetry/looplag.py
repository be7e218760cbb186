"""How late the event loop is: a timer that notes when it should have fired and when it did."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["LoopLag"]


class LoopLag:
    """Measures the lag of an event loop. Event loop only; whoever starts it stops it.

    The lag is the time from when the timer was due until it ran, as it is: nothing is subtracted. asyncio waits in
    whole milliseconds, rounded up, and uvloop counts them from the start of the loop's turn, so an idle loop shows
    about 0.1 ms and now and then 1 ms more; uvloop may even be early, which counts as 0. Look for what is above that.

    A stall shorter than the period is seen only if a timer falls into it: of a stall of L seconds that happens once, a
    share of L / period is seen, and on average as L / 2. A stall longer than the period is always seen, with at
    least L - period. One timer every 0.1 s costs nothing that can be measured.

    Args:
        observe: Takes each lag, in seconds, at least 0.
        period_s: Seconds from one timer to the next.
        clock: Monotonic seconds. Not `loop.time()`: uvloop's stands still during a turn of the loop.
    """

    def __init__(
        self, observe: Callable[[float], None], period_s: float = 0.1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._observe = observe
        self._period_s = period_s
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to measure a loop. Does nothing if it measures already."""
        if self._loop is None:
            self._loop = loop
            self._arm(loop)

    def stop(self) -> None:
        """Stop at once: `observe` is not called any more. May be called again."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = self._clock() + self._period_s
        self._timer = loop.call_later(self._period_s, self._tick)

    def _tick(self) -> None:
        loop = self._loop
        if loop is None:
            return
        self._observe(max(0.0, self._clock() - self._due_s))
        self._arm(loop)  # from now on, not from when it was due: one stall is one large lag, not a row of them
