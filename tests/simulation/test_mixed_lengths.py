"""Requests of different lengths on a made-up device: padding against what else one could do (batching.md section 9).

A run takes `alpha + beta · rows · longest`, with 5 % noise. Nothing is tuned.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from batchserve.core.cost import CostModel
from batchserve.core.curves import Curve, Run, by_elements
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.core.policy import Policy
from batchserve.core.record import NUMBERS, Record
from batchserve.core.simulator import Member, simulate
from batchserve.core.ticket import Outcome
from batchserve.core.traffic import Traffic, poisson

ROWS = 32
GPU_LIKE = by_elements(0.004, 2e-6)
"""32 rows of 68 take 8.4 ms, one row 4.1: a full batch has 15 times the rows per second."""

CPU_LIKE = by_elements(0.0005, 2e-5)

RULE = PadRule(((1,), (1,)), (0, 0), 1, ((),), multiple=8)
UNIFORM = range(8, 129)


def padded(curve: Curve, target_s: float, **keys: object) -> Policy:
    """The server's own rules with `pad`, measured at load as the engine does it."""
    shapes = [(1, 8), (1, 16), (1, 32), (1, 64), (2, 64), (4, 64), (8, 64), (16, 64), (ROWS, 64)]
    return _policy([(rows * length, curve(Run(rows, length))) for rows, length in shapes], target_s, pad=RULE, **keys)


def cut_at_shapes(curve: Curve, target_s: float) -> Policy:
    """The same rules without `pad`: only requests of one length share a run."""
    return _policy([(rows, curve(Run(rows, 64))) for rows in (1, 2, 4, 8, 16, ROWS)], target_s)


def _policy(points: list[tuple[int, float]], target_s: float, **keys: object) -> Policy:
    limits = Limits(
        max_batch_size=ROWS, timeout_s=60.0, max_queue_size=1024, latency_target_s=target_s, shed=True, **keys
    )  # type: ignore[arg-type]
    return Policy("m", limits, CostModel(points, target_s))


def bucket(length: int) -> int:
    """Lengths up to 8, 16, 32, …: fixed buckets that double."""
    return max(3, (length - 1).bit_length())


@functools.cache
def ideal_limit(curve_name: str, lengths: tuple[int, ...]) -> float:
    """Rows per second if every row ran in a full batch of its own length."""
    curve = CURVES[curve_name]
    return 1 / float(np.mean([curve(Run(ROWS, length)) / ROWS for length in lengths]))


CURVES = {"gpu": GPU_LIKE, "cpu": CPU_LIKE}


def run(policy: Policy, curve: Curve, traffic: Traffic, key_of=lambda length: 0) -> Record:
    [record] = simulate([Member(policy, curve, traffic, key_of=key_of, multiple=8)], seed=2)
    end_s = float(traffic.times_s[-1])
    return record.between(0.1 * end_s, 0.95 * end_s)


@pytest.mark.parametrize("load", [1.0, 2.0])
def test_padding_serves_twice_as_many_as_cutting_at_shapes(load: float) -> None:
    """Acceptance: lengths of 8 to 128, evenly spread, on a device that likes batches; four times and more.

    The padded share is 12 to 14 % with a target of six full batches; with one of four the queue offers less choice, and
    it is 16 to 18 %.
    """
    curve = GPU_LIKE
    rate = load * ideal_limit("gpu", tuple(UNIFORM))
    target_s = 6 * curve(Run(ROWS, 128))
    traffic = poisson(rate, 8_000 / rate, 1).with_lengths(UNIFORM, seed=3)
    mixed = run(padded(curve, target_s), curve, traffic)
    cut = run(cut_at_shapes(curve, target_s), curve, traffic, key_of=lambda length: length)
    assert mixed.goodput(target_s) >= 4 * cut.goodput(target_s)
    assert mixed.runs.padded_share < 0.19  # 0.16 to 0.18 were seen


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("load", [1.2, 2.0, 4.0])
def test_overload_does_not_collapse_to_small_batches(name: str, load: float) -> None:
    """Goodput stays above three quarters of full batches without any padding; 0.81 to 0.94 were seen."""
    curve = CURVES[name]
    limit = ideal_limit(name, tuple(UNIFORM))
    target_s = 4 * curve(Run(ROWS, 128))
    rate = load * limit
    traffic = poisson(rate, 8_000 / rate, 1).with_lengths(UNIFORM, seed=3)
    record = run(padded(curve, target_s), curve, traffic)
    assert record.goodput(target_s) >= 0.75 * limit


def lognormal(count: int, seed: int) -> np.ndarray:
    drawn = np.exp(np.random.default_rng(seed).normal(np.log(48), 0.8, count))
    return np.clip(np.round(drawn), 1, 512).astype(np.int64)


@functools.cache
def highest_load(kind: str) -> float:
    """The largest share of the ideal limit at which 99 % are answered in time."""
    curve = GPU_LIKE
    lengths = lognormal(20_000, 5)
    limit = 1 / float(np.mean([curve(Run(ROWS, int(length))) / ROWS for length in lengths]))
    target_s = 4 * curve(Run(ROWS, 128))
    best = 0.0
    for load in np.arange(0.4, 1.0, 0.05):
        rate = float(load) * limit
        traffic = poisson(rate, 5_000 / rate, 1)
        traffic = traffic.with_lengths(lengths, seed=3)
        if kind == "padded":
            record = run(padded(curve, target_s), curve, traffic)
        else:
            record = run(cut_at_shapes(curve, target_s), curve, traffic, key_of=bucket)
        if record.within(target_s) < 0.99:
            break
        best = float(load)
    return best


def test_padding_carries_no_less_than_fixed_doubling_buckets() -> None:
    """The table of section 12: log-normal lengths, median 48, sigma 0.8."""
    assert highest_load("padded") >= highest_load("buckets") > 0.4


@pytest.mark.parametrize("load", [0.85, 2.0])
def test_long_requests_are_not_starved(load: float) -> None:
    """They are answered about as surely as the rest, whether all can be or not."""
    curve = GPU_LIKE
    rate = load * ideal_limit("gpu", tuple(UNIFORM))
    target_s = 4 * curve(Run(ROWS, 128))
    traffic = poisson(rate, 8_000 / rate, 1).with_lengths(UNIFORM, seed=3)
    record = run(padded(curve, target_s), curve, traffic)
    long = record.lengths > 100
    good = (record.ends_s - record.arrivals_s <= target_s) & (record.outcomes == NUMBERS[Outcome.COMPLETED])
    assert good[long].mean() >= 0.8 * good.mean()
    if load < 1:
        assert record.within(target_s) >= 0.96


def test_standing_queue_leaves_enough_to_choose_from() -> None:
    """After 20 times the target the queue is kept short, but not so short that windows are mostly padding."""
    curve = GPU_LIKE
    limit = ideal_limit("gpu", tuple(UNIFORM))
    target_s = 4 * curve(Run(ROWS, 128))
    traffic = poisson(2 * limit, 40 * target_s, 1).with_lengths(UNIFORM, seed=3)
    [record] = simulate([Member(padded(curve, target_s), curve, traffic)], seed=2)
    standing = record.between(25 * target_s, 38 * target_s)
    assert standing.goodput(target_s) >= 0.8 * limit
    assert standing.runs.padded_share < 0.2
