"""Where a batch runs: on its instance's thread, or at once on the event loop's (docs/architecture.md).

Handing a batch over and back costs two wake-ups, 20 to 160 µs; a run of a small model takes less. Such a run is done in
place, on the loop's thread, unless the loop is late already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.cost import CostModel

__all__ = ["Placement"]

FIRST_HOP_S = 60e-6
"""What a hand-over there and back is taken to cost until one was measured."""

MAX_IN_PLACE_S = 200e-6
"""No run expected to take longer holds the loop, however slow hand-overs are.

A hand-over is slow when the processors are busy, and so are the runs. Measured in turns with 64 connections, where runs
of the small perceptron take about 0.1 ms, a request cost 20.2 µs of processor time like this, 23.4 µs with 0.1 ms here,
and 26.1 µs with no run in place (2 virtual cores of an AMD EPYC).
"""

MAX_LAG_S = 2e-3
"""A loop that reaches the decision so long after the request was read is behind, and has better things to do."""

_WEIGHT = 0.05


class Placement:
    """Decides where each batch of one model runs. Event loop only.

    Args:
        cost: The model's cost model; the decision follows its moving means.
        may_run_in_place: False if every batch goes to its instance's thread.
    """

    def __init__(self, cost: CostModel, *, may_run_in_place: bool = True) -> None:
        self.hop_s = FIRST_HOP_S
        self._cost = cost
        self._may_run_in_place = may_run_in_place

    def is_in_place(self, tokens: int, lag_s: float) -> bool:
        """Say whether a run is shorter than the hand-over that it would need.

        Args:
            tokens: Rows of the batch, times its length where the model pads: what costs are learnt by.
            lag_s: How long ago the decision was asked for: what the loop is behind.
        """
        if not self._may_run_in_place or lag_s > MAX_LAG_S or self._cost.is_empty:
            return False
        return self._cost.recent(tokens) < min(self.hop_s, MAX_IN_PLACE_S)

    def observe_hop(self, seconds: float) -> None:
        """Take in what a hand-over to a thread and back cost."""
        self.hop_s += _WEIGHT * (seconds - self.hop_s)
