"""What the process uses: share of a core since the last reading, and resident memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ProcessUse"]

_STATM = Path("/proc/self/statm")


class ProcessUse:
    """Reads this process's use of the machine. One thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._at_s, self._cpu_s = self._clock(), time.process_time()

    def read(self) -> dict[str, float | int | None]:
        """Return cores used since the last reading (all threads), and resident bytes (None where there is no /proc)."""
        now, cpu_s = self._clock(), time.process_time()
        took_s = now - self._at_s
        cores = round((cpu_s - self._cpu_s) / took_s, 3) if took_s > 0 else 0.0
        self._at_s, self._cpu_s = now, cpu_s
        return {"cores": cores, "resident_bytes": _resident_bytes()}


def _resident_bytes() -> int | None:
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
