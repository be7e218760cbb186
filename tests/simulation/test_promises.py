"""What the rules promise under load: the table of statistical checks of batching.md section 12, with fixed seeds.

The device is `alpha + beta · rows` with 5 % noise unless a test says otherwise, and nothing is tuned.
"""

from __future__ import annotations

import functools
import os
from dataclasses import replace

import numpy as np
import pytest

from batchserve.core.cost import CostModel
from batchserve.core.curves import Curve, Run, line, warmed
from batchserve.core.device import Device
from batchserve.core.record import NUMBERS, Record
from batchserve.core.simulator import Member, simulate
from batchserve.core.ticket import Outcome
from batchserve.core.traffic import Traffic, merge, poisson, replay, volleys
from batchserve.engine.warmup import warm_up_sizes
from loadtest.simulated import offline_limit, untuned

CURVES = {
    "gpu": line(0.004, 0.00005),  # 32 rows cost 1.4 times as much as one
    "between": line(0.002, 0.00025),
    "cpu": line(0.0005, 0.001),  # 32 rows cost 22 times as much as one
}
ROWS = 32
SCALE = 8 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 1
REQUESTS = 25_000 * SCALE


def full(name: str) -> float:
    """Seconds of a full batch."""
    return CURVES[name](Run(ROWS))


@functools.cache
def under_load(name: str, load: float, targets: float) -> Record:
    """Run Poisson traffic at a multiple of the offline limit, with a target of so many full batches."""
    curve = CURVES[name]
    rate = load * offline_limit(curve)
    # Long enough for the rule of the standing queue to have come and gone.
    duration_s = max(REQUESTS / rate, 60 * targets * full(name))
    policy = untuned(curve, targets * full(name))
    [record] = simulate([Member(policy, curve, poisson(rate, duration_s, 1))], seed=2)
    return record.between(0.05 * duration_s, 0.95 * duration_s)


@pytest.mark.parametrize("targets", [3.0, 6.0])
@pytest.mark.parametrize("name", CURVES)
def test_nearly_all_are_answered_in_time_just_below_the_limit(name: str, targets: float) -> None:
    record = under_load(name, 0.95, targets)
    assert record.within(targets * full(name)) >= 0.99


OVERLOADS = pytest.mark.parametrize("load", [1.2, 2.0, 4.0])


@OVERLOADS
@pytest.mark.parametrize("name", CURVES)
def test_goodput_stays_at_the_limit_under_overload(name: str, load: float) -> None:
    record = under_load(name, load, 3.0)
    assert record.goodput(3.0 * full(name)) >= 0.95 * offline_limit(CURVES[name])


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("target_s", [0.226, 0.45, 0.753])
def test_two_slots_are_kept_busy_within_two_runs_where_batching_gains_little(target_s: float, noise: float) -> None:
    """An encoder on two cores, one thread each: the target is four times what a batch would take on both."""
    curve = line(0.002, 0.0178)
    limit = offline_limit(curve, ROWS, 2)
    policy = untuned(curve, target_s, slots=2)
    traffic = poisson(2.0 * limit, 60.0, 1)
    [record] = simulate([Member(policy, curve, traffic, noise=noise, overhead_s=5e-4)], seed=1)
    record = record.between(5.0, 58.0)
    assert record.goodput(target_s) >= 0.95 * limit
    assert record.late_share <= 0.015


@pytest.mark.parametrize("load", [1.2, 2.0])
@pytest.mark.parametrize("target_s", [0.45, 0.753])
def test_two_slots_do_not_idle_for_larger_batches_that_gain_little(target_s: float, load: float) -> None:
    """The same with runs that scatter by 30 %, where small batches look worse than they are."""
    curve = line(0.002, 0.0178)
    limit = offline_limit(curve, ROWS, 2)
    policy = untuned(curve, target_s, slots=2)
    [record] = simulate([Member(policy, curve, poisson(load * limit, 60.0, 1), noise=0.3, overhead_s=5e-4)], seed=1)
    record = record.between(5.0, 58.0)
    assert record.runs.device_s / (2 * 53.0) >= 0.95
    assert record.goodput(target_s) >= 0.92 * limit


