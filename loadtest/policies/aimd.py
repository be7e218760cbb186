"""Additive increase, multiplicative decrease of the batch size, as Clipper does it."""

from __future__ import annotations

from typing import Any

from loadtest.policies.base import FifoPolicy

__all__ = ["Aimd"]


class Aimd(FifoPolicy):
    """Run what waits, up to a size that grows while runs keep the target and shrinks when one does not.

    From Crankshaw et al., Clipper (NSDI 2017), section 4.3.1: the size grows by a fixed amount until a batch takes
    longer than the latency objective, then it is cut back by a tenth. The objective is for the run; what a request
    waits before it is not part of it, so users are told to set it to about half of what they want: `share`.

    Args:
        increase: Rows added after a full batch that kept the objective.
        decrease: Factor after one that did not.
        share: The objective for a run, as a share of the latency target.
        others: As `FifoPolicy` takes it, `latency_target_s` among it.
    """

    def __init__(self, *, increase: float = 1.0, decrease: float = 0.9, share: float = 0.5, **others: Any) -> None:
        super().__init__(**others)
        assert self.latency_target_s is not None, "the rule needs an objective"
        self._objective_s = self.latency_target_s * share
        self._increase = increase
        self._decrease = decrease
        self._size = 1.0

    def choose(self, now: float) -> tuple[int, float | None]:
        """Take all that fits into the size in use."""
        return self.most(min(self.max_batch_size, int(self._size))), None

    def learn(self, rows: int, took_s: float) -> None:
        """Move the size."""
        if took_s > self._objective_s:
            self._size = max(1.0, self._size * self._decrease)
        elif rows >= int(self._size):  # a batch that was not full says nothing about a larger one
            self._size = min(self.max_batch_size, self._size + self._increase)
