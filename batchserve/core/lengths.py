"""A model that pads: what its runs cost by tokens, and which of the requests that wait run together (section 9).

Tokens are rows times length. Whatever plans in rows (sizes, holding, shares) sees the same costs at the mean length of
the runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchserve.core.cost import CostModel
from batchserve.core.windows import AHEAD_EFFICIENCY, MAX_CANDIDATES, Window, choose_window, ideal_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.batch import Batch
    from batchserve.core.limits import Limits
    from batchserve.core.padding import PadRule
    from batchserve.core.queue import Queue
    from batchserve.core.shape_queue import ShapeQueue
    from batchserve.core.tensors import Array
    from batchserve.core.ticket import Entry

__all__ = ["Lengths"]

_KEEP = 0.9
"""Share of what was known of the mean length that a new run leaves."""

_CHOICES = 3
"""Windows are chosen so often at most until none of its members would be late."""

_FORGET = 0.999
"""What is left of the longest length with each request that is shorter."""

_FAR = float(1 << 50)
"""Tokens beyond any run: where the last stretch of the curve is drawn to."""


class Lengths:
    """Costs and choices of one model that pads. One thread.

    Args:
        rule: How it pads.
        by_tokens: What its runs cost by tokens; fed by `observe`.
        horizon_s: The latency target, or the time-out if there is none.

    Attributes:
        by_tokens: As given.
        by_rows: The same costs by rows of the mean length, always up to date.
    """

    def __init__(self, rule: PadRule, by_tokens: CostModel, horizon_s: float) -> None:
        self.rule = rule
        self.by_tokens = by_tokens
        self.by_rows = CostModel((), horizon_s)
        self._horizon_s = horizon_s
        self._rows = self._tokens = 0.0
        self._longest = 1.0
        self._curve = _Curve(by_tokens)
        self.note(1)

    def note(self, length: int) -> None:
        """Take note of a request's length; until runs are seen it stands for the mean."""
        self._longest = max(float(length), _FORGET * self._longest)
        if not self._rows:
            self.by_rows.mirror(self.by_tokens, 1 / max(1, length))

    def observe(self, batch: Batch, run_s: float, overhead_s: float) -> None:
        """Take a successful run in."""
        self.by_tokens.observe(max(1, batch.tokens), run_s, overhead_s)
        self._rows = _KEEP * self._rows + batch.rows
        self._tokens = _KEEP * self._tokens + max(batch.rows, batch.tokens)
        self.by_rows.mirror(self.by_tokens, self._rows / self._tokens)

    def row_s(self, length: int, full: int) -> float:
        """Say what one row of a length takes in a full batch of its like."""
        return float(ideal_s(np.array([length]), full, self.rule, self._curve)[0])

    def ahead_s(self, rows: int, tokens: int, full: int) -> float:
        """Predict the seconds that so many rows take in the batches they will be put into.

        The ideal time is nearly straight in the length, so that of the mean length stands for the mean of all.
        """
        return rows * self.row_s(round(tokens / rows), full) / AHEAD_EFFICIENCY if rows else 0.0

    def upper_s(self, rows: int) -> float:
        """Return an upper value for a run of rows whatever their length, as many of them as one run may have.

        It goes by the longest requests of late. If it went by each request's own length, only short ones would be let
        in under overload: the queue would always be just too long for the others (simulated: of those above 100 of 8 to
        128 tokens 1 % were answered at twice the load, now 47 % as of all).
        """
        length = max(1, self.rule.run_length(0, int(self._longest)))
        limit = self.rule.max_tokens
        if limit is not None:
            rows = max(1, min(rows, limit // length))
        return self.by_tokens.hi(rows * length)

    def alone_s(self, entry: Entry) -> float:
        """Say what the run of one entry alone takes."""
        return self.by_tokens.mean(max(1, entry.rows * entry.length))

    def next_batch(self, queue: Queue, shape: ShapeQueue, limits: Limits, max_rows: int, now: float) -> list[Entry]:
        """Choose the entries of a shape that run next, without taking them out of the queue.

        They are of the most important level that waits; less important ones fill what rows are left, if no more
        important one is left out and they make the run no longer.

        Args:
            queue: Where they wait.
            shape: Of which something waits.
            limits: Of the model.
            max_rows: Rows per batch in use.
            now: The moment.
        """
        level = shape.head.ticket.level
        candidates = queue.peek(shape, level, MAX_CANDIDATES)
        window, chosen = self._in_time(candidates, limits, max_rows, now)
        if len(chosen) < len(candidates) or len(candidates) == MAX_CANDIDATES:
            return chosen
        rows = window.rows
        for lower in range(level + 1, limits.priority_levels + 1):
            for entry in queue.peek(shape, lower, MAX_CANDIDATES):
                if rows + entry.rows <= max_rows and self._joins(entry, window, rows):
                    chosen.append(entry)
                    rows += entry.rows
        return chosen

    def _in_time(
        self, candidates: Sequence[Entry], limits: Limits, max_rows: int, now: float
    ) -> tuple[Window, list[Entry]]:
        """Choose a window, and choose again without those that would be late in it: their answers are worth nothing."""
        for choices in range(1, _CHOICES + 1):
            window = self.choose(candidates, limits, max_rows, now)
            chosen = [candidates[index] for index in window.members]
            end_s = now + self.by_tokens.mean(max(1, window.tokens))
            late = {id(entry) for entry in chosen if entry.ticket.deadline_s < end_s}
            if not late or len(late) == len(chosen) or choices == _CHOICES:
                break
            candidates = [entry for entry in candidates if id(entry) not in late]
        return window, chosen

    def next_in_time(
        self, queue: Queue, shape: ShapeQueue, limits: Limits, max_rows: int, now: float, factor: float
    ) -> list[Entry]:
        """Choose as `next_batch` does where runs take `factor` times as long, without those that would be late there.

        Returns:
            Entries of one level, none if nobody would be in time.
        """

        def late(entries: Sequence[Entry], tokens: int) -> set[int]:
            end_s = now + factor * self.by_tokens.hi(max(1, tokens))
            return {id(entry) for entry in entries if entry.ticket.deadline_s < end_s}

        candidates = [
            entry
            for entry in queue.peek(shape, shape.head.ticket.level, MAX_CANDIDATES)
            if not late((entry,), entry.rows * entry.length)
        ]
        for _ in range(_CHOICES):
            if not candidates:
                break
            window = self.choose(candidates, limits, max_rows, now, factor)
            chosen = [candidates[index] for index in window.members]
            dropped = late(chosen, window.tokens)
            if not dropped:
                return chosen
            candidates = [entry for entry in candidates if id(entry) not in dropped]
        return []

    def _joins(self, entry: Entry, window: Window, rows: int) -> bool:
        """Tell whether an entry fits into a run beside so many rows without making it longer."""
        limit = self.rule.max_tokens
        if entry.length > window.length or (limit is not None and (rows + entry.rows) * window.length > limit):
            return False
        # A run that was not padded must not become one: its length need not be a multiple.
        return entry.length == window.length or window.length % self.rule.multiple == 0

    def choose(
        self, candidates: Sequence[Entry], limits: Limits, max_rows: int, now: float, factor: float = 1.0
    ) -> Window:
        """Choose what runs next.

        Args:
            candidates: The first in queue order.
            limits: Of the model.
            max_rows: Rows per batch in use.
            now: The moment.
            factor: What runs take, as a multiple of what they are learnt to.
        """
        # A request of more rows than are in use now, after a run without memory, still runs, alone.
        most = max(max_rows, candidates[0].rows)
        return choose_window(
            [entry.length for entry in candidates],
            [entry.rows for entry in candidates],
            [now - entry.ticket.request.arrival_s for entry in candidates],
            slack_s=(candidates[0].ticket.deadline_s - now) / factor,
            horizon_s=limits.horizon_s,
            max_rows=most,
            rule=self.rule,
            cost=self._curve,
        )


class _Curve:
    """A cost model for arrays: its corners, drawn anew when it has moved."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._version = -1
        self._at: Array = np.zeros(1)
        self._seconds: Array = np.zeros(1)

    @property
    def q(self) -> float:
        """See `TokenCost`."""
        return self._cost.q

    def means(self, tokens: Array) -> Array:
        """See `TokenCost`. The model is made of straight stretches, so this is what it says itself."""
        cost = self._cost
        if cost.version != self._version:
            at = [0.0, *(tokens for tokens, _ in cost.points), _FAR]
            self._at, self._seconds = np.array(at), np.array([cost.run(tokens) for tokens in at])
            self._version = cost.version
        seconds: Array = np.interp(tokens, self._at, self._seconds)
        return seconds + cost.overhead_s
