"""Where a model's admitted requests wait: ordered, counted, found again by shape, level and deadline.

The order is (priority level, deadline, arrival number), one queue for each shape key (batching.md sections 7.1 and 9).
With fairness between clients an entry's tag stands in the place of its deadline.
Nothing here decides; `policy.py` does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from batchserve.core.shape_queue import Lane, ShapeQueue
from batchserve.core.ticket import Entry, EntryState

if TYPE_CHECKING:
    from batchserve.core.shapes import ShapeKey

__all__ = ["Queue"]

MAX_PASSED_OVER = 16
"""Requests too large for the rows left that one cut looks past (batching.md section 7.2)."""

_KEPT_SHAPES = 64
_QUEUED = EntryState.QUEUED


class Queue:
    """All waiting entries of one model.

    Invariant between calls: `rows`, `entries` and `size_bytes` are those of the entries in state QUEUED, and each
    lane that is not empty has its head in both heaps of heads.

    Args:
        levels: Priority levels, at least 1.
        is_fair: True if entries are ordered by their clients' tags, and deadlines have to be found on their own.

    Attributes:
        rows: Rows waiting.
        entries: Entries waiting.
        size_bytes: Bytes that they keep alive.
        changed: Shapes in which something came or went since it was last emptied, in that order; None if nobody asks.
    """

    def __init__(self, levels: int, *, is_fair: bool = False) -> None:
        self.rows = 0
        self.entries = 0
        self.size_bytes = 0
        self.changed: dict[ShapeQueue, None] | None = None
        self._levels = levels
        self._is_fair = is_fair
        self._level_rows = [0] * levels
        self._latest_s = [0.0] * levels  # by level, the latest deadline of all that came since nothing of it waited
        self._deadlines: list[tuple[float, int, Entry]] = []  # of all entries, if their order is another
        self._shapes: dict[ShapeKey, ShapeQueue] = {}
        # Heads of lanes, by order and by deadline. An item is stale when its entry is not the lane's head any more;
        # stale items are dropped when they surface. With one level the two orders agree and one heap serves both.
        self._by_order: list[tuple[int, float, int, int, Lane]] = []
        self._by_deadline: list[tuple[float, int, int, Lane]] = []
        self._ticks = 0
        self._forget_at = _KEPT_SHAPES

    def push(self, entry: Entry, tag: float | None = None, shape: ShapeQueue | None = None) -> None:
        """Add a new entry. Amortised O(log queue).

        Args:
            entry: Not in any queue yet.
            tag: What stands in the place of its deadline in the order, with fairness between clients.
            shape: Its shape's queue, if the caller has looked that up.
        """
        ticket = entry.ticket
        request = ticket.request
        shape = shape or self.shape(request.key)
        lane = shape.lanes[ticket.level - 1]
        heapq.heappush(lane.heap, (ticket.deadline_s if tag is None else tag, entry.number, entry))
        if tag is not None:
            heapq.heappush(self._deadlines, (ticket.deadline_s, entry.number, entry))
        shape.arrivals.append(entry)
        rows = entry.rows
        lane.rows += rows
        at = ticket.level - 1
        if not self._level_rows[at] or ticket.deadline_s > self._latest_s[at]:
            self._latest_s[at] = ticket.deadline_s
        self._level_rows[at] += rows
        shape.rows += rows
        shape.entries += 1
        shape.tokens += rows * entry.length
        if self.changed is not None:
            self.changed[shape] = None
        self.rows += rows
        self.entries += 1
        self.size_bytes += request.size_bytes if rows == request.rows else _share_bytes(entry)
        if lane.heap[0][2] is entry:
            self._note_head(lane)

    def remove(self, entry: Entry) -> None:
        """Take a queued entry out, wherever it stands. Amortised O(log queue)."""
        lane = self._shapes[entry.ticket.request.key].lanes[entry.ticket.level - 1]
        was_head = lane.heap[0][2] is entry
        self._leave((entry,), lane, EntryState.GONE)
        lane.dead += 1
        lane.clean()
        lane.shape.forget_dead()
        if was_head and lane.heap:
            self._note_head(lane)

    def take(self, shape: ShapeQueue, max_rows: int) -> list[Entry]:
        """Cut the next batch of one shape: in order, whole entries only, the head always.

        An entry that does not fit into the rows left is passed over, up to `MAX_PASSED_OVER` of them.
        """
        taken: list[Entry] = []
        left, passed = max_rows, 0
        takes_all = shape.rows <= max_rows
        for lane in shape.lanes:
            heap = lane.heap
            if not heap:
                continue
            if takes_all:  # putting the heap in order is cheaper than taking it apart
                heap.sort()
                found = [item[2] for item in heap if item[2].state is _QUEUED]
                heap.clear()
                lane.dead = 0
                self._leave(found, lane, EntryState.TAKEN)
                taken += found
                continue
            found, over = [], []
            while heap and left > 0 and passed <= MAX_PASSED_OVER:
                item = heapq.heappop(heap)
                entry = item[2]
                if entry.state is not _QUEUED:
                    lane.dead -= 1
                elif entry.rows <= left or left == max_rows:
                    left -= entry.rows
                    found.append(entry)
                else:
                    passed += 1
                    over.append(item)
            self._leave(found, lane, EntryState.TAKEN)
            taken += found
            for item in over:
                heapq.heappush(heap, item)
            lane.clean()
            if lane.heap:
                self._note_head(lane)
            if left <= 0 or passed > MAX_PASSED_OVER:
                break
        shape.forget_dead()
        return taken

    def peek(self, shape: ShapeQueue, level: int, most: int) -> list[Entry]:
        """Return the first entries of a shape and level, in order, without taking them.

        O(waiting) with a small constant: the heap is put in order, which keeps it a heap.
        """
        lane = shape.lanes[level - 1]
        lane.heap.sort()
        found = []
        for _, _, entry in lane.heap:
            if entry.state is _QUEUED:
                found.append(entry)
                if len(found) == most:
                    break
        return found

    def peek_all(self, shape: ShapeQueue) -> list[Entry]:
        """Return what waits of a shape, in order, without taking it."""
        return [entry for lane in shape.lanes if lane.heap for entry in self.peek(shape, lane.level, len(lane.heap))]

    def latest_s(self) -> float:
        """Return a moment that no deadline of what waits is later than; 0 if nothing waits. O(levels)."""
        return max(late if rows else 0.0 for late, rows in zip(self._latest_s, self._level_rows, strict=True))

    def pick(self, shape: ShapeQueue, entries: Sequence[Entry]) -> None:
        """Take entries of one shape and level out that were just peeked at; the others stay as they are."""
        lane = shape.lanes[entries[0].ticket.level - 1]
        self._leave(entries, lane, EntryState.TAKEN)
        kept, left, seen = [], len(entries), 0
        for item in lane.heap:
            seen += 1
            state = item[2].state
            if state is _QUEUED:
                kept.append(item)
            elif state is EntryState.TAKEN:
                left -= 1
                if not left:
                    break
        lane.heap[:seen] = kept  # in order, as `peek` has left it
        lane.dead -= seen - len(kept) - len(entries)
        lane.clean()
        if lane.heap:
            self._note_head(lane)
        shape.forget_dead()

    def first(self) -> ShapeQueue | None:
        """Return the shape whose head comes first in queue order, None if nothing waits. Amortised O(log shapes)."""
        heap = self._by_order
        while heap:
            _, _, number, _, lane = heap[0]
            if lane.heap and lane.heap[0][1] == number:
                return lane.shape
            heapq.heappop(heap)
        return None

    def next_deadline(self) -> tuple[float, Entry] | None:
        """Return the earliest deadline of all that wait, and whose it is. Amortised O(log shapes)."""
        if not self.entries:
            return None
        if self._is_fair:
            deadlines = self._deadlines
            while deadlines and deadlines[0][2].state is not _QUEUED:
                heapq.heappop(deadlines)
            return (deadlines[0][0], deadlines[0][2]) if deadlines else None
        if self._levels == 1:
            shape = self.first()
            return None if shape is None else (shape.head.ticket.deadline_s, shape.head)
        heap = self._by_deadline
        while heap:
            deadline, number, _, lane = heap[0]
            if lane.heap and lane.heap[0][1] == number:
                return deadline, lane.heap[0][2]
            heapq.heappop(heap)
        return None

    def rows_before(self, level: int, deadline_s: float) -> int:
        """Count the rows that a request of this level and deadline would find before it.

        O(levels) if its deadline is the latest of its level, as it is under one timeout. Otherwise O(shapes): at most
        64 of each shape are looked at, and the rest is taken to be like them.
        """
        if deadline_s >= self._latest_s[level - 1]:
            return sum(self._level_rows[:level])
        own = sum(shape.lanes[level - 1].rows_before(deadline_s) for shape in self.waiting())
        return own + sum(self._level_rows[: level - 1])

    def waiting(self) -> Iterator[ShapeQueue]:
        """Give the shapes that have rows waiting, in no special order."""
        return (shape for shape in self._shapes.values() if shape.rows)

    def has_other(self, shape: ShapeQueue) -> bool:
        """Tell whether rows of another shape wait too."""
        return self.rows > shape.rows

    def oldest(self) -> Entry | None:
        """Return the entry that has waited longest. O(shapes): for gauges, not for decisions."""
        return min((shape.oldest for shape in self.waiting()), key=lambda entry: entry.number, default=None)

    def everything(self) -> list[Entry]:
        """Return all that waits, in no special order."""
        return [
            item[2]
            for shape in self.waiting()
            for lane in shape.lanes
            for item in lane.heap
            if item[2].state is _QUEUED
        ]

    def shape(self, key: ShapeKey) -> ShapeQueue:
        """Return the queue of a shape key, a new one if the key is new."""
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= self._forget_at:
                self._forget_idle()
            shape = self._shapes[key] = ShapeQueue(key, self._levels)
        return shape

    def _forget_idle(self) -> None:
        """Drop shapes with nothing waiting, so that many different lengths do not pile up. Amortised O(1)."""
        self._shapes = {key: shape for key, shape in self._shapes.items() if shape.rows}
        self._forget_at = 2 * len(self._shapes) + _KEPT_SHAPES

    def _leave(self, entries: Sequence[Entry], lane: Lane, state: EntryState) -> None:
        """Count entries of one lane out, and say where they are now."""
        rows = tokens = size_bytes = 0
        for entry in entries:
            entry.state = state
            own_rows = entry.rows
            rows += own_rows
            tokens += own_rows * entry.length
            request = entry.ticket.request
            size_bytes += request.size_bytes if own_rows == request.rows else _share_bytes(entry)
        shape = lane.shape
        lane.rows -= rows
        self._level_rows[lane.level - 1] -= rows
        shape.rows -= rows
        shape.entries -= len(entries)
        shape.tokens -= tokens
        self.rows -= rows
        self.entries -= len(entries)
        self.size_bytes -= size_bytes
        if self.changed is not None:
            self.changed[shape] = None

    def _note_head(self, lane: Lane) -> None:
        deadline, number, _ = lane.heap[0]
        self._ticks = tick = self._ticks + 1  # unique, so that comparing items never reaches the lane
        heapq.heappush(self._by_order, (lane.level, deadline, number, tick, lane))
        if self._levels > 1 and not self._is_fair:
            heapq.heappush(self._by_deadline, (deadline, number, tick, lane))
        if len(self._by_order) > 64 + 4 * len(self._shapes) * self._levels:
            self._rebuild_heads()

    def _rebuild_heads(self) -> None:
        """Leave one item for each lane: stale ones with late deadlines would lie at the bottom for their timeout."""
        self._by_order, self._by_deadline = [], []
        for shape in self.waiting():
            for lane in shape.lanes:
                if lane.heap:
                    deadline, number, _ = lane.heap[0]
                    self._ticks = tick = self._ticks + 1
                    self._by_order.append((lane.level, deadline, number, tick, lane))
                    self._by_deadline.append((deadline, number, tick, lane))
        heapq.heapify(self._by_order)
        heapq.heapify(self._by_deadline)


def _share_bytes(entry: Entry) -> int:
    """Bytes counted for an entry: a part counts its share of the rows, so that the parts add up to the request."""
    request = entry.ticket.request
    if entry.rows == request.rows:
        return request.size_bytes
    before = request.size_bytes * entry.first_row // request.rows
    return request.size_bytes * (entry.first_row + entry.rows) // request.rows - before
