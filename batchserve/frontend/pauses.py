"""Pauses in long work on a helper thread, in which the event loop gets the interpreter."""

from __future__ import annotations

import asyncio
import math
import time

__all__ = ["Pauses"]

WORK_S = 0.5e-3
"""Work between two pauses: what the event loop waits at most, and ten times what a pause costs."""

PAUSE_S = 1e-6
"""Length asked for; Linux makes some 55 µs of it, the slack of its timers.

It has to be a real sleep. Whoever gives the interpreter up and takes it again at once is back before the event loop's
thread has woken up, and by giving it up has also restarted the 5 ms after which CPython would have made it wait: the
loop then stood still for up to 430 ms.
"""


class Pauses:
    """Lets other threads run now and then while a long piece of work goes on. Owned by the thread that made it.

    On an event loop's own thread it does nothing: there is nobody to make room for.
    """

    __slots__ = ("_due_s",)

    def __init__(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._due_s = time.perf_counter() + WORK_S
        else:
            self._due_s = math.inf

    def here(self) -> None:
        """Pause if the last one is long enough ago; to be called after every small step of the work. Blocks."""
        if time.perf_counter() >= self._due_s:
            time.sleep(PAUSE_S)
            self._due_s = time.perf_counter() + WORK_S
