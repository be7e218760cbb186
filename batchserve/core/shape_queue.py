"""What waits of one shape: by priority level in order, and in order of arrival (batching.md sections 7.1 and 9)."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from batchserve.core.arrivals import Gaps
from batchserve.core.ticket import Entry, EntryState

if TYPE_CHECKING:
    from batchserve.core.cost import CostModel
    from batchserve.core.shapes import ShapeKey

__all__ = ["Lane", "ShapeQueue"]

_QUEUED = EntryState.QUEUED  # an Enum's members are slow to look up


class Lane:
    """Entries of one shape key and one priority level: a heap by (deadline or tag, number), its dead removed lazily.

    Invariant between calls: the heap is empty or its top is queued, and less than half of a large heap is dead.

    Attributes:
        shape: Whose lane it is.
        level: Its priority level.
        heap: Deadline or tag, number, entry.
        dead: Entries in the heap that wait no more.
        rows: Rows waiting.
    """

    __slots__ = ("dead", "heap", "level", "rows", "shape")

    def __init__(self, shape: ShapeQueue, level: int) -> None:
        self.shape = shape
        self.level = level
        self.heap: list[tuple[float, int, Entry]] = []
        self.dead = 0
        self.rows = 0

    def rows_before(self, deadline_s: float) -> int:
        """Count the rows whose deadline is not later; from a sample if there are many."""
        step = len(self.heap) // 64 + 1
        sample = [item for item in self.heap[::step] if item[2].state is _QUEUED]
        rows = sum(item[2].rows for item in sample)
        before = sum(item[2].rows for item in sample if item[0] <= deadline_s)
        return self.rows * before // rows if rows else 0

    def clean(self) -> None:
        """Drop the dead from the top, and from anywhere once they outnumber the rest."""
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
        entries: Entries waiting.
        tokens: Rows times length of what waits, where the model pads.
        lanes: One lane for each priority level, most important first.
        arrivals: Entries in order of arrival; some may have left.
        gaps: How requests of this key come in.
        cost: What runs of this key cost, once that was asked.
        work_s: Seconds that all that waits of it takes to run, as the policy last worked it out.
        held_since_s: Since when a batch that could start is held on purpose; None if none is.
        hold_end_s: When that hold ends at the latest, unless a timer of the configuration says otherwise.
    """

    __slots__ = (
        "arrivals",
        "cost",
        "entries",
        "gaps",
        "held_since_s",
        "hold_end_s",
        "key",
        "lanes",
        "rows",
        "tokens",
        "work_s",
    )

    def __init__(self, key: ShapeKey, levels: int) -> None:
        self.key = key
        self.rows = 0
        self.entries = 0
        self.tokens = 0
        self.gaps = Gaps()
        self.cost: CostModel | None = None
        self.work_s = 0.0
        self.held_since_s: float | None = None
        self.hold_end_s = 0.0
        self.lanes = tuple(Lane(self, level) for level in range(1, levels + 1))
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