@OVERLOADS
@pytest.mark.parametrize("name", CURVES)
def test_who_is_turned_away_is_told_at_once(name: str, load: float) -> None:
    delays_s = under_load(name, load, 3.0).refusal_delays_s
    assert len(delays_s) > 100
    assert np.median(delays_s) <= 0.001


@OVERLOADS
@pytest.mark.parametrize("name", CURVES)
def test_who_is_let_in_is_answered_in_time(name: str, load: float) -> None:
    """Those that are given up for the sake of others count as missed, too."""
    standing_s = 20 * 3.0 * full(name)
    record = under_load(name, load, 3.0)
    assert record.between(1.1 * standing_s, np.inf).late_share <= 0.01
    assert record.between(0.0, standing_s).late_share <= 0.03  # the queue is as long as the target allows


@pytest.mark.parametrize("name", CURVES)
def test_long_overload_does_not_fill_the_queue_up_to_the_target(name: str) -> None:
    """After 20 times the target a queue is no buffer for a burst any more, and would only add delay."""
    targets = 6.0
    record = under_load(name, 2.0, targets)
    standing = record.between(25 * targets * full(name), np.inf)
    assert standing.quantile_s(0.5) <= 2.5 * full(name)


@pytest.mark.parametrize("name", CURVES)
def test_lone_request_waits_for_nothing(name: str) -> None:
    curve = CURVES[name]
    rate = 0.01 * offline_limit(curve)
    policy = untuned(curve, 4 * full(name))
    [record] = simulate([Member(policy, curve, poisson(rate, 2000 / rate, 1), noise=0.0)])
    assert np.median(record.latencies_s) == pytest.approx(curve(Run(1)), rel=1e-6)


def test_volley_is_waited_for_when_that_pays() -> None:
    """Volleys of 16 within a millisecond at a tenth of the load: the first of them waits for the others.

    With the curve "between" knowing the future would gain 13 %, with "cpu" nothing.
    """
    curve, name = CURVES["gpu"], "gpu"
    rate = 0.1 * offline_limit(curve)
    traffic = volleys(rate, 20_000 / rate, 3, size=16, spread_s=0.001)
    means_s = []
    for delay in ({}, {"max_queue_delay_s": 0.0}):
        policy = untuned(curve, 10 * full(name), **delay)
        [record] = simulate([Member(policy, curve, traffic)], seed=4)
        means_s.append(record.latencies_s.mean())
    assert means_s[0] <= 0.85 * means_s[1]


@pytest.mark.parametrize("seed", range(10))
def test_doubled_run_time_is_learnt_in_fifteen_runs(seed: int) -> None:
    curve = CURVES["between"]
    random = np.random.default_rng(seed)
    cost = CostModel(warmed(curve, warm_up_sizes(ROWS)), 0.1)
    sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]

    def take(runs: int, factor: float) -> None:
        for rows in random.choice(sizes, runs).tolist():
            cost.observe(rows, factor * curve(Run(rows)) * (1 + 0.05 * random.standard_normal()))

    take(50, 1.0)
    take(15, 2.0)
    for rows in sizes:
        assert cost.mean(rows) == pytest.approx(2 * curve(Run(rows)), rel=0.15)


def bent(run: Run) -> float:
    """Give a curve that a straight line misses: a row more costs 0.25 ms up to 24 rows, and 1.25 ms beyond."""
    return 0.004 + 0.00025 * run.rows + 0.001 * max(0, run.rows - 24)


