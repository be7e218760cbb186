"""What a client sends again and again: requests that begin with the same bytes and differ in their tensors alone.

A client that asks one model the same kind of question sends the same head and the same JSON each time. Who remembers
what they came to needs one comparison of bytes for the next request, in place of finding the end of the head, looking
it up, looking up the model, and looking up the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weakref import ref

    from batchserve.engine.model import Model
    from batchserve.frontend.heads import Head
    from batchserve.frontend.plans import Plan

__all__ = ["Habit", "Habits"]

MOST_HABITS = 1024
"""Remembered at once; when there are more, all are forgotten, as with heads and plans. A connection keeps its own."""


@dataclass(frozen=True, slots=True)
class Habit:
    """How to read a request that begins with known bytes.

    Attributes:
        begin: The head and the JSON.
        size_bytes: Length of the whole request; all of it came in one read.
        head: The head.
        model: The version that serves it; a habit does not keep a version from being unloaded.
        plan: How to read the tensors, with offsets from the first byte of the head.
        generation: The repository's when this was learnt; under another one the habit is void.
    """

    begin: bytes
    size_bytes: int
    head: Head
    model: ref[Model]
    plan: Plan
    generation: int

    @property
    def head_bytes(self) -> int:
        """Length of the head."""
        return len(self.begin) - self.plan.json_bytes


class Habits:
    """Habits that connections share, by the bytes they begin with. Event loop only."""

    def __init__(self) -> None:
        self._habits: dict[bytes, Habit] = {}

    def learn(self, begin: bytes, head: Head, model: ref[Model], plan: Plan, generation: int) -> Habit:
        """Return the habit of requests like one that was just read.

        Args:
            begin: Its head and JSON; no binary tensor is part of it.
            head: Its head.
            model: The version it went to.
            plan: The plan of its JSON, with offsets from the first byte of the body.
            generation: The repository's now.
        """
        known = self._habits.get(begin)
        if known is not None and known.plan.asked is plan.asked and known.generation == generation:
            return known
        head_bytes = len(begin) - plan.json_bytes
        views = tuple((shape, dtype, offset + head_bytes) for shape, dtype, offset in plan.views)
        if len(self._habits) >= MOST_HABITS:
            self._habits.clear()
        habit = Habit(begin, head_bytes + head.length, head, model, replace(plan, views=views), generation)
        self._habits[begin] = habit
        return habit
