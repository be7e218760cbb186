"""One model's configuration as the rules read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from batchserve.core.padding import PadRule
    from batchserve.core.request import Request

__all__ = ["DEFAULT_MAX_BATCH_SIZE", "Limits"]

DEFAULT_MAX_BATCH_SIZE = 32
"""Rows in one run of a model that batches, when nothing says otherwise (batching.md section 3)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The configuration of one model, as the rules need it (batching.md section 3).

    Attributes:
        max_batch_size: Rows in one run; 0 if requests are whole runs, each counting as one row.
        timeout_s: Limit until a request's run begins.
        allow_timeout_override: False if what a request asks for in its place is ignored.
        max_queue_delay_s: None for `auto`, which holds where that pays; 0 never holds; else the timer.
        max_queue_size: Rows that may wait.
        priority_levels: How many levels there are.
        split_large: True if larger requests are cut into several runs.
        isolate_failures: True if a failed batch is run again in halves.
        slots: Batches of this model that may run at once.
        latency_target_s: Seconds within which an answer is worth something; None if nothing was said.
        shed: True if requests predicted to miss the target are refused.
        preferred_batch_sizes: Rows the model runs best at, ascending, none above `max_batch_size`.
        weight: Share of a device, relative to the other models' weights.
        run_timeout_s: A run that takes longer, and longer than ten times what it should, is stuck.
        is_fair: True if clients share the model's time evenly.
        client_weights: Shares of clients that have more or less than 1.
        max_clients: Clients that are kept apart at once.
        pad: How requests of different lengths are padded to share a run; None if they are not.
    """

    RECONFIGURABLE: ClassVar[tuple[str, ...]] = (
        "latency_target_s",
        "shed",
        "max_queue_delay_s",
        "max_queue_size",
        "weight",
    )
    """What may change while the model serves (batching.md section 10)."""

    max_batch_size: int
    timeout_s: float
    max_queue_size: int
    allow_timeout_override: bool = True
    max_queue_delay_s: float | None = None
    priority_levels: int = 1
    split_large: bool = True
    isolate_failures: bool = True
    slots: int = 1
    latency_target_s: float | None = None
    shed: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    weight: float = 1.0
    run_timeout_s: float = 60.0
    is_fair: bool = False
    client_weights: Mapping[str, float] = field(default_factory=dict)
    max_clients: int = 1000
    pad: PadRule | None = None

    @property
    def horizon_s(self) -> float:
        """How far ahead sizes are planned: the latency target, or the time-out if there is none."""
        return self.timeout_s if self.latency_target_s is None else self.latency_target_s

    @property
    def wait_s(self) -> float:
        """Seconds until the deadline of a request that asks for nothing else (batching.md section 3.1)."""
        if self.shed and self.latency_target_s is not None:
            return min(self.timeout_s, self.latency_target_s)
        return self.timeout_s

    @property
    def run_rows(self) -> int:
        """Rows in one run as the rules read it: no batch axis counts as 1."""
        return max(1, self.max_batch_size)

    def reconfigured(self, wanted: Limits) -> Limits:
        """Take from other limits what may change while the model serves."""
        return replace(self, **{name: getattr(wanted, name) for name in self.RECONFIGURABLE})

    def oversize(self, rows: int) -> str:
        """Say why a request of so many rows can never run, "" if it can (batching.md section 6, rule 2)."""
        if rows <= self.run_rows:
            return ""
        if not self.split_large:
            return (
                f"{rows} rows are more than max_batch_size = {self.max_batch_size}, and split_large is false: "
                "send fewer rows in a request"
            )
        if rows > self.max_queue_size:
            return (
                f"{rows} rows are more than the queue can hold (max_queue_size = {self.max_queue_size}): "
                "send fewer rows in a request"
            )
        return ""

    def timeout_of(self, request: Request) -> float:
        """Return the seconds until a request's deadline: never more than the model's own limit."""
        if request.timeout_s is None or not self.allow_timeout_override:
            return self.wait_s
        return min(self.wait_s, request.timeout_s)

    def level_of(self, request: Request) -> int:
        """Return a request's priority level: what it names, at most the last one; the middle one if it names none."""
        if not request.priority:
            return (self.priority_levels + 1) // 2
        return min(request.priority, self.priority_levels)
