"""How often the load looks at the clock and the sockets: as rarely as the figures allow.

A wake-up costs a virtual machine more processor time than the request that it is for. A load that wakes up once for
several requests is cheaper and less exact: it sends a request up to half a tick too early or too late, and sees its
answer up to a tick, half of one on average, after it has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["LONGEST_S", "SHARE", "Ticks"]

SHARE = 1 / 40
"""Of the median latency: a tick then adds an eightieth to it."""

LONGEST_S = 1e-3

SHORTEST_S = 1e-4
"""A shorter one saves nothing."""

LEAST_EVENTS = 2.0
"""Requests and answers in a tick, on average, below which single wake-ups are the cheaper way."""


class Ticks:
    """Chooses the tick from the latencies seen. Event loop only."""

    def __init__(self) -> None:
        self._medians_s: dict[int, float] = {}

    def choose(self, streams: Iterable[Sequence[float]], seconds: float) -> float:
        """Take in the latest latencies and return the tick to go on with.

        Args:
            streams: Latencies of each stream, in seconds; may be empty.
            seconds: The time in which these were answered.

        Returns:
            Seconds; 0 to wake up for each request and answer. The stream with the lowest median decides.
        """
        answered = 0
        for index, latencies_s in enumerate(streams):
            if latencies_s:
                answered += len(latencies_s)
                self._medians_s[index] = sorted(latencies_s)[len(latencies_s) // 2]
        tick_s = min(LONGEST_S, SHARE * min(self._medians_s.values(), default=0.0))
        is_worth_it = tick_s >= SHORTEST_S and 2 * answered * tick_s >= LEAST_EVENTS * seconds
        return tick_s if is_worth_it else 0.0
