"""The latest errors that were answered, for people: the same one many times is one line with a count."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchserve.errors import RequestError

__all__ = ["MOST_LINES", "RecentErrors"]

MOST_LINES = 30
LONGEST_TEXT = 300

_NUMBER = re.compile(r"[0-9]+")
"""Texts that differ in their numbers alone, such as how many rows wait, are the same error; the latest one is shown."""


class RecentErrors:
    """Keeps the latest `MOST_LINES` different errors. Event loop only.

    The server's own failures (5xx) are always kept, since one wants to see them afterwards. What callers did wrong and
    what was refused can be many thousands a second, so that is kept only while somebody looks.

    Args:
        wall_clock: Seconds since the epoch.

    Attributes:
        is_watched: True while somebody looks.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self.is_watched = False
        self._wall_clock = wall_clock
        self._lines: OrderedDict[tuple[int, str, str], dict[str, Any]] = OrderedDict()

    def note(self, error: RequestError, model: str = "", request_id: str = "") -> None:
        """Note an error that was answered.

        Args:
            error: Its text is meant for clients, so it may be shown.
            model: The model that the request named, "" if it named none.
            request_id: What the answer's `X-Request-Id` says.
        """
        if error.status < 500 and not self.is_watched:
            return
        text = str(error)[:LONGEST_TEXT]
        key = (error.status, model, _NUMBER.sub("#", text))
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = {"status": error.status, "model": model, "count": 0}
            if len(self._lines) > MOST_LINES:
                self._lines.popitem(last=False)
        else:
            self._lines.move_to_end(key)
        line["text"] = text
        line["count"] += 1
        line["at"] = round(self._wall_clock(), 3)
        line["request_id"] = request_id

    def read(self) -> list[dict[str, Any]]:
        """Return the lines, the latest first."""
        return [dict(line) for line in reversed(self._lines.values())]
