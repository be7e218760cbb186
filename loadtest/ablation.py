"""What each rule is worth: the same traffic with the rule and without it.

The server has no switches for its rules. They are switched off from outside, by putting something else in the place of
the function or figure that is the rule, for the time of one run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from batchserve.core import admission, forming, holding
from batchserve.core.cost import CostModel
from batchserve.core.curves import Curve, Run, changing, line
from batchserve.core.device import Device
from batchserve.core.record import Record
from batchserve.core.simulator import Member, simulate
from batchserve.core.sizing import Sizing
from batchserve.core.traffic import Traffic, bursts, poisson, volleys
from loadtest.simulated import offline_limit, untuned

__all__ = ["ABLATIONS", "Ablation", "Measure"]

GPU = line(0.004, 0.00005)
EVEN = line(0.002, 0.00025)
FULL_S = GPU(Run(32))
LIMIT = offline_limit(GPU)
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Measure:
    """A figure that is taken with a rule and without it.

    Attributes:
        what: Scenario and figure in words.
        unit: "%", "ms" or "x".
        take: Runs the scenario and gives the figure.
        is_more_better: False for delays.
    """

    what: str
    unit: str
    take: Callable[[], float]
    is_more_better: bool = True


@dataclass(frozen=True)
class Ablation:
    """A rule, what stands in its place when it is off, and where that shows.

    Attributes:
        rule: Its name and section.
        off: Switches it off while it is entered.
        measures: Where its absence is looked for.
    """

    rule: str
    off: Callable[[], contextlib.AbstractContextManager[None]]
    measures: tuple[Measure, ...]


@contextlib.contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Put other things in the place of attributes, and put them back."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


# --- the scenarios ------------------------------------------------------------------------------------------------


def run(
    curve: Curve,
    traffic: Callable[[int], Traffic],
    target_s: float,
    figure: Callable[[Record], float],
    *,
    noise: float = 0.05,
    since_s: float = 0.5,
    until_s: float = np.inf,
    known: Curve | None = None,
    **limits: Any,
) -> float:
    """Give the mean of a figure over the seeds."""
    figures = []
    for seed in SEEDS:
        policy = untuned(known or curve, target_s, **limits)
        [record] = simulate([Member(policy, curve, traffic(seed), noise=noise)], seed=seed)
        figures.append(figure(record.between(since_s, min(until_s, record.span_s))))
    return float(np.mean(figures))


def _overload(load: float, targets: float, seconds: float, figure: Callable[[Record], float], **more: Any) -> float:
    return run(GPU, lambda seed: poisson(load * LIMIT, seconds, seed), targets * FULL_S, figure, **more)


def _good(target_s: float) -> Callable[[Record], float]:
    return lambda record: 100 * record.goodput(target_s) / LIMIT


def _within(target_s: float) -> Callable[[Record], float]:
    return lambda record: 100 * record.within(target_s)


def _mean_ms(record: Record) -> float:
    return float(record.latencies_s.mean()) * 1e3


def _bent(run: Run) -> float:
    return 0.004 + 0.00025 * run.rows + 0.001 * max(0, run.rows - 24)


def _stepped(run: Run) -> float:
    """An engine with fixed shapes: whatever lies between two of them costs as much as the larger one."""
    return 0.002 + 0.0003 * min(size for size in (8, 16, 32) if size >= run.rows)


def _slower(factor: float) -> Curve:
    return changing([(0.0, EVEN), (2.0, lambda run: factor * EVEN(run))])


def _two_models(
    loads: tuple[float, float],
    weights: tuple[float, float],
    targets_s: tuple[float, float],
    figure: Callable[[list[Record]], float],
) -> float:
    """Give the mean of a figure of two models on one slot."""
    figures = []
    for seed in SEEDS:
        device = Device(1)
        members = [
            Member(
                untuned(curve, target_s, device=device, weight=weight),
                curve,
                poisson(load * offline_limit(curve), 4.0, seed + index),
            )
            for index, (curve, target_s, load, weight) in enumerate(
                zip((EVEN, line(0.003, 0.0001)), targets_s, loads, weights, strict=True)
            )
        ]
        figures.append(figure([record.between(1.0, 4.0) for record in simulate(members, device=device, seed=seed)]))
    return float(np.mean(figures))


def _light_in_time(target_s: float) -> float:
    loads, weights = (3.0, 0.2), (1.0, 1.0)
    return _two_models(loads, weights, (0.04, target_s), lambda records: 100 * records[1].within(target_s))


def _off_its_share() -> float:
    """Say by how many per cent two flooded models of weights 3 and 1 miss their shares."""
    ratio = _two_models(
        (2.0, 2.0), (3.0, 1.0), (0.06, 0.06), lambda records: records[0].runs.device_s / records[1].runs.device_s
    )
    return 100 * abs(ratio / 3 - 1)


# --- the rules ----------------------------------------------------------------------------------------------------


def _select_without_need(shape: Any, cost: CostModel, sizing: Sizing, now: float, expire: Any) -> forming.Selection:
    return _SELECT(shape, cost, SimpleNamespace(useful=sizing.useful, need=1), now, expire)  # type: ignore[arg-type]


_SELECT = forming.select


def _always_largest(sizing: Sizing) -> None:
    sizing.useful = sizing.cap


def _earliest_first(device: Device, waiting: list[Any], now: float) -> Any:
    """Urgency alone, whatever each has had."""
    return min(waiting, key=lambda member: member.backlog.start_by(now))


def _least_served_first(device: Device, waiting: list[Any], now: float) -> Any:
    """Whoever has had least for its weight, however urgent the others are."""
    return min(waiting, key=lambda member: member.virtual_s)


def _no_follow(cost: CostModel, ratio: float) -> None:
    cost.q = 1.0


def _no_jump(cost: CostModel) -> None:
    """The classes creep to the new times by themselves."""


_ON_OFF_TARGET_S = 4 * FULL_S
_BURST = 0.39


def _on_off(seed: int) -> Traffic:
    return bursts(_BURST * LIMIT, 6.0, seed, on_s=4 * FULL_S, off_s=8 * FULL_S)


ABLATIONS: tuple[Ablation, ...] = (
    Ablation(
        "give up the nearly late (7.2, last branch)",
        lambda: replaced((forming, "select", _select_without_need)),
        (
            Measure("2 x overload, target 3 full batches: goodput", "%", lambda: _overload(2, 3, 3, _good(3 * FULL_S))),
            Measure(
                "on/off traffic near its limit: within target",
                "%",
                lambda: run(GPU, _on_off, _ON_OFF_TARGET_S, _within(_ON_OFF_TARGET_S)),
            ),
            Measure(
                "runs take 1.5 times as long from one moment on, load 0.9 before: goodput in the next second",
                "%",
                lambda: run(
                    _slower(1.5),
                    lambda seed: poisson(0.9 * offline_limit(EVEN), 3.0, seed),
                    0.03,
                    lambda record: 100 * record.goodput(0.03) * 1.5 / offline_limit(EVEN),
                    known=EVEN,
                    since_s=2.0,
                    until_s=3.0,
                ),
            ),
        ),
    ),
    Ablation(
        "refuse who cannot make it (admission rule 7)",
        lambda: replaced((admission, "_finish_s", lambda *_: (-math.inf, -math.inf))),
        (
            Measure("2 x overload: goodput", "%", lambda: _overload(2, 3, 3, _good(3 * FULL_S))),
            Measure(
                "2 x overload, first 20 targets: median time until a refusal",
                "ms",
                lambda: _overload(
                    2, 6, 0.6, lambda record: float(np.median(record.refusal_delays_s)) * 1e3, since_s=0.1, until_s=0.6
                ),
                is_more_better=False,
            ),
        ),
    ),
    Ablation(
        "no standing queue (admission rule 8)",
        lambda: replaced((admission, "_STANDING_TARGETS", math.inf)),
        (
            Measure(
                "2 x overload, target 10 full batches: median latency of the served",
                "ms",
                lambda: _overload(2, 10, 5, lambda record: record.quantile_s(0.5) * 1e3, since_s=2.0),
                is_more_better=False,
            ),
            Measure("same: goodput", "%", lambda: _overload(2, 10, 5, _good(10 * FULL_S), since_s=2.0)),
        ),
    ),
    Ablation(
        "hold to protect the deadline with several slots (7.3 a)",
        lambda: replaced((holding.Holder, "_protects_deadline", lambda *_: False)),
        tuple(
            Measure(
                f"2 slots, target {targets:g} full batches, Poisson at {load:g} of the limit: within target",
                "%",
                lambda load=load, targets=targets: run(  # type: ignore[misc]
                    GPU,
                    lambda seed: poisson(2 * load * LIMIT, 3.0, seed),
                    targets * FULL_S,
                    _within(targets * FULL_S),
                    slots=2,
                ),
            )
            for targets, load in ((1.5, 0.6), (1.7, 0.7), (1.9, 0.8))
        ),
    ),
    Ablation(
        "hold for requests about to come (7.3 b)",
        lambda: replaced((holding, "until_joined", lambda *_: 0.0)),
        (
            Measure(
                "volleys of 16 in 1 ms at a tenth of the limit: mean latency",
                "ms",
                lambda: run(
                    GPU, lambda seed: volleys(0.1 * LIMIT, 20.0, seed, size=16, spread_s=0.001), 10 * FULL_S, _mean_ms
                ),
                is_more_better=False,
            ),
            Measure(
                "volleys at 0.68 of the limit: within target",
                "%",
                lambda: run(
                    GPU,
                    lambda seed: volleys(0.68 * LIMIT, 6.0, seed, size=16, spread_s=0.25 * FULL_S),
                    4 * FULL_S,
                    _within(4 * FULL_S),
                ),
            ),
        ),
    ),
    Ablation(
        "useful batch size (5.4)",
        lambda: replaced((Sizing, "_set_useful", _always_largest)),
        (
            Measure(
                "a bend at 24 of 64 rows, load 0.9: within 60 ms",
                "%",
                lambda: run(
                    _bent,
                    lambda seed: poisson(0.9 * offline_limit(_bent, 64), 5.0, seed),
                    0.06,
                    _within(0.06),
                    max_batch_size=64,
                ),
            ),
        ),
    ),
    Ablation(
        "upper factor (5.1, q)",
        lambda: replaced((CostModel, "_follow", _no_follow)),
        tuple(
            Measure(
                f"noise of {noise:.0%}, load {load:g}, target 3 full batches: {what}",
                "%",
                lambda load=load, noise=noise, figure=figure: _overload(  # type: ignore[misc]
                    load, 3, 3, figure, noise=noise
                ),
                is_more_better=is_more_better,
            )
            for noise, load, what, figure, is_more_better in (
                (0.05, 0.95, "within target", _within(3 * FULL_S), True),
                (0.15, 0.9, "within target", _within(3 * FULL_S), True),
                (0.15, 2.0, "goodput", _good(3 * FULL_S), True),
                (0.15, 2.0, "admitted and then late or given up", lambda record: 100 * record.late_share, False),
            )
        ),
    ),
    Ablation(
        "sudden change (5.1)",
        lambda: replaced((CostModel, "_follow_change", _no_jump)),
        tuple(
            Measure(
                f"runs take {factor:g} times as long from one moment on, overload by 1.5: goodput in the next 0.3 s",
                "%",
                lambda factor=factor: run(  # type: ignore[misc]
                    _slower(factor),
                    lambda seed: poisson(1.5 / factor * offline_limit(EVEN), 3.0, seed),
                    0.03 * factor,
                    lambda record: 100 * record.goodput(0.03 * factor) * factor / offline_limit(EVEN),
                    known=EVEN,
                    since_s=2.0,
                    until_s=2.3,
                ),
            )
            for factor in (2.0, 0.5)
        ),
    ),
    Ablation(
        "share of the device (8): urgency alone",
        lambda: replaced((Device, "_pick", _earliest_first)),
        (
            Measure("two flooded models, weights 3 and 1: off their shares", "%", _off_its_share, False),
            Measure(
                "a light model with a target of 200 ms beside one at 3 x with 40 ms: within target",
                "%",
                lambda: _light_in_time(0.2),
            ),
        ),
    ),
    Ablation(
        "urgency on the device (8): the share alone",
        lambda: replaced((Device, "_pick", _least_served_first)),
        (
            Measure(
                "two flooded models, weights 1 and 3: within target of all",
                "%",
                lambda: _two_models(
                    (2.0, 2.0),
                    (1.0, 3.0),
                    (0.06, 0.06),
                    lambda records: 50 * sum(record.within(0.06) for record in records),
                ),
            ),
            Measure(
                "a light model beside one at 3 x, both with 40 ms: goodput of the flooded one",
                "%",
                lambda: _two_models(
                    (3.0, 0.2),
                    (1.0, 1.0),
                    (0.04, 0.04),
                    lambda records: 100 * records[0].goodput(0.04) / offline_limit(EVEN),
                ),
            ),
        ),
    ),
    Ablation(
        "preferred sizes (7.4): the list left out",
        lambda: replaced((forming, "whole_steps", lambda rows, *_: rows)),
        tuple(
            Measure(
                f"an engine of 8, 16 or 32 rows, load {load:g}: {what}",
                unit,
                lambda load=load, figure=figure: run(  # type: ignore[misc]
                    _stepped,
                    lambda seed: poisson(load * offline_limit(_stepped), 3.0, seed),
                    0.04,
                    figure,
                    preferred_batch_sizes=(8, 16, 32),
                ),
                is_more_better=is_more_better,
            )
            for load, what, unit, figure, is_more_better in (
                (0.5, "mean latency", "ms", _mean_ms, False),
                (0.8, "mean latency", "ms", _mean_ms, False),
                (0.97, "within target", "%", _within(0.04), True),
            )
        ),
    ),
)
