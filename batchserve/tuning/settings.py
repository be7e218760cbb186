"""What there is to choose between: providers, instances and threads, and the most rows in a run."""

from __future__ import annotations

from dataclasses import dataclass

from batchserve.backends.base import Layout

__all__ = ["Setting", "Way", "layouts_on", "server_target_s"]

MOST_THREAD_COUNTS = 4
"""Numbers of threads that are compared: each is a session of its own, with its own copy of the weights."""


WAY_SHARE, LEAST_WAY_S = 0.1, 0.5e-3
"""What of a target is left for the way from the client and back. A server near its limit fills all the time it has: set
to 100 ms it gave answers that a load beside it had after 106 ms (mlp-wide, 2 cores)."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where and how runs are made.

    Attributes:
        provider: The execution provider, as configured.
        layout: Instances and threads.
    """

    provider: str
    layout: Layout

    def __str__(self) -> str:
        return f"{self.provider} {self.layout}"


@dataclass(frozen=True, slots=True)
class Setting:
    """All that is chosen.

    Attributes:
        way: Where and how runs are made.
        max_batch_size: Most rows in a run; 0 for a model that does not batch.
    """

    way: Way
    max_batch_size: int

    @property
    def rows(self) -> int:
        """Most rows in a run as costs count them: no batch axis counts as 1."""
        return max(1, self.max_batch_size)

    def __str__(self) -> str:
        return f"{self.way}, max_batch_size {self.max_batch_size}"


def server_target_s(target_s: float) -> float:
    """Return the `latency_target` of a server whose clients are to have their answers within a time, in whole µs."""
    return round(target_s - min(target_s / 2, max(WAY_SHARE * target_s, LEAST_WAY_S)), 6) or target_s


def layouts_on(cores: int) -> list[Layout]:
    """List the ways to share cores among runs, those that use all of them first.

    Ways that leave cores free are among them: the event loop, and whoever else is on the machine, may need one.
    """
    found = [
        Layout(instances, threads)
        for threads in _thinned(_doubled(cores))
        for instances in _doubled(max(1, cores // threads))
    ]
    return sorted(found, key=lambda one: -one.instances * one.threads)


def _doubled(most: int) -> list[int]:
    """List 1, 2, 4 and so on, and `most` at the end."""
    counts, count = [], 1
    while count < most:
        counts.append(count)
        count *= 2
    return [*counts, most]


def _thinned(counts: list[int]) -> list[int]:
    while len(counts) > MOST_THREAD_COUNTS:
        counts = sorted({*counts[::2], counts[-1]})
    return counts
