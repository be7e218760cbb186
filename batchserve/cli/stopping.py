"""Signals that end a server: the first drains, the second stops at once. SIGHUP reads the configuration again."""

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

    def install_reload(self, loop: asyncio.AbstractEventLoop, reload: Callable[[], None]) -> None:
        """Call `reload` at each SIGHUP.

        A terminal that is closed sends the same signal: a server that was started in one and has lost it stops.
        """
        had_terminal = _has_terminal()

        def hung_up() -> None:
            if had_terminal and not _has_terminal():
                if not self._first.is_set():
                    self._arrived(signal.SIGHUP)
            else:
                reload()

        loop.add_signal_handler(signal.SIGHUP, hung_up)

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


def _has_terminal() -> bool:
    """Say whether the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