def test_model_that_slows_down_beyond_some_size_is_not_fed_more() -> None:
    rate = 0.9 * offline_limit(bent, 64)
    policy = untuned(bent, 0.06, max_batch_size=64)
    [record] = simulate([Member(policy, bent, poisson(rate, 40_000 / rate, 1))], seed=2)
    assert record.within(0.06) >= 0.99


# --- two models on one device -------------------------------------------------------------------------------------


def neighbours(
    loads: tuple[float, float], weights: tuple[float, float], targets_s: tuple[float, float], slots: int = 1
) -> list[Record]:
    """Run two models on one device, each at a multiple of what the device could do for it alone."""
    device = Device(slots)
    curves: tuple[Curve, Curve] = (CURVES["between"], line(0.003, 0.0001))
    duration_s = 3.0 * SCALE / slots + 0.5
    members = []
    for index, curve in enumerate(curves):
        policy = untuned(curve, targets_s[index], device=device, weight=weights[index], slots=slots)
        rate = loads[index] * offline_limit(curve, ROWS, slots)
        members.append(Member(policy, curve, poisson(rate, duration_s, index + 1)))
    return [record.between(0.5, duration_s) for record in simulate(members, device=device, seed=2)]


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("load", [2.0, 3.0])
def test_light_model_beside_a_flooded_one_keeps_its_target(load: float, slots: int) -> None:
    targets_s = (0.04, 0.04)
    records = neighbours((load, 0.1), (1.0, 1.0), targets_s, slots)
    assert records[1].within(targets_s[1]) >= 0.99


@pytest.mark.parametrize(("slots", "tolerance"), [(1, 0.05), (2, 0.2)])
@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 1.0), (1.0, 3.0)])
def test_two_overloaded_models_share_the_device_by_their_weights(
    weights: tuple[float, float], slots: int, tolerance: float
) -> None:
    records = neighbours((2.0, 2.0), weights, (0.06, 0.06), slots)
    ratio = records[0].runs.device_s / records[1].runs.device_s
    assert ratio == pytest.approx(weights[0] / weights[1], rel=tolerance)


# --- clients of one model -----------------------------------------------------------------------------------------


def p99_of_the_modest(flood: float) -> float:
    """Run four modest clients and one that asks for `flood` times the offline limit; give the modest ones' p99."""
    curve = CURVES["between"]
    limit = offline_limit(curve)
    parts: list[Traffic] = [poisson(0.1 * limit, 6.0, 10 + client).of_client(client) for client in range(4)]
    parts.append(poisson(flood * limit, 6.0, 20).of_client(4))
    policy = untuned(curve, 0.08, is_fair=True)
    [record] = simulate([Member(policy, curve, merge(*parts))], seed=2)
    latencies = [record.between(1.0, 6.0).of_client(client).latencies_s for client in range(4)]
    asked = sum(len(record.between(1.0, 6.0).of_client(client)) for client in range(4))
    answered = np.concatenate(latencies)
    assert len(answered) >= 0.99 * asked, "a modest client's requests are not the ones to refuse"
    return float(np.quantile(answered, 0.99))


def test_flooding_client_does_not_slow_the_others_down() -> None:
    """The same clients at fair load: the fifth asks for what is left of 95 % of the limit."""
    assert p99_of_the_modest(5.0) <= 1.2 * p99_of_the_modest(0.55)


# --- failing rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guilty", [0, 1, 21, 38, 63])
def test_one_bad_row_among_sixty_four_fails_alone(guilty: int) -> None:
    curve = CURVES["between"]
    traffic = replace(replay(np.zeros(64)), poisoned=np.arange(64) == guilty)
    policy = untuned(curve, None, max_batch_size=64)
    [record] = simulate([Member(policy, curve, traffic)])
    assert np.flatnonzero(record.outcomes == NUMBERS[Outcome.FAILED]).tolist() == [guilty]
    assert record.count(Outcome.COMPLETED) == 63
    assert 0 < int(record.runs.repeated.sum()) <= 13  # 2 · log2(64) + 1
