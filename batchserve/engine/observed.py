"""What batches in service took, run and way there and back, averaged over many: what a simulation begins with.

The scheduler's own curve follows the last few runs, as it must when a machine slows down; a prediction for minutes of
traffic wants the mean of minutes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from batchserve.core.cost import size_class

__all__ = ["Observation", "Observed"]

MOST = 50
"""A batch moves its class's means by this part of itself at least."""

MOST_RATIOS = 4096
"""So many are kept: at 100 batches a second those of 40 seconds."""

LEAST_RATIO, MOST_RATIO = 0.01, 1000.0


class Observation(NamedTuple):
    """What batches of about a size took on average.

    The way grows with the size, for the answers of the batch before are written meanwhile: 0.3 ms for a few rows and
    1.2 ms for 32 of a perceptron that runs for 20.

    Attributes:
        size: Rows, or tokens if the model pads.
        run_s: Seconds of the run.
        way_s: Seconds from the cut until the batch was back, without the run.
        batches: How many there were, at most `MOST`.
    """

    size: float
    run_s: float
    way_s: float
    batches: int


class Observed:
    """Means by size class, and how far the latest batches were from them. Event loop only.

    Args:
        observations: As an earlier process kept them.
        ratios: Likewise.

    Attributes:
        ratios: By how much the latest batches took longer than the mean, run and way, as a share of the mean run and 1
            more, in their order. A stall of the machine is in it as it came, once in so many batches, and so are times
            when all runs are slow: a standard deviation has neither.
    """

    def __init__(self, observations: Iterable[Observation] = (), ratios: Iterable[float] = ()) -> None:
        self._classes = {size_class(round(one.size)): one for one in observations}
        self.ratios = deque(ratios, MOST_RATIOS)

    def observe(self, size: int, run_s: float, way_s: float) -> None:
        """Take a batch in."""
        number = size_class(size)
        known = self._classes.get(number)
        if known is None:
            self._classes[number] = Observation(float(size), run_s, way_s, 1)
            return
        count = min(MOST, known.batches + 1)
        if known.batches > 1:  # one run alone is no mean to scatter around
            ratio = (run_s + way_s - known.way_s) / known.run_s
            self.ratios.append(round(min(MOST_RATIO, max(LEAST_RATIO, ratio)), 3))
        self._classes[number] = Observation(
            known.size + (size - known.size) / count,
            known.run_s + (run_s - known.run_s) / count,
            known.way_s + (way_s - known.way_s) / count,
            count,
        )

    @property
    def observations(self) -> tuple[Observation, ...]:
        """One for each size class seen, ascending in size."""
        return tuple(sorted(self._classes.values()))
