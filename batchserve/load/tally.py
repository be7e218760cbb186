"""Counts what becomes of requests while they run: lists that are cheap to append to, summed up now and then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from batchserve.load.latencies import Latencies

if TYPE_CHECKING:
    from batchserve.load.answers import Head
    from batchserve.load.plan import Plan

__all__ = ["Second", "StreamTally", "Tally"]


class StreamTally:
    """What became of the requests of one stream.

    Attributes:
        dues_s: When each answered request was due; waits to be summed up.
        latencies_s: How long each took, in the same order.
        latencies: All of them.
        within: How many were within the stream's target.
        failures: Number of failed requests by kind.
        rows: Rows of the answered requests.
    """

    def __init__(self) -> None:
        self.dues_s: list[float] = []
        self.latencies_s: list[float] = []
        self.latencies = Latencies()
        self.within = 0
        self.failures: Counter[str] = Counter()


class Second:
    """What became of the requests that were due in one second."""

    __slots__ = ("failed", "latencies", "within")

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.within = 0
        self.failed = 0


class Tally:
    """Counts the requests of one run that are due after its warm-up.

    Args:
        plan: The run.
        start_s: When it begins (monotonic).

    Attributes:
        streams: By index.
        seconds: By number, from the run's beginning; those without a request are missing.
        lag: How late the load itself was when it handled a request that was due.
        phases: Seconds by phase of the server, of those requests that asked.
        batch_rows: How many of those requests ran among how many rows.
        examples: What was said with the first failure of each kind.
    """

    def __init__(self, plan: Plan, start_s: float) -> None:
        self._plan = plan
        self._start_s = start_s
        self._first_s = start_s + plan.warmup_s
        self._phases: dict[str, list[float]] = {}
        self.lags_s: list[float] = []
        self.streams = [StreamTally() for _ in plan.streams]
        self.seconds: dict[int, Second] = {}
        self.lag = Latencies()
        self.phases: dict[str, Latencies] = {}
        self.batch_rows: Counter[int] = Counter()
        self.examples: dict[str, str] = {}

    def fail(self, stream: int, due_s: float, kind: str, text: bytes) -> None:
        """Note a request without a right answer."""
        if due_s < self._first_s:
            return
        self.streams[stream].failures[kind] += 1
        self._second(int(due_s - self._start_s)).failed += 1
        self.examples.setdefault(kind, text.decode("utf-8", "replace").strip())

    def time(self, head: Head) -> None:
        """Note what a server said about one request."""
        for name, seconds in (head.phases_s or {}).items():
            self._phases.setdefault(name, []).append(seconds)
        if head.batch_rows:
            self.batch_rows[head.batch_rows] += 1

    def flush(self) -> None:
        """Sum up what has been noted."""
        for index, stream in enumerate(self.streams):
            if stream.dues_s:
                self._flush_stream(stream, self._plan.target_of(index))
        self.lag.observe(self.lags_s)
        self.lags_s.clear()
        for name, values in self._phases.items():
            self.phases.setdefault(name, Latencies()).observe(values)
            values.clear()

    def _flush_stream(self, stream: StreamTally, target_s: float | None) -> None:
        dues, latencies = np.array(stream.dues_s), np.array(stream.latencies_s)
        stream.dues_s.clear()
        stream.latencies_s.clear()
        is_counted = dues >= self._first_s
        dues, latencies = dues[is_counted], latencies[is_counted]
        stream.latencies.observe(latencies)
        is_good = latencies <= (np.inf if target_s is None else target_s)
        stream.within += int(is_good.sum())
        numbers = (dues - self._start_s).astype(np.int64)
        for number in np.unique(numbers):
            second, is_here = self._second(int(number)), numbers == number
            second.latencies.observe(latencies[is_here])
            second.within += int(is_good[is_here].sum())

    def _second(self, number: int) -> Second:
        second = self.seconds.get(number)
        if second is None:
            second = self.seconds[number] = Second()
        return second

    def failures(self) -> Mapping[str, int]:
        """Return the number of failed requests by kind, of all streams."""
        return sum((stream.failures for stream in self.streams), Counter())
