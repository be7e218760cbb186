"""What a run is to do: which requests, when, over how many connections, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from batchserve.errors import ConfigError
from batchserve.load.arrivals import MOST_REQUESTS

if TYPE_CHECKING:
    from batchserve.core.tensors import Array
    from batchserve.load.arrivals import Arrivals
    from batchserve.load.questions import Question

__all__ = ["MOST_CONNECTIONS", "Plan", "schedule"]

MOST_CONNECTIONS = 1000
"""Connections of an open loop unless another number is named: a stall makes it open many."""


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        questions: What is asked.
        streams: Name of each stream.
        which: `int32[N]`, index of each request's question. An open loop sends these; a closed one goes round in them.
        times_s: `float64[N]` ascending, when each is due, in seconds from the beginning; None for a closed loop.
        connections: Open loop: no more than so many; closed: exactly so many.
        duration_s: Requests are sent for so long.
        warmup_s: Those that are due before this moment are sent and not counted.
        timeout_s: A request without an answer so long after it was due has failed.
        target_s: What latency counts as good; None for any.
        most_requests: No more are sent.
        timing_every: One request in so many asks for `Server-Timing`; 0 for none.
        tick_s: An open loop looks at the clock and the sockets only so often, which saves processor time; 0 for as
            soon as anything is due or has come, None for what the latencies allow (`batchserve.load.tick`).
            Latencies are too long by half a tick on average, and right to a tick and a half.
        targets_s: Target of each stream where it has its own; None in a place for the plan's.
    """

    questions: Sequence[Question]
    streams: Sequence[str]
    which: Array
    duration_s: float
    times_s: Array | None = None
    connections: int = MOST_CONNECTIONS
    warmup_s: float = 0.0
    timeout_s: float = 30.0
    target_s: float | None = None
    most_requests: int = MOST_REQUESTS
    timing_every: int = 0
    tick_s: float | None = None
    targets_s: Sequence[float | None] = field(default_factory=tuple)

    def target_of(self, stream: int) -> float | None:
        """Return the target of a stream."""
        own = self.targets_s[stream] if self.targets_s else None
        return self.target_s if own is None else own


def schedule(
    parts: Sequence[tuple[Arrivals, Sequence[int], Sequence[float]]],
    duration_s: float,
    most_requests: int,
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw when each request is due, and which it is.

    Args:
        parts: Independent arrivals, each with the questions that it chooses among and their weights.
        duration_s: Length of the schedule.
        most_requests: No schedule is longer.
        random: Draws.

    Returns:
        `times_s` and `which` of a plan.

    Raises:
        ConfigError: It would be longer.
    """
    expected = sum(arrivals.expected(duration_s) for arrivals, _, _ in parts)
    if expected > most_requests:
        raise ConfigError(
            f"the schedule has {expected:,.0f} requests, and at most {most_requests:,} may be sent; lower the rate, "
            "shorten the duration, or raise max_requests"
        )
    times, which = [], []
    for arrivals, questions, weights in parts:
        moments = arrivals.draw(duration_s, random)
        times.append(moments)
        which.append(choose(questions, weights, len(moments), random))
    all_times = np.concatenate(times)
    order = np.argsort(all_times, kind="stable")
    return all_times[order], np.concatenate(which)[order]


def choose(questions: Sequence[int], weights: Sequence[float], count: int, random: np.random.Generator) -> Array:
    """Choose questions at random by their weights, `int32[count]`."""
    shares = np.asarray(weights, dtype=np.float64)
    return np.asarray(questions, dtype=np.int32)[random.choice(len(questions), count, p=shares / shares.sum())]
