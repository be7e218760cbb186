"""What runs in service were like while something is built for them: their shapes, and copies of a few inputs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.tensors import Array

__all__ = ["KEPT", "KEPT_BYTES", "SHAPES", "RecentRuns"]

KEPT = 8
KEPT_BYTES = 1 << 20
"""Inputs of so many batches are copied, none larger than this."""

SHAPES = 64
"""Runs whose shapes are kept; so many say which lengths there are."""


class RecentRuns:
    """Watches runs. `note` from any thread, everything else from one.

    The first inputs are copied, then those of every run whose number is a power of two, in the place of the oldest:
    a build may take minutes, and a copy of every run would be felt.
    """

    def __init__(self) -> None:
        self.shapes: list[tuple[tuple[int, ...], ...]] = []
        self.inputs: list[tuple[list[Array], int]] = []
        self._count = 0
        self._is_enough = threading.Event()

    def note(self, inputs: Sequence[Array], output_mask: int) -> None:
        """Take a run in, before it runs. Threads may race for the count, which does no harm."""
        self._count = count = self._count + 1
        if len(self.shapes) < SHAPES:
            self.shapes.append(tuple(one.shape for one in inputs))
            if len(self.shapes) >= SHAPES:
                self._is_enough.set()
        if count > KEPT and count & (count - 1):
            return
        if sum(one.nbytes for one in inputs) > KEPT_BYTES:
            return
        copies = [one.copy() for one in inputs], output_mask
        if len(self.inputs) < KEPT:
            self.inputs.append(copies)
        else:
            self.inputs[count.bit_length() % KEPT] = copies

    def wait(self) -> None:
        """Wait until the shapes of enough runs are known, or `stop`."""
        self._is_enough.wait()

    def stop(self) -> None:
        """Let go who waits."""
        self._is_enough.set()
