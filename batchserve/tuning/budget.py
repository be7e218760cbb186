"""How long everything may take together."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Budget"]

MEASURING, PREDICTING = 0.4, 0.55
"""Shares of the time after which measuring, and predicting, are over; the rest is for real runs."""


class Budget:
    """A time that is not exceeded: whoever begins something asks first whether it still fits. One thread.

    Args:
        seconds: How long.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start_s = clock()

    @property
    def spent_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start_s

    @property
    def left_s(self) -> float:
        """Seconds left; negative if something took longer than it should have."""
        return self.seconds - self.spent_s

    def left_of(self, share: float) -> float:
        """Seconds left until so much of the whole time is over."""
        return share * self.seconds - self.spent_s
