"""A fixed size and a timer, as most servers have it."""

from __future__ import annotations

from typing import Any

from loadtest.policies.base import FifoPolicy

__all__ = ["FixedSizeAndTimer", "Greedy"]


class FixedSizeAndTimer(FifoPolicy):
    """Wait until `max_batch_size` rows are there or the oldest request is `max_queue_delay_s` old.

    Triton's dynamic batcher, by the public source of triton-inference-server/core (`src/dynamic_batch_scheduler.cc`,
    `GetDynamicBatch`): a batch goes when the next request would not fit or has another shape, when the largest
    preferred size is reached, or when the oldest request has waited for the delay; with a delay of 0 it goes at once.
    Here the largest preferred size is the maximum. Two things are kinder than the original: the batch is cut when a
    slot is free, not earlier, and nothing is lost to threads. `timeout_s` is its queue policy's `REJECT`.

    Args:
        max_queue_delay_s: The timer.
        others: As `FifoPolicy` takes it.
    """

    def __init__(self, *, max_queue_delay_s: float, **others: Any) -> None:
        super().__init__(**others)
        self.max_queue_delay_s = max_queue_delay_s

    def choose(self, now: float) -> tuple[int, float | None]:
        """Cut a full batch, one that cannot grow, or one whose timer has run out."""
        count, rows = 0, 0
        for count, rows in self.fitting(self.max_batch_size):  # noqa: B007 - the last one is wanted
            pass
        due_s = self.queue[0].ticket.request.arrival_s + self.max_queue_delay_s
        if rows >= self.max_batch_size or count < len(self.queue) or now >= due_s:
            return count, None
        return 0, due_s


class Greedy(FifoPolicy):
    """Whenever a slot is free, run what waits, up to the maximum: no timer, no knowledge of costs."""

    def choose(self, now: float) -> tuple[int, float | None]:
        """Take all that fits."""
        return self.most(self.max_batch_size), None
