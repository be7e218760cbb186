"""What is asked of the model: which requests, when, and how much faster than that."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from batchserve.load.arrivals import Bursts, Faster, Ramp, Steady, Volleys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.tensors import Array
    from batchserve.load.arrivals import Arrivals
    from batchserve.load.scenario import Scenario, Stream
    from batchserve.load.search import Goal

__all__ = ["Demand", "example_stream"]

RAMP_S = 30.0
"""How long a ramp takes from one rate to the other: a schedule says nothing about it."""

WARMUP_SHARE = 0.1
"""Of traffic that is always alike. What repeats itself, or was recorded, is counted whole."""


@dataclass(frozen=True)
class Demand:
    """Traffic for one model at any speed.

    Attributes:
        scenario: The traffic at its own speed; an open loop.
        text: As it was given, for people.
        goal: The share that is to be answered in time, and the time.
        whole_s: How long it is, if it was recorded; infinite otherwise.
        has_rate: False if its own speed means nothing, because the largest is looked for.
        has_lengths: True if the simulator's lengths are sizes of free axes, and not numbers of shapes.
        is_from_file: True if the traffic was read from a file, and names the shapes of its requests.
    """

    scenario: Scenario
    text: str
    goal: Goal
    whole_s: float = math.inf
    has_rate: bool = True
    has_lengths: bool = False
    is_from_file: bool = False

    @classmethod
    def unlimited(cls, scenario: Scenario, goal: Goal) -> Demand:
        """Ask for as much as the goal allows: Poisson traffic whose speed is its rate in requests a second."""
        return cls(scenario.with_(arrivals=Steady(1.0)), "Poisson, as much as holds the target", goal, has_rate=False)

    @property
    def per_s(self) -> float:
        """Mean requests a second at its own speed."""
        seconds = min(self.whole_s, self._period_s() or 100.0)
        return sum(arrivals.expected(seconds) for arrivals in self._arrivals()) / seconds

    @property
    def rows(self) -> float:
        """Mean rows of a request."""
        weights, rows = [], []
        for stream in self.scenario.streams:
            weights.append(stream.arrivals.expected(self.whole_s) if stream.arrivals else stream.weight)
            rows.append(sum(stream.rows) / 2)
        return float(np.average(rows, weights=weights))

    def fitted(self, speed: float, seconds: float) -> float:
        """Return about so many seconds: whole periods of traffic that repeats itself, no more than was recorded."""
        if period_s := self._period_s() / speed:
            seconds = max(1, round(seconds / period_s)) * period_s
        return min(seconds, self.whole_s / speed)

    def at(self, speed: float, seconds: float, seed: int = 0) -> Scenario:
        """Make the first so many seconds of the traffic at so many times its speed; `seed` is for all that is drawn."""
        scenario = self.scenario
        return scenario.with_(
            streams=[
                replace(one, arrivals=Faster(one.arrivals, speed)) if one.arrivals else one for one in scenario.streams
            ],
            arrivals=Faster(scenario.arrivals, speed) if scenario.arrivals else None,
            duration_s=seconds,
            warmup_s=0.0 if self._period_s() or self.whole_s < math.inf else WARMUP_SHARE * seconds,
            target_s=self.goal.target_s,
            seed=seed,
        )

    def _arrivals(self) -> list[Arrivals]:
        own = [stream.arrivals for stream in self.scenario.streams if stream.arrivals]
        return own if self.scenario.arrivals is None else [*own, self.scenario.arrivals]

    def _period_s(self) -> float:
        """Return the time after which the traffic begins anew; 0 if it has no such time."""
        return max(map(_period_s, self._arrivals()))


def _period_s(arrivals: Arrivals) -> float:
    match arrivals:
        case Bursts():
            return arrivals.on_s + arrivals.off_s
        case Volleys():
            return arrivals.every_s
        case Ramp():
            return RAMP_S
    return 0.0


def example_stream(stream: Stream, names: Sequence[str], inputs: Sequence[Array], *, is_batching: bool) -> Stream:
    """Give a stream the shapes, and the range of whole numbers, of inputs that the model is known to take.

    Args:
        stream: What it is otherwise like.
        names: Of the inputs.
        inputs: Of one row.
        is_batching: True if their first axis is the rows.
    """
    return replace(
        stream,
        dims=tuple(tuple(array.shape[1:] if is_batching else array.shape) for array in inputs),
        values={
            name: (float(array.min()), float(array.max()))
            for name, array in zip(names, inputs, strict=True)
            if array.dtype.kind in "iu" and array.size
        },
    )
