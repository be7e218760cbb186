"""Predicts by the simulator what a setting would make of the traffic, and how much of it it could take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchserve.core.cost import CostModel
from batchserve.core.policy import Policy
from batchserve.core.simulator import Member, simulate
from batchserve.load.whatif import traffic_by_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchserve.core.curves import Curve
    from batchserve.core.limits import Limits
    from batchserve.load.search import Goal
    from batchserve.tuning.curves import Curves
    from batchserve.tuning.demand import Demand
    from batchserve.tuning.settings import Setting

__all__ = ["Forecast", "Predictor"]

HAND_OVER_S = 60e-6
"""Between a decision and its run (engine/placement.py)."""

REQUESTS = 6000
"""Requests of a simulation: 60 of them may be late if 99 % are to be in time."""
TARGETS = 60
"""A simulation lasts at least so many times the latency target."""
MOST_SIMULATED = 20_000
"""Requests, however long the target or the traffic's period is."""

FIRST, LEAST = 0.9, 0.02
"""Where the search for the largest speed begins and where it gives up, as shares of what the curves allow."""
STEPS = 8
PRECISION = 1.02


@dataclass(frozen=True, slots=True)
class Forecast:
    """What became of simulated traffic.

    Attributes:
        speed: How many times as fast as it is.
        offered_per_s: Requests a second.
        within_share: Share of them that were answered within the target.
        quantile_s: Latency that the goal's share of the answered ones keeps; infinite without any.
        rows_per_run: Mean rows in a run.
        busy_share: Time of the runs by the time and the slots.
    """

    speed: float
    offered_per_s: float
    within_share: float
    quantile_s: float
    rows_per_run: float
    busy_share: float

    @property
    def goodput_per_s(self) -> float:
        """Requests a second that were answered within the target."""
        return self.offered_per_s * self.within_share


class Predictor:
    """Simulates one model's traffic on measured curves. One thread.

    Args:
        name: The model's.
        curves: What was measured.
        demand: The traffic and the goal.
        limits: Makes the rules' limits of a setting for the goal's time.
        length: Size of free axes in the measurements. Costs grow in proportion to it where the traffic has lengths.
    """

    def __init__(
        self,
        name: str,
        curves: Curves,
        demand: Demand,
        limits: Callable[[Setting, float], Limits],
        length: int = 0,
    ) -> None:
        self._name = name
        self._curves = curves
        self._limits = limits
        self._length = length if demand.has_lengths else 0
        self.demand = demand

    def with_target(self, target_s: float) -> Predictor:
        """Return a predictor of the same traffic with another latency target."""
        goal = replace(self.demand.goal, target_s=target_s)
        return Predictor(self._name, self._curves, replace(self.demand, goal=goal), self._limits, self._length)

    @property
    def goal(self) -> Goal:
        """What is to be held."""
        return self.demand.goal

    def bound(self, setting: Setting) -> float:
        """Return the speed that a setting cannot exceed within the goal."""
        rows_per_s = self._curves.bound(setting, self.goal.target_s)
        return rows_per_s / (self.demand.rows * self.demand.per_s * self.goal.share)

    def lone_s(self, setting: Setting) -> float:
        """Return the seconds of the smallest run when nothing else runs."""
        return self._curves.run_s(setting.way, self._curves.sizes(setting.way)[0])

    def at(self, setting: Setting, speed: float, slots: int | None = None) -> Forecast:
        """Simulate traffic so many times as fast.

        Args:
            setting: On a way that was measured.
            speed: How many times.
            slots: Runs at once, if not the setting's.
        """
        per_s = self.demand.per_s * speed
        seconds = self.demand.fitted(speed, max(REQUESTS / per_s, TARGETS * self.goal.target_s))
        scenario = self.demand.at(speed, min(seconds, MOST_SIMULATED / per_s))
        limits = self._limits(setting, self.goal.target_s)
        limits = replace(limits, slots=slots or limits.slots)
        per_row = 1 if limits.pad is None else max(1, self._length)  # a model that pads costs by tokens
        points = [(rows * per_row, seconds) for rows, seconds in self._curves.points(setting.way)]
        policy = Policy(self._name, limits, CostModel(points, limits.horizon_s))
        member = Member(
            policy,
            self._curve(setting, limits.slots),
            traffic_by_model(scenario)[self._name],
            self._curves.noise,
            HAND_OVER_S,
            key_of=(lambda _: 0) if limits.pad is not None else (lambda shape: shape),
        )
        (whole,) = simulate([member], seed=1)
        record = whole.between(scenario.warmup_s, scenario.duration_s)
        window_s = scenario.duration_s - scenario.warmup_s
        quantile_s = record.quantile_s(self.goal.share)
        return Forecast(
            speed=speed,
            offered_per_s=len(record) / window_s,
            within_share=record.within(self.goal.target_s),
            quantile_s=math.inf if math.isnan(quantile_s) else quantile_s,
            rows_per_run=float(record.runs.rows.mean()) if len(record.runs) else 0.0,
            busy_share=record.runs.device_s / (window_s * limits.slots),
        )

    def _curve(self, setting: Setting, slots: int) -> Curve:
        curve = self._curves.curve(setting.way, HAND_OVER_S, slots)
        if not self._length:
            return curve
        return lambda run: curve(replace(run, rows=run.rows * run.longest / self._length))

    def is_held(self, forecast: Forecast) -> bool:
        """Say whether the goal was met."""
        return forecast.within_share >= self.goal.share

    def most(self, setting: Setting, slots: int | None = None) -> Forecast | None:
        """Find the largest speed at which a setting meets the goal; None if there is none that is worth the name."""
        bound = self.bound(setting) * (1 if slots is None else slots / setting.way.layout.instances)
        low, high, speed = None, bound * PRECISION, FIRST * bound
        for _ in range(STEPS):
            if speed <= LEAST * bound:
                break
            forecast = self.at(setting, speed, slots)
            if self.is_held(forecast):
                low = forecast
            else:
                high = speed
            if low is not None and high / low.speed < PRECISION:
                break
            speed = high / 2 if low is None else math.sqrt(low.speed * high)
        return low
