"""Signals that end a server: the first drains, the second stops at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["StopSignals"]


class StopSignals:
    """Listens to SIGINT and SIGTERM from `install` on. Event loop only.

    Args:
        say: Tells a person what happens; takes one line.
        drain_timeout: How long the drain may take, in words.
    """

    def __init__(self, say: Callable[[str], None], drain_timeout: str) -> None:
        self._say = say
        self._drain_timeout = drain_timeout
        self._first = asyncio.Event()

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen."""
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._arrived, number)

    async def wait(self) -> None:
        """Wait for the first signal."""
        await self._first.wait()

    def _arrived(self, number: signal.Signals) -> None:
        if not self._first.is_set():
            self._say(
                f"{number.name}: finishing the requests that were admitted, for at most {self._drain_timeout}; "
                "once more stops at once"
            )
            self._first.set()
            return
        self._say(f"{number.name} again: stopped at once; requests that were still running are lost")
        sys.stderr.flush()
        # A batch cannot be interrupted and its thread would keep the process: leave without waiting for any of them.
        os._exit(128 + number)
