"""How large batches should be: the useful size, and the one that carries the load (batching.md sections 5.4, 5.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.cost import CostModel

__all__ = ["Sizing"]

_USEFUL_EVERY_S = 0.1
_NEED_EVERY_S = 0.002
_WORTH_IT = 0.92
"""The largest batch is used unless its rows per second are below this share of the best."""
_PLANNED, _NEEDED = 0.99, 0.90
"""Under overload: larger batches than give the first share of the best rows per second are taken as they come, not
planned with; smaller ones than give the second are too small.

With the largest batch in the place of both, up to 22 % of those let in are given up again on a device with two slots
whose curve is nearly a straight line, within a target of two runs and at twice the load, for the sake of batches that
gain hardly anything; like this it is at most 1.2 % (tests/simulation). With 0.98 and 0.95 it is up to 6 % elsewhere."""
_PROBE_EVERY = 50
_PROBE_GROWTH = 1.4
_OVERLOADED_ABOVE, _OVERLOADED_UNTIL = 1.05, 0.97
_RESTORE_AFTER_S = 60.0


class Sizing:
    """Batch sizes of one model, refreshed now and then from what runs cost and how much arrives.

    Invariant: 1 <= need <= planned <= sustain <= useful <= max_rows. One thread.

    Args:
        cost: What runs cost.
        max_rows: Most rows in one run.

    Attributes:
        useful: Rows per batch in use, `B` of batching.md.
        sustain: Smallest batch with which the load can be carried; if none can, the smallest that is nearly the best.
        planned: What admission counts on: smaller than that if rows do not come quickly enough to fill such a batch
            within their deadline.
        need: Smallest batch that nobody is given up for. The distance to `planned` is what noise may take.
        is_overloaded: True while more arrives than batches of `useful` rows can carry.
        overloaded_since_s: When that began.
    """

    def __init__(self, cost: CostModel, max_rows: int) -> None:
        self.useful = max_rows
        self.sustain = 1
        self.planned = 1
        self.need = 1
        self.is_overloaded = False
        self.overloaded_since_s = 0.0
        self._cost = cost
        self._max_rows = max_rows
        self._cap = max_rows
        self._restore_s: float | None = None
        self._useful_at_s = -1.0
        self._need_at_s = -1.0
        self._version = -1
        self._evaluations = 0

    @property
    def cap(self) -> int:
        """Most rows in one run: less than `max_batch_size` for a while after a run had no memory."""
        return self._cap

    def refresh(self, rate: float, slots: float, horizon_s: float, now: float) -> None:
        """Bring the sizes up to date.

        Args:
            rate: Rows that arrive in a second.
            slots: Batches of this model that can count on running at once.
            horizon_s: The latency target, or the time-out if there is none.
            now: The moment.
        """
        if self._restore_s is not None and now >= self._restore_s:
            self._cap = min(self._max_rows, 2 * self._cap)
            self._restore_s = None if self._cap == self._max_rows else now + _RESTORE_AFTER_S
            self._useful_at_s = now
        if now >= self._useful_at_s:
            self._useful_at_s = now + _USEFUL_EVERY_S
            if self._version != self._cost.version or self.useful < self._cap:
                self._version = self._cost.version
                self._set_useful()
        if now >= self._need_at_s:
            self._need_at_s = now + _NEED_EVERY_S
            self._set_need(rate, slots, horizon_s, now)

    def is_due(self, now: float) -> bool:
        """Tell whether `refresh` would do anything."""
        return now >= self._need_at_s

    def halve(self, rows: int, now: float) -> None:
        """Use half of a size whose run had no memory, and try larger ones again after a minute without failure."""
        self._cap = max(1, min(self._cap, rows // 2))
        self._restore_s = now + _RESTORE_AFTER_S
        self.useful = min(self.useful, self._cap)
        self.sustain = min(self.sustain, self.useful)
        self.planned = min(self.planned, self.sustain)
        self.need = min(self.need, self.planned)

    def _set_useful(self) -> None:
        most, cost = self._cap, self._cost
        if cost.is_empty:
            self.useful = most
            return
        best = max(cost.corners(most), key=lambda rows: rows / cost.mean(rows))
        if most / cost.mean(most) >= _WORTH_IT * best / cost.mean(best):
            self.useful = most
            return
        self._evaluations += 1
        # Now and then a larger size is tried, so that a bend that has moved is noticed.
        is_probe = self._evaluations % _PROBE_EVERY == 0
        self.useful = min(most, max(best + 1, int(best * _PROBE_GROWTH))) if is_probe else best

    def _set_need(self, rate: float, slots: float, horizon_s: float, now: float) -> None:
        self.sustain = self._sustaining(rate, slots, _PLANNED)
        # With batches that take more than half of the target nobody could be let in while another one runs, and slots
        # would run single rows in between: 0.04 of the limit was seen on a real server with two slots.
        half = self._cost.largest_within(self._cost.q * horizon_s / 2, self.useful)
        most = min(self._fresh(rate, horizon_s), max(1, half))
        self.planned = min(self.sustain, most)
        self.need = min(self._sustaining(rate, slots, _NEEDED), most)
        capacity = slots * self.useful / self._cost.mean(self.useful)
        if self.is_overloaded:
            self.is_overloaded = rate > _OVERLOADED_UNTIL * capacity
        elif rate > _OVERLOADED_ABOVE * capacity:
            self.is_overloaded = True
            self.overloaded_since_s = now

    def _sustaining(self, rate: float, slots: float, share: float) -> int:
        """Find the smallest batch with which `slots` runs at a time keep up with the rate, or nearly do their best."""
        cost, before = self._cost, 0
        if slots >= rate * cost.mean(1):
            return 1
        corners = cost.corners(self.useful)
        best = max([rows / cost.mean(rows) for rows in corners])
        wanted = min(rate / slots, share * best)
        for rows in corners:
            if rows >= wanted * cost.mean(rows):
                low, high = before, rows  # rows per second rise steadily from one corner to the next
                while high - low > 1:
                    middle = (low + high) // 2
                    if middle >= wanted * cost.mean(middle):
                        high = middle
                    else:
                        low = middle
                return high
            before = rows
        return self.useful

    def _fresh(self, rate: float, horizon_s: float) -> int:
        """Find the largest batch that fills up while its first row still has time for the run."""
        low, high = 1, self.useful + 1
        while high - low > 1:
            middle = (low + high) // 2
            if middle <= rate * (horizon_s - self._cost.hi(middle)):
                low = middle
            else:
                high = middle
        return low
