"""What waits at one model, in seconds of work rather than in rows: for admission, and for whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchserve.core.costs import ShapeCosts

if TYPE_CHECKING:
    from batchserve.core.cost import CostModel
    from batchserve.core.lengths import Lengths
    from batchserve.core.queue import Queue
    from batchserve.core.shape_queue import ShapeQueue
    from batchserve.core.sizing import Sizing

__all__ = ["Backlog"]


class Backlog:
    """The cost of a model's queue. One thread.

    Args:
        queue: What waits.
        sizing: The batch sizes in use.
        costs: What runs cost, by shape.
        mix: What they cost over all shapes.
        lengths: What requests of different lengths cost, of a model that pads; None of any other.
    """

    def __init__(
        self, queue: Queue, sizing: Sizing, costs: ShapeCosts, mix: CostModel, lengths: Lengths | None = None
    ) -> None:
        self._queue = queue
        self._sizing = sizing
        self._costs = costs
        self._mix = mix
        self._lengths = lengths
        self._work_s = 0.0

    @property
    def is_mixed(self) -> bool:
        """True once requests of more than one shape were seen."""
        return self._costs.is_mixed

    def cost_of(self, shape: ShapeQueue) -> CostModel:
        """Return what runs of a shape cost by rows; of a model that pads by rows of the mean length."""
        if self._lengths is not None:
            return self._mix
        was_mixed = self._costs.is_mixed
        if not was_mixed and shape.cost is not None:
            return shape.cost
        shape.cost = self._costs.of(shape.key)
        if self._costs.is_mixed and not was_mixed:
            self._queue.changed = dict.fromkeys(self._queue.waiting())
        return shape.cost

    def next_s(self) -> float:
        """Predict the seconds that the next batch takes if all that waits may join it."""
        return self._mix.mean(max(1, min(self._queue.rows, self._sizing.useful)))

    def work_s(self) -> float:
        """Predict the seconds that all that waits takes, each shape in batches of the useful size."""
        if self._lengths is not None:
            size = self._sizing.useful
            return sum(self._lengths.ahead_s(shape.rows, shape.tokens, size) for shape in self._queue.waiting())
        changed = self._queue.changed
        if changed is None:
            return self._in_batches(self._queue.rows, self._mix)
        while changed:
            shape, _ = changed.popitem()  # not a set: sums must not depend on where objects lie in memory
            work_s = self._in_batches(shape.rows, self.cost_of(shape))
            self._work_s += work_s - shape.work_s
            shape.work_s = work_s
        return self._work_s

    def start_by(self, now: float) -> float:
        """Say when the next batch must begin for its head to be in time; `now` if nothing waits."""
        first = self._queue.first()
        return now if first is None else first.head.ticket.deadline_s - self.next_s()

    def _in_batches(self, rows: int, cost: CostModel) -> float:
        size = self._sizing.useful
        full, rest = divmod(rows, size)
        return full * cost.mean(size) + (cost.mean(rest) if rest else 0.0)
