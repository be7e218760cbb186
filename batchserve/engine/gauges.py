"""What the scheduler of one model thinks at a moment, as plain numbers for whoever shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.policy import Policy

__all__ = ["Gauges", "TargetWatch", "gauges_of"]

ATTAINABLE_AFTER_S = 10.0
"""A target that cannot be held with the batches that the load needs is told after so long (batching.md section 10)."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """The scheduler's state (batching.md section 11).

    Attributes:
        useful_rows: Rows per batch in use, `B`.
        sustaining_rows: Smallest batch that carries the load.
        needed_rows: The batch that is aimed at.
        rows_per_second: Rows that arrive, those refused too.
        row_s: Expected seconds of a batch of one row.
        batch_s: Expected seconds of a batch of `useful_rows`.
        upper_factor: What the mean is multiplied by for an upper value, `q`.
        share: Part of the device that the model can count on, 0 to 1.
        is_overloaded: True while more arrives than can be carried.
        target_s: The latency target, 0 for none.
        smallest_target_s: Smallest latency target that could be held under the present load.
        is_attainable: False if the target cannot be held.
        idle_s: Seconds since the last decision while something waits and a slot is idle, else 0. A hold counts, too.
    """

    useful_rows: int = 0
    sustaining_rows: int = 0
    needed_rows: int = 0
    rows_per_second: float = 0.0
    row_s: float = 0.0
    batch_s: float = 0.0
    upper_factor: float = 0.0
    share: float = 0.0
    is_overloaded: bool = False
    target_s: float = 0.0
    smallest_target_s: float = 0.0
    is_attainable: bool = True
    idle_s: float = 0.0


def gauges_of(policy: Policy, watch: TargetWatch, now: float) -> Gauges:
    """Read a model's scheduler; changes nothing but the age of its moving mean."""
    sizing, cost = policy.sizing, policy.cost
    return Gauges(
        useful_rows=sizing.useful,
        sustaining_rows=sizing.sustain,
        needed_rows=sizing.need,
        rows_per_second=policy.arrivals.per_second(now),
        row_s=cost.mean(1),
        batch_s=cost.mean(sizing.useful),
        upper_factor=cost.q,
        share=policy.device.share(policy, now),
        is_overloaded=sizing.is_overloaded,
        target_s=policy.limits.latency_target_s or 0.0,
        smallest_target_s=smallest_target(policy),
        is_attainable=watch.is_attainable,
        idle_s=max(0.0, now - policy.decided_s) if policy.can_start else 0.0,
    )


def smallest_target(policy: Policy) -> float:
    """Return the seconds within which a request can be answered that just missed a batch of the size the load needs."""
    return policy.cost.mean(1) + policy.cost.mean(policy.sizing.sustain)


class TargetWatch:
    """Notices a latency target that cannot be held (batching.md section 10). Event loop only.

    Attributes:
        is_attainable: False once it was noticed, until the target can be held again.
    """

    def __init__(self) -> None:
        self.is_attainable = True
        self._bad_since_s: float | None = None

    def look(self, policy: Policy, now: float) -> bool:
        """Compare target and costs.

        Returns:
            True if `is_attainable` has changed.
        """
        before, target_s = self.is_attainable, policy.limits.latency_target_s
        if target_s is None or policy.cost.is_empty or smallest_target(policy) <= target_s:
            self._bad_since_s, self.is_attainable = None, True
        else:
            if self._bad_since_s is None:
                self._bad_since_s = now
            is_hopeless = policy.cost.mean(1) > target_s
            self.is_attainable = not is_hopeless and now - self._bad_since_s < ATTAINABLE_AFTER_S
        return self.is_attainable != before
