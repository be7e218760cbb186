"""What the rules promise for one model on two devices, of which one takes four times as long."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from batchserve.core.cost import CostModel
from batchserve.core.curves import Run, by_elements, line, warmed
from batchserve.core.device import Device
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.core.policy import Policy
from batchserve.core.record import Record
from batchserve.core.simulator import Member, simulate
from batchserve.core.speeds import Speeds
from batchserve.core.traffic import poisson
from batchserve.engine.warmup import warm_up_sizes
from loadtest.simulated import offline_limit

CURVES = {
    "gpu": line(0.004, 0.00005),  # 32 rows cost 1.4 times as much as one
    "between": line(0.002, 0.00025),
    "cpu": line(0.0005, 0.001),  # 32 rows cost 22 times as much as one
}
ROWS = 32
SLOWER = 4.0
BOTH = 1 + 1 / SLOWER
"""What both devices can run, in limits of the quick one."""

EVERY_CURVE = pytest.mark.parametrize("name", CURVES)
OVERLOADS = pytest.mark.parametrize("load", [1.2, 2.0, 4.0])
TARGETS = pytest.mark.parametrize("targets", [3.0, 6.0])


def full(name: str) -> float:
    """Seconds of a full batch on the quick device."""
    return CURVES[name](Run(ROWS))


def spread(name: str, target_s: float, known: tuple[float, ...] = (1.0, SLOWER)) -> Policy:
    limits = Limits(ROWS, 60.0, 1024, slots=2, latency_target_s=target_s, shed=True)
    cost = CostModel(warmed(CURVES[name], warm_up_sizes(ROWS)), target_s)
    return Policy("m", limits, cost, Device(2), Speeds(2, known))


@functools.cache
def under_load(name: str, load: float, targets: float, known: tuple[float, ...] = (1.0, SLOWER)) -> Record:
    """Run Poisson traffic at a multiple of what both can run, with a target of so many full batches."""
    curve, target_s = CURVES[name], targets * full(name)
    rate = load * BOTH * offline_limit(curve)
    duration_s = max(25_000 / rate, 60 * target_s)
    policy = spread(name, target_s, known)
    [record] = simulate([Member(policy, curve, poisson(rate, duration_s, 1), speeds=(1.0, SLOWER))], seed=2)
    return record


def goodput(record: Record, name: str, targets: float) -> float:
    """Rows answered within the target, in limits of the quick device."""
    seconds = record.span_s
    return record.between(0.05 * seconds, 0.95 * seconds).goodput(targets * full(name)) / offline_limit(CURVES[name])


@TARGETS
@OVERLOADS
@EVERY_CURVE
def test_goodput_under_overload_is_at_least_that_of_the_quick_one_alone(name: str, load: float, targets: float) -> None:
    assert goodput(under_load(name, load, targets), name, targets) >= 0.98


@OVERLOADS
@EVERY_CURVE
def test_slower_device_contributes_what_the_target_allows(name: str, load: float) -> None:
    """Six full batches of the quick device are one and a half of the slower one."""
    assert goodput(under_load(name, load, 6.0), name, 6.0) >= 0.9 * BOTH


def test_slower_device_stays_out_of_it_where_it_can_meet_no_target() -> None:
    """One row takes it 16 ms, and the target is 16.8 ms."""
    record = under_load("gpu", 2.0, 3.0)
    assert goodput(record, "gpu", 3.0) == pytest.approx(1.0, abs=0.02)
    assert record.late_share <= 0.01


@TARGETS
@OVERLOADS
@EVERY_CURVE
def test_who_is_let_in_is_answered_in_time(name: str, load: float, targets: float) -> None:
    """The same bounds as on one device."""
    record, standing_s = under_load(name, load, targets), 20 * targets * full(name)
    assert record.between(1.1 * standing_s, np.inf).late_share <= 0.01
    assert record.between(0.0, standing_s).late_share <= 0.03  # the queue is as long as the target allows


@EVERY_CURVE
def test_nearly_all_are_answered_in_time_below_the_limit_of_both(name: str) -> None:
    record = under_load(name, 0.9, 6.0)
    assert record.within(6.0 * full(name)) >= 0.99


@EVERY_CURVE
def test_slowness_that_nobody_told_is_learnt(name: str) -> None:
    """Without runs at load both are taken to be equal at first."""
    record = under_load(name, 2.0, 6.0, ())
    assert goodput(record, name, 6.0) >= 0.9 * BOTH
    assert record.between(0.2 * record.span_s, np.inf).late_share <= 0.01


@EVERY_CURVE
def test_lone_request_runs_on_the_quick_device_at_once(name: str) -> None:
    curve, target_s = CURVES[name], 8 * full(name)
    rate = 0.01 * offline_limit(curve)
    [record] = simulate(
        [Member(spread(name, target_s), curve, poisson(rate, 1000 / rate, 1), noise=0.0, speeds=(1.0, SLOWER))]
    )
    assert np.median(record.latencies_s) == pytest.approx(curve(Run(1)), rel=1e-6)
    # One that comes while the quick device is at work waits for it: the slower one would take longer still.
    assert record.latencies_s.max() < SLOWER * curve(Run(1))


# --- requests of different lengths or shapes --------------------------------------------------------------------------

LENGTHS = range(8, 129)
BY_TOKENS = by_elements(0.004, 2e-6)
RULE = PadRule(((1,), (1,)), (0, 0), 1, ((),), multiple=8)


def with_lengths(factors: tuple[float, ...], pad: PadRule | None, load: float, target_s: float) -> Record:
    """Run lengths of 8 to 128, evenly spread, at a multiple of what one device could run without any padding."""
    shapes = [(rows, 64) for rows in (1, 2, 4, 8, 16, ROWS)]
    if pad is not None:
        shapes += [(1, 8), (1, 16), (1, 32)]
    size = 1 if pad is None else 64
    cost = CostModel([(rows * min(length, size), BY_TOKENS(Run(rows, length))) for rows, length in shapes], target_s)
    limits = Limits(ROWS, 60.0, 1024, slots=len(factors), latency_target_s=target_s, shed=True, pad=pad)
    speeds = Speeds(len(factors), factors) if len(factors) > 1 else None
    policy = Policy("m", limits, cost, Device(len(factors)), speeds)
    rate = load * ROWS / BY_TOKENS(Run(ROWS, 68))
    traffic = poisson(rate, 8_000 / rate, 1).with_lengths(LENGTHS, seed=3)
    key_of = (lambda length: 0) if pad else (lambda length: length // 32)
    [record] = simulate([Member(policy, BY_TOKENS, traffic, key_of=key_of, multiple=8, speeds=factors)], seed=2)
    return record.between(0.1 * record.span_s, 0.95 * record.span_s)


@pytest.mark.parametrize("pad", [RULE, None], ids=["padded", "shapes"])
def test_lengths_and_shapes_gain_by_the_slower_device_and_nobody_is_late_for_it(pad: PadRule | None) -> None:
    target_s = 8 * BY_TOKENS(Run(ROWS, 128))
    alone, both = (with_lengths(factors, pad, 2.0, target_s) for factors in ((1.0,), (1.0, SLOWER)))
    assert both.goodput(target_s) >= 1.1 * alone.goodput(target_s)
    assert both.late_share <= max(0.01, alone.late_share)
