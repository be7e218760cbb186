"""A one-shot timer that is right to a tenth of a millisecond.

asyncio rounds its own timers up to whole milliseconds, which is longer than many batches run. On Linux a timerfd does
better (0.03 to 0.06 ms late); elsewhere asyncio's timer has to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import sys
from collections.abc import Callable

__all__ = ["Timer"]

_CLOCK_MONOTONIC = 1
_TFD_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME = 1


class Timer:
    """Calls back once, at a moment that may be moved.

    It may call early, never late by more than the loop is: a moment later than the one already armed is not armed
    again, so that a queue whose deadlines only move away costs one system call in a while instead of one a batch. Who
    is called must look at the clock anyway. Event loop only.

    Args:
        loop: Where the callback runs.
        callback: Called without arguments.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._armed_s: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._fd = _create_timerfd()
        # Made once: making it costs 15 µs on a processor that has just woken up.
        self._spec = _ITimerSpec()
        self._spec_at = ctypes.byref(self._spec)
        if self._fd is not None:
            loop.add_reader(self._fd, self._on_readable)

    @property
    def is_precise(self) -> bool:
        """True if a timerfd keeps the time."""
        return self._fd is not None

    def wake_at(self, when_s: float | None) -> None:
        """Ask to be called no later than `when_s` (monotonic seconds; past ones mean at once), None for no need."""
        if when_s is None or (self._armed_s is not None and self._armed_s <= when_s):
            return
        self._armed_s = when_s
        if self._fd is not None:
            self._arm(when_s)
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_at(when_s, self._fire)

    def close(self) -> None:
        """Never call again. May be called twice."""
        self._armed_s = None
        if self._handle is not None:
            self._handle.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _arm(self, when_s: float) -> None:
        when_ns = max(1, int(when_s * 1e9))  # 0 would disarm
        if hasattr(os, "timerfd_settime_ns"):
            os.timerfd_settime_ns(self._fd, flags=_TFD_TIMER_ABSTIME, initial=when_ns)
            return
        self._spec.value_s, self._spec.value_ns = divmod(when_ns, 1_000_000_000)
        if _libc().timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._spec_at, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def _on_readable(self) -> None:
        if self._fd is None:
            return
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # armed again between the wake-up and this call
            return
        self._fire()

    def _fire(self) -> None:
        self._armed_s = None
        self._handle = None
        self._callback()


def _create_timerfd() -> int | None:
    """Return a new timerfd on the monotonic clock, None where the system has none."""
    if not sys.platform.startswith("linux"):
        return None
    if hasattr(os, "timerfd_create"):  # Python 3.13 on
        return int(os.timerfd_create(_CLOCK_MONOTONIC, flags=_TFD_FLAGS))
    fd = int(_libc().timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS))
    return fd if fd >= 0 else None


class _ITimerSpec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
