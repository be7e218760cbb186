"""How requests come in: their rate, and how far away the next one is (batching.md section 5.3)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator

__all__ = ["Gaps", "Rate"]

_NO_TARGET_TAU_S = 0.5
_LEAST_TAU_S = 0.05
_TAU_TARGETS = 5

_FIRST_EDGE_S = 10e-6
_GROWTH = 1.5
_LOG_GROWTH = math.log(_GROWTH)
_CLASSES = 37  # edges from 10 µs to some 15 s, and one class below and one beyond them
_EDGES_S = [_FIRST_EDGE_S * _GROWTH**index for index in range(_CLASSES - 1)]
_HALVE_AFTER = 200

MIN_GAPS = 20
"""Fewer gaps say nothing about the next one (batching.md section 7.3)."""

JUMP_S = 10.0
"""A silence this long, or a clock that jumped over one, makes what was learnt before it worthless (section 10)."""


class Rate:
    """Rows that arrive in a second, as a moving mean. Refused rows count. One thread.

    Args:
        target_s: The latency target that the mean's memory follows; None for none.
    """

    def __init__(self, target_s: float | None) -> None:
        self._tau_s = _NO_TARGET_TAU_S if target_s is None else max(_TAU_TARGETS * target_s, _LEAST_TAU_S)
        self._sum = 0.0
        self._pending = 0
        self._at_s: float | None = None
        self._since_s = 0.0

    def note(self, rows: int, now: float) -> None:
        """Count rows that have just arrived."""
        if self._at_s is None:
            self._at_s = self._since_s = now
        self._pending += rows
        if now - self._at_s > self._tau_s / 64:  # what comes close together is folded in together
            self._fold(now)

    def per_second(self, now: float) -> float:
        """Return the rate; 0 before the first arrival."""
        if self._at_s is None:
            return 0.0
        self._fold(now)
        # A young mean has not yet seen all that it would: correct for what is missing, but let not one request that
        # arrived this moment look like a flood.
        seen = 1 - math.exp(-max(now - self._since_s, self._tau_s / 20) / self._tau_s)
        return self._sum / self._tau_s / seen

    def _fold(self, now: float) -> None:
        assert self._at_s is not None, "nothing has arrived"
        self._sum += self._pending  # as if all had come when the last were folded in: a 64th of the memory too early
        self._pending = 0
        if now > self._at_s:
            self._sum *= math.exp((self._at_s - now) / self._tau_s)
            self._at_s = now


class Gaps:
    """A histogram of the time between two arrivals, in classes that grow by half; the old fades. One thread.

    Attributes:
        seen: Gaps noted, faded ones included.
    """

    __slots__ = ("_counts", "_last_s", "_total", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self._counts = [0.0] * _CLASSES
        self._total = 0.0
        self._last_s: float | None = None

    def note(self, now: float) -> None:
        """Take in an arrival."""
        last_s, self._last_s = self._last_s, now
        if last_s is None:
            return
        gap_s = now - last_s
        if gap_s > JUMP_S:
            self.forget()
            self._last_s = now
            return
        if gap_s <= _FIRST_EDGE_S:
            self._counts[0] += 1
        else:
            at = math.ceil(math.log(gap_s / _FIRST_EDGE_S) / _LOG_GROWTH - 1e-9)
            self._counts[at if at < _CLASSES else _CLASSES - 1] += 1
        self.seen += 1
        self._total += 1
        if self.seen % _HALVE_AFTER == 0:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2

    def forget(self) -> None:
        """Begin anew."""
        self.seen = 0
        self._counts = [0.0] * _CLASSES
        self._total = 0.0
        self._last_s = None

    def ahead(self, now: float, limit_s: float) -> Iterator[tuple[float, float, float]]:
        """Say what can be expected of the next arrival, given how long ago the last one was.

        Args:
            now: The moment.
            limit_s: The longest wait of interest.

        Yields:
            For each class edge up to `limit_s`, ascending: the wait `w` in seconds from now, the chance that the next
            request comes within it, and the expected wait in that case weighted by that chance, in seconds.
        """
        passed_s = 0.0 if self._last_s is None else now - self._last_s
        first = bisect_right(_EDGES_S, passed_s)  # the classes that the gap under way may still fall into
        left = sum(self._counts[first:])
        if left <= 0:
            return
        chance = wait = 0.0
        start_s = 0.0
        for index in range(first, len(_EDGES_S)):
            edge_s = _EDGES_S[index]
            width_s = edge_s - passed_s
            if width_s > limit_s:
                return
            share = self._counts[index] / left
            chance += share
            wait += share * (start_s + width_s) / 2
            start_s = width_s
            yield width_s, chance, wait
