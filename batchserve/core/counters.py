"""What happened to the requests of one model version, in plain integers that are read when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["CUT_REASONS", "REFUSAL_BOUNDS_S", "REFUSAL_REASONS", "Counters"]

REFUSAL_REASONS = ("target", "queue", "standing", "memory", "drain")
"""Why a request was turned away (batching.md section 11)."""

CUT_REASONS = ("full", "idle", "timer", "deadline", "shape", "drain", "isolate")
"""Why a batch was cut; `isolate` is a half of a failed one that runs again."""


REFUSAL_BOUNDS_S = tuple(0.25e-3 * 2**step for step in range(19))
"""Classes of the time until a refusal: 0.25 ms doubled up to 65.5 s; one more is beyond them."""


def _zeros(names: tuple[str, ...]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@dataclass(slots=True)
class Counters:
    """Totals since the version was loaded. Event loop only.

    Invariant between events: `received` equals the sum of the outcomes and of what is queued and running
    (batching.md section 12, conservation). A split request counts once.

    Attributes:
        received: Requests that named this version, whatever became of them.
        completed: Answered.
        late: Of the completed, those answered after their deadline.
        invalid: The caller's mistake.
        expired: Deadline passed before the run began.
        cancelled: The client left first.
        failed: The model failed on them.
        failed_rows: Rows of those.
        refused: Turned away, by reason.
        rows: Rows of the completed requests.
        executions: Runs that succeeded.
        failed_executions: Runs that failed, repeated halves included.
        tokens: Rows times length of the runs that succeeded, where the model pads.
        padding: Of those, what no request sent.
        in_place: Runs that were done on the event loop's thread, because they are shorter than a hand-over.
        batches: Runs started, by cut reason.
        refusal_delays: Requests refused at the queue, by the class of the time from their last byte until then.
        refusal_delay_s: That time of all of them.
    """

    received: int = 0
    completed: int = 0
    late: int = 0
    invalid: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    failed_rows: int = 0
    refused: dict[str, int] = field(default_factory=lambda: _zeros(REFUSAL_REASONS))
    rows: int = 0
    executions: int = 0
    failed_executions: int = 0
    tokens: int = 0
    padding: int = 0
    in_place: int = 0
    batches: dict[str, int] = field(default_factory=lambda: _zeros(CUT_REASONS))
    refusal_delays: list[int] = field(default_factory=lambda: [0] * (len(REFUSAL_BOUNDS_S) + 1))
    refusal_delay_s: float = 0.0

    def note_refusal(self, delay_s: float) -> None:
        """Take in how long a request took from its last byte until it was refused."""
        self.refusal_delays[bisect_left(REFUSAL_BOUNDS_S, delay_s)] += 1
        self.refusal_delay_s += max(0.0, delay_s)

    @property
    def ended(self) -> int:
        """Requests that have their one outcome."""
        return self.completed + self.invalid + self.expired + self.cancelled + self.failed + sum(self.refused.values())
