"""Says in plain words what the figures mean: whether batching pays, and what would meet a target that is not met."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchserve.load.svg import format_count, format_seconds

if TYPE_CHECKING:
    from batchserve.load.search import Goal
    from batchserve.tuning.choose import Predicted
    from batchserve.tuning.confirm import Probe
    from batchserve.tuning.curves import Curves
    from batchserve.tuning.predict import Forecast, Predictor
    from batchserve.tuning.settings import Way

__all__ = ["Remedy", "batching_gain", "batching_verdict", "goal_text", "measured_remedy", "remedies"]

PAYS = 1.15
"""Batching pays if it gives so many times the rows per second of single rows."""

DOUBLINGS = 8
BELOW = 0.95
MORE_SLOTS = (2, 4, 8)
CALM = 0.3
"""Share of what the curves allow at which a target is called attainable where no rate is given."""


def goal_text(goal: Goal) -> str:
    """Write `p99 within 20 ms`."""
    return f"p{goal.share * 100:g} within {format_seconds(goal.target_s)}"


def batching_gain(curves: Curves) -> tuple[tuple[Way, int], tuple[Way, int]]:
    """Return the way that gives most rows per second one by one, and the way and batch size that give most of all.

    Each may have the way that suits it: several runs at once are the other means to use all cores.
    """
    single = max(((way, curves.sizes(way)[0]) for way in curves.ways), key=lambda one: curves.rows_per_s(*one))
    best = max(((way, curves.best(way)) for way in curves.ways), key=lambda one: curves.rows_per_s(*one))
    return single, best


def batching_verdict(curves: Curves, *, is_batching: bool, why: str) -> str:
    """Say whether batching pays.

    Args:
        curves: What was measured.
        is_batching: False if the model does not batch.
        why: The reason for that.
    """
    if not is_batching:
        return f"The model cannot be batched: {why}"
    single, best = batching_gain(curves)
    alone, batched = curves.rows_per_s(*single), curves.rows_per_s(*best)
    figures = (
        f"{format_count(batched)} rows/s in batches of {best[1]} ({best[0]}), {batched / alone:.2f} times the "
        f"{format_count(alone)} one by one ({single[0]})"
    )
    if best[1] == single[1]:
        most = max(curves.sizes(best[0]))
        figures = (
            f"no batch of up to {most} gave more than the {format_count(alone)} rows/s of single rows ({single[0]})"
        )
    if batched < PAYS * alone:
        return f"Batching does not pay on this machine: {figures}."
    return f"Batching pays: {figures}."


@dataclass(frozen=True, slots=True)
class Remedy:
    """What would meet a target that is not met.

    Attributes:
        kind: `target`, `rate` or `slots`.
        value: The latency target in seconds, the requests a second, or the number of slots.
        text: One sentence for people.
    """

    kind: str
    value: float
    text: str


def remedies(predictor: Predictor, chosen: Predicted, has_time: Callable[[], bool]) -> list[Remedy]:
    """Find what would meet the target, by simulation: a longer one, fewer requests, or more slots.

    Args:
        predictor: Of the traffic and the target that is not met.
        chosen: The best setting, which does not meet it.
        has_time: Asked before each simulation.
    """
    found = [_longer_target(predictor, chosen, has_time)]
    if predictor.demand.has_rate:
        found += [_fewer_requests(predictor, chosen), _more_slots(predictor, chosen, has_time)]
    return [one for one in found if one is not None]


def measured_remedy(best: Probe) -> Remedy:
    """Say what would meet a target that only real runs missed: somewhat less than what they answered in time."""
    rate = BELOW * best.goodput_per_s
    text = (
        f"Fewer requests would do: about {format_count(rate)}/s, as {format_count(best.goodput_per_s)}/s were in time. "
        "The simulation expects all of them to be; it knows of the runs alone."
    )
    return Remedy("rate", rate, text)


def _longer_target(predictor: Predictor, chosen: Predicted, has_time: Callable[[], bool]) -> Remedy | None:
    """Double the target until it is held, then see whether somewhat less would do."""
    target_s = max(predictor.goal.target_s, predictor.lone_s(chosen.setting))
    best: tuple[float, Forecast] | None = None
    for _ in range(DOUBLINGS):
        if best is not None or not has_time():
            break
        target_s *= 2
        best = _attained(predictor, chosen, target_s)
    if best is None:
        return None
    if has_time():
        best = _attained(predictor, chosen, target_s / math.sqrt(2)) or best
    target_s, forecast = best
    rate = f"{format_count(forecast.offered_per_s)} requests/s"
    text = f"A target of {format_seconds(target_s)} would do: {forecast.within_share:.1%} in time at {rate}."
    return Remedy("target", target_s, text)


def _attained(predictor: Predictor, chosen: Predicted, target_s: float) -> tuple[float, Forecast] | None:
    longer = predictor.with_target(target_s)
    bound = longer.bound(chosen.setting)
    speed = 1.0 if predictor.demand.has_rate else CALM * bound
    if speed > bound:
        return None
    forecast = longer.at(chosen.setting, speed)
    return (target_s, forecast) if longer.is_held(forecast) else None


def _fewer_requests(predictor: Predictor, chosen: Predicted) -> Remedy | None:
    if chosen.most is None:
        return None
    rate = chosen.most.offered_per_s
    text = f"Fewer requests would do: {format_count(rate)}/s, {chosen.speed:.2f} times this traffic."
    return Remedy("rate", rate, text)


def _more_slots(predictor: Predictor, chosen: Predicted, has_time: Callable[[], bool]) -> Remedy | None:
    instances = chosen.setting.way.layout.instances
    for factor in MORE_SLOTS:
        if not has_time():
            return None
        slots = factor * instances
        if predictor.is_held(forecast := predictor.at(chosen.setting, 1.0, slots)):
            text = (
                f"More slots would do: {slots} as fast as the present {instances}, on {factor} times the cores or "
                f"devices ({forecast.within_share:.1%} in time)."
            )
            return Remedy("slots", slots, text)
    return None
