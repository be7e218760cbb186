"""Where a model's admitted requests wait: ordered, counted, found again by shape, level and deadline.

The order is (priority level, deadline, arrival number), one queue for each shape key (batching.md sections 7.1 and 9).
Nothing here decides; `policy.py` does.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchserve.core.ticket import Entry, EntryState

if TYPE_CHECKING:
    from batchserve.core.shapes import ShapeKey

__all__ = ["Queue", "ShapeQueue"]

MAX_PASSED_OVER = 16
"""Requests too large for the rows left that one cut looks past (batching.md section 7.2)."""

_KEPT_SHAPES = 64
_QUEUED = EntryState.QUEUED


class _Lane:
    """Entries of one shape key and one priority level: a heap by (deadline, number), its dead removed lazily.

    Invariant between calls: the heap is empty or its top is queued, and less than half of a large heap is dead.
    """

    __slots__ = ("dead", "heap", "level", "shape")

    def __init__(self, shape: ShapeQueue, level: int) -> None:
        self.shape = shape
        self.level = level
        self.heap: list[tuple[float, int, Entry]] = []
        self.dead = 0

    def clean(self) -> None:
        heap = self.heap
        while heap and heap[0][2].state is not _QUEUED:
            heapq.heappop(heap)
            self.dead -= 1
        if self.dead > 32 and self.dead * 2 > len(heap):
            self.heap = [item for item in heap if item[2].state is _QUEUED]
            heapq.heapify(self.heap)
            self.dead = 0


class ShapeQueue:
    """The waiting entries of one shape key.

    Attributes:
        key: The shape key.
        rows: Rows waiting.
        lanes: One lane for each priority level, most important first.
        arrivals: Entries in order of arrival; some may have left.
    """

    __slots__ = ("arrivals", "key", "lanes", "rows")

    def __init__(self, key: ShapeKey, levels: int) -> None:
        self.key = key
        self.rows = 0
        self.lanes = tuple(_Lane(self, level) for level in range(1, levels + 1))
        self.arrivals: deque[Entry] = deque()

    @property
    def head(self) -> Entry:
        """The entry that every batch of this key begins with. The queue must not be empty."""
        for lane in self.lanes:
            if lane.heap:
                return lane.heap[0][2]
        raise IndexError("head of an empty shape queue")

    @property
    def oldest(self) -> Entry:
        """The entry that has waited longest, which may not be the head. The queue must not be empty."""
        arrivals = self.arrivals
        while arrivals[0].state is not _QUEUED:
            arrivals.popleft()
        return arrivals[0]

    def forget_dead(self) -> None:
        """Drop from the order of arrival what has left; what left from its middle once it outnumbers the rest."""
        arrivals = self.arrivals
        while arrivals and arrivals[0].state is not _QUEUED:
            arrivals.popleft()
        if len(arrivals) > 64 and len(arrivals) > 2 * sum(len(lane.heap) for lane in self.lanes):
            self.arrivals = deque(entry for entry in arrivals if entry.state is _QUEUED)


class Queue:
    """All waiting entries of one model.

    Invariant between calls: `rows`, `entries` and `size_bytes` are those of the entries in state QUEUED, and each
    lane that is not empty has its head in both heaps of heads.

    Args:
        levels: Priority levels, at least 1.
    """

    def __init__(self, levels: int) -> None:
        self.rows = 0
        self.entries = 0
        self.size_bytes = 0
        self._levels = levels
        self._shapes: dict[ShapeKey, ShapeQueue] = {}
        # Heads of lanes, by order and by deadline. An item is stale when its entry is not the lane's head any more;
        # stale items are dropped when they surface. With one level the two orders agree and one heap serves both.
        self._by_order: list[tuple[int, float, int, int, _Lane]] = []
        self._by_deadline: list[tuple[float, int, int, _Lane]] = []
        self._ticks = 0
        self._forget_at = _KEPT_SHAPES

    def push(self, entry: Entry) -> None:
        """Add a new entry. Amortised O(log queue)."""
        ticket = entry.ticket
        shape = self._shape(ticket.request.key)
        lane = shape.lanes[ticket.level - 1]
        heapq.heappush(lane.heap, (ticket.deadline_s, entry.number, entry))
        shape.arrivals.append(entry)
        rows = entry.rows
        shape.rows += rows
        self.rows += rows
        self.entries += 1
        request = ticket.request
        self.size_bytes += request.size_bytes if rows == request.rows else _share_bytes(entry)
        if lane.heap[0][2] is entry:
            self._note_head(lane)

    def remove(self, entry: Entry) -> None:
        """Take a queued entry out, wherever it stands. Amortised O(log queue)."""
        lane = self._shapes[entry.ticket.request.key].lanes[entry.ticket.level - 1]
        was_head = lane.heap[0][2] is entry
        self._leave(entry, lane, EntryState.GONE)
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
        for lane in shape.lanes:
            heap, over = lane.heap, []
            while heap and left > 0 and passed <= MAX_PASSED_OVER:
                item = heapq.heappop(heap)
                entry = item[2]
                if entry.state is not _QUEUED:
                    lane.dead -= 1
                elif entry.rows <= left or not taken:
                    left -= entry.rows
                    taken.append(entry)
                    self._leave(entry, lane, EntryState.TAKEN)
                else:
                    passed += 1
                    over.append(item)
            for item in over:
                heapq.heappush(heap, item)
            lane.clean()
            if lane.heap:
                self._note_head(lane)
            if left <= 0 or passed > MAX_PASSED_OVER:
                break
        shape.forget_dead()
        return taken

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

    def _shape(self, key: ShapeKey) -> ShapeQueue:
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

    def _leave(self, entry: Entry, lane: _Lane, state: EntryState) -> None:
        entry.state = state
        lane.shape.rows -= entry.rows
        self.rows -= entry.rows
        self.entries -= 1
        self.size_bytes -= _share_bytes(entry)

    def _note_head(self, lane: _Lane) -> None:
        deadline, number, _ = lane.heap[0]
        self._ticks = tick = self._ticks + 1  # unique, so that comparing items never reaches the lane
        heapq.heappush(self._by_order, (lane.level, deadline, number, tick, lane))
        if self._levels > 1:
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
