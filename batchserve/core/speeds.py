"""How quick the devices of one model are, as factors of its cost curve: measured at load, and learnt from every run."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["SAME", "Speeds"]

SAME = 1.05
"""A device that takes less than so many times as long as the quickest counts as equally quick: noise must not make one
of two equal devices the slower one, which is asked last and is given less."""

_WEIGHT = 0.05
"""How far a factor moves towards a new ratio; runs of different sizes need not have the same one."""

_SLOWER, _FASTER, _IN_A_ROW = 1.3, 0.75, 3
"""So many runs in a row beyond one of these mean that the device has changed, as for the curve (batching.md 5.1)."""

_LEAST, _MOST = 0.05, 1000.0


class Speeds:
    """The devices that a model's slots are on. Slots take turns on them: slot `i` is on device `i % devices`.

    The first device is the one that the curve is of: it has the factor 1 for good, and whatever changes there changes
    the curve. One thread.

    Args:
        devices: How many.
        factors: What runs take on each device, as multiples of what they take on the first; empty if that is not known.

    Attributes:
        factors: The same as learnt so far, by device; 1 while nothing is known.
    """

    def __init__(self, devices: int, factors: Sequence[float] = ()) -> None:
        self.factors = [min(max(factor, _LEAST), _MOST) for factor in factors] or [1.0] * devices
        assert len(self.factors) == devices, "a factor for each device"
        self._is_known = [bool(factors) or not device for device in range(devices)]
        self._off: list[list[float]] = [[] for _ in range(devices)]

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len(self.factors)

    def device_of(self, slot: int) -> int:
        """Return the device of a slot."""
        return slot % len(self.factors)

    def of(self, slot: int) -> float:
        """Return what a run takes on a slot, as a multiple of the curve: 1, or more than `SAME`."""
        factor = self.factors[slot % len(self.factors)]
        return factor if factor > SAME else 1.0

    def observe(self, slot: int, ratio: float) -> float:
        """Take in what a run took on a slot.

        Args:
            slot: Where it ran.
            ratio: Its time, as a multiple of what the curve says.

        Returns:
            The factor to divide its time by before the curve learns from it; 0 if the curve should not: then it is the
            device that differs from what is known, and not the model.
        """
        device = slot % len(self.factors)
        if not device:
            return 1.0
        factor, off = self.factors[device], self._off[device]
        ratio = min(max(ratio, _LEAST), _MOST)
        if not self._is_known[device]:
            self._is_known[device], self.factors[device] = True, ratio
            return 0.0
        if _FASTER <= ratio / factor <= _SLOWER:
            off.clear()
            self.factors[device] += _WEIGHT * (ratio - factor)
            return factor
        off.append(ratio)
        if len(off) == _IN_A_ROW:
            if min(off) > _SLOWER * factor or max(off) < _FASTER * factor:
                self.factors[device] = math.prod(off) ** (1 / _IN_A_ROW)
            off.clear()
        return 0.0
