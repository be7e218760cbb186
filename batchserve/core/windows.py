"""Which requests of different lengths run together: the window of neighbours in length that wastes least (section 9).

A window is a run of requests that are neighbours in order of length. Its efficiency is the device time its members
would need in full batches of their own length, over the time its padded run takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array

__all__ = ["MAX_CANDIDATES", "TokenCost", "Window", "choose_window", "ideal_s"]

MAX_CANDIDATES = 128
"""Requests that are looked at, the first in queue order."""

AGE_WEIGHT = 0.3
"""How much more a request counts that is as old as the horizon."""

GOOD_ENOUGH = 0.97
"""The head's own window runs if it is this close to the best."""

RUINOUS = 0.7
"""The head is passed over, whatever becomes of it, if its best window is worse than this share of the best."""

SECOND_RUN = 1.3
"""Room kept for the head's run after another, as a multiple of its expected time."""

_EACH_SIZE = 32
"""Larger windows are tried in steps of 4: all of 128 x 128 would take 600 µs instead of 150."""

AHEAD_EFFICIENCY = 0.8
"""What batches will reach of the ideal, when the time of the rows ahead is foretold for admission."""


class TokenCost(Protocol):
    """What runs cost by tokens (rows times length)."""

    @property
    def q(self) -> float:
        """Upper factor: a run takes no more than `q` times its mean nine times out of ten."""
        ...

    def means(self, tokens: Array) -> Array:
        """Estimate the seconds that runs of so many tokens take, positive, for an array of any shape."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """The requests that run next.

    Attributes:
        members: Indices into the candidates, ascending: queue order.
        rows: Their rows.
        length: What they are padded to.
    """

    members: tuple[int, ...]
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """Rows times length: what the run costs by."""
        return self.rows * self.length


def ideal_s(lengths: Array, max_rows: int, rule: PadRule, cost: TokenCost) -> Array:
    """Say what one row of each length takes in a full batch of its own length: no padding, no company lacking.

    Args:
        lengths: `int64[N]`.
        max_rows: Rows in a full batch.
        rule: Its `max_tokens` makes full batches of long rows smaller.
        cost: What runs take.

    Returns:
        Seconds, `float64[N]`. The time of the rows ahead of a request is their sum over `AHEAD_EFFICIENCY`.
    """
    full = np.full(len(lengths), max_rows)
    if rule.max_tokens is not None:
        full = np.clip(rule.max_tokens // np.maximum(lengths, 1), 1, max_rows)
    whole: Array = cost.means(lengths * full) / full
    return whole


def choose_window(
    lengths: Sequence[int] | Array,
    rows: Sequence[int] | Array,
    ages_s: Sequence[float] | Array,
    *,
    slack_s: float,
    horizon_s: float,
    max_rows: int,
    rule: PadRule,
    cost: TokenCost,
) -> Window:
    """Choose what runs next out of one queue of different lengths. O(N x max_rows), some 100 µs for 128 x 32.

    Args:
        lengths: True length of each candidate, in queue order; the first is the head. N is 1 to `MAX_CANDIDATES`.
        rows: Rows of each, 1 to `max_rows`.
        ages_s: Seconds since each arrived.
        slack_s: Seconds until the head's deadline.
        horizon_s: The latency target, or the timeout where there is none.
        max_rows: Rows in one run.
        rule: How the requests are padded, and `max_tokens`.
        cost: What runs take.

    Returns:
        At least one request, and more only within both limits. The head is passed over only if it can wait for one
        more run, or if its best window is worse than `RUINOUS` of the best one.
    """
    if len(lengths) == 1:
        return Window((0,), int(rows[0]), int(lengths[0]))
    found = _Windows(np.asarray(lengths), np.asarray(rows), np.asarray(ages_s), horizon_s, max_rows, rule, cost)
    best = found.best()
    if found.has_head(best) and found.hi_s(best) <= slack_s:
        return found.window(best)
    mine = found.best_with_head(slack_s)
    behind = found.efficiency[mine] / found.efficiency[best]
    can_wait = behind < GOOD_ENOUGH and found.mean_s[best] + SECOND_RUN * found.mean_s[mine] <= slack_s
    return found.window(best if can_wait or behind < RUINOUS else mine)


class _Windows:
    """Every window of one set of candidates. Used once.

    Requests stand in order of length, equal lengths in queue order. Position `[j, k]` of the tables is the window of
    `_sizes(...)[k]` requests whose last is number `j`. Where it would begin in the middle of requests of one length,
    the oldest of these go in place of the youngest: places `start` to `start + taken`, then `rest` to `j`.
    """

    def __init__(
        self,
        lengths: Array,
        rows: Array,
        ages_s: Array,
        horizon_s: float,
        max_rows: int,
        rule: PadRule,
        cost: TokenCost,
    ) -> None:
        self._order = order = np.argsort(lengths, kind="stable")
        self._lengths = lengths = lengths[order]
        self._rows = rows = rows[order]
        self._rule = rule
        self._q = cost.q
        self._head = int(order.argmin())
        worth = ideal_s(lengths, max_rows, rule, cost) * rows
        worth *= 1 + AGE_WEIGHT * np.minimum(1.0, ages_s[order] / max(horizon_s, 1e-9))
        count = len(order)
        self._last = last = np.arange(count)[:, None]
        first = last + 1 - _sizes(min(count, max_rows))
        is_window = first >= 0
        first = np.maximum(first, 0)
        self._start = start = np.searchsorted(lengths, lengths)[first]
        self._rest = rest = np.minimum(np.searchsorted(lengths, lengths, "right")[first], last + 1)
        self._stop = stop = start + (rest - first)
        total = _sums(rows, start, stop, rest)
        tokens = total * rule.run_lengths(lengths[first], lengths[:, None])
        is_window &= total <= max_rows
        if rule.max_tokens is not None:
            is_window &= tokens <= rule.max_tokens
        is_window[:, 0] = True  # one request alone runs whatever its size
        self.mean_s = cost.means(tokens)
        self.efficiency = np.where(is_window, _sums(worth, start, stop, rest) / self.mean_s, -1.0)

    def best(self) -> tuple[int, int]:
        """Find the window of the largest efficiency."""
        return self._at(int(self.efficiency.argmax()))

    def best_with_head(self, slack_s: float) -> tuple[int, int]:
        """Find the best of those that contain the head and meet its deadline; the head alone if there is none."""
        # The head is the oldest of its length, so it is in every window that has requests of its length or around it.
        is_mine = (self._start <= self._head) & (self._last >= self._head) & (self.mean_s * self._q <= slack_s)
        mine = np.where(is_mine, self.efficiency, -1.0)
        at = self._at(int(mine.argmax()))
        return at if mine[at] > 0 else (self._head, 0)

    def hi_s(self, at: tuple[int, int]) -> float:
        """Say what a window's run takes at most, nine times out of ten."""
        return float(self.mean_s[at]) * self._q

    def has_head(self, at: tuple[int, int]) -> bool:
        """Tell whether the head is in a window."""
        return bool(self._start[at] <= self._head <= at[0])

    def window(self, at: tuple[int, int]) -> Window:
        """Write a window down."""
        places = [*range(self._start[at], self._stop[at]), *range(self._rest[at], at[0] + 1)]
        length = self._rule.run_length(int(self._lengths[places[0]]), int(self._lengths[at[0]]))
        return Window(tuple(sorted(self._order[places].tolist())), int(self._rows[places].sum()), length)

    def _at(self, flat: int) -> tuple[int, int]:
        last, size = divmod(flat, self.efficiency.shape[1])
        return last, size


@lru_cache(maxsize=256)
def _sizes(most: int) -> Array:
    """List the sizes of windows that are tried: each up to 32, then every fourth, and the largest."""
    return np.array(sorted({*range(1, min(most, _EACH_SIZE) + 1), *range(_EACH_SIZE, most, 4), most}))


def _sums(values: Array, start: Array, stop: Array, rest: Array) -> Array:
    """Sum the values of every window."""
    sums = np.concatenate(([0], np.cumsum(values)))
    total: Array = sums[stop]
    total -= sums[start]
    total -= sums[rest]
    total += sums[1:, None]
    return total
