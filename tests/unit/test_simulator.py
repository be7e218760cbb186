"""The simulator: a virtual clock that agrees with queueing theory, and that catches rules which lose work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.curves import Curve, Run, beside_others, by_elements, changing, line, through, warmed
from batchserve.core.limits import Limits
from batchserve.core.policy import Decision, Policy
from batchserve.core.record import INVALID, Record
from batchserve.core.request import Request
from batchserve.core.simulator import Member, SimulationError, simulate
from batchserve.core.ticket import Outcome, Ticket
from batchserve.core.traffic import ClosedLoop, bursts, merge, poisson, ramp, replay, volleys
from loadtest.policies.fixed import Greedy


def policy(curve: Curve, **limits: object) -> Policy:
    settings = {"max_batch_size": 32, "timeout_s": 10.0, "max_queue_size": 100_000, **limits}
    return Policy("m", Limits(**settings), CostModel(warmed(curve, [1, 2, 4, 8, 16, 32]), 10.0))  # type: ignore[arg-type]


def same(one: Record, other: Record) -> bool:
    names = ("arrivals_s", "ends_s", "outcomes", "deadlines_s", "rows", "lengths", "clients")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


# --- time and outcomes --------------------------------------------------------------------------------------------


def test_runs_beside_others_take_as_long_as_the_curve_says_for_so_many() -> None:
    """Two slots: the first run is alone, the second one begins beside it; with one slot all are as when busy."""
    curve = beside_others(line(0.004, 0.0), line(0.008, 0.0), 2)
    twice = policy(curve, slots=2, max_batch_size=1)
    [record] = simulate([Member(twice, curve, replay([0.0, 0.001, 0.1]), noise=0.0)])
    assert record.latencies_s == pytest.approx([0.004, 0.008, 0.004])
    assert beside_others(line(0.004, 0.0), line(0.008, 0.0), 1)(Run(1)) == 0.008


def test_requests_that_do_not_meet_take_the_time_of_their_run() -> None:
    curve = line(0.004, 0.001)
    [record] = simulate([Member(policy(curve), curve, replay([0.0, 0.01, 0.02]), noise=0.0)])
    assert record.latencies_s == pytest.approx([0.005] * 3)
    assert record.count(Outcome.COMPLETED) == 3


def test_what_arrives_during_a_run_shares_the_next_one() -> None:
    curve = line(0.004, 0.001)
    [record] = simulate([Member(policy(curve), curve, replay([0.0, 0.001, 0.002]), noise=0.0)])
    assert record.runs.rows.tolist() == [1, 2]
    assert record.latencies_s == pytest.approx([0.005, 0.010, 0.009])


def test_requests_of_one_moment_share_a_run() -> None:
    curve = line(0.004, 0.001)
    [record] = simulate([Member(policy(curve), curve, replay([0.5] * 7), noise=0.0)])
    assert record.runs.rows.tolist() == [7]


def test_hand_over_is_not_part_of_the_run() -> None:
    curve = line(0.004, 0.001)
    [record] = simulate([Member(policy(curve), curve, replay([0.0]), noise=0.0, overhead_s=0.002)])
    assert record.latencies_s == pytest.approx([0.007])
    assert record.runs.seconds == pytest.approx([0.005])


def test_hand_over_may_depend_on_the_run_and_is_learnt_by_the_rules() -> None:
    curve = line(0.004, 0.001)
    rules = policy(curve)
    member = Member(rules, curve, replay([0.0] * 3 + [0.1] * 3), noise=0.0, overhead_s=line(0.001, 0.0005))
    [record] = simulate([member])
    assert record.latencies_s == pytest.approx([0.0095] * 6)
    assert rules.cost.overhead_s == pytest.approx(0.0025)


def test_single_server_queue_waits_as_long_as_theory_says() -> None:
    """M/D/1: with rows run one by one, the mean wait is s·load / (2·(1 - load)) (Pollaczek and Khinchine)."""
    curve, load = line(0.01, 0.0), 0.7
    [record] = simulate([Member(policy(curve, max_batch_size=1), curve, poisson(load / 0.01, 600.0, 3), noise=0.0)])
    expected_s = 0.01 * load / (2 * (1 - load))
    assert record.latencies_s.mean() - 0.01 == pytest.approx(
        expected_s, rel=0.08
    )  # 12 seeds of 1500 s lie within 3.3 %
    assert record.runs.device_s / record.span_s == pytest.approx(load, rel=0.03)


def test_same_seed_gives_the_same_record_and_another_one_does_not() -> None:
    curve = line(0.004, 0.0002)
    records = [
        simulate([Member(policy(curve), curve, bursts(2000.0, 5.0, 1, on_s=0.1, off_s=0.2))], seed=seed)[0]
        for seed in (7, 7, 8)
    ]
    assert same(records[0], records[1])
    assert not same(records[0], records[2])


def test_every_request_of_a_long_overload_has_one_outcome() -> None:
    curve = line(0.004, 0.0002)
    rules = policy(curve, timeout_s=0.05, max_queue_size=300)
    [record] = simulate([Member(rules, curve, poisson(9000.0, 4.0, 1))])
    counts = [record.count(outcome) for outcome in Outcome]
    assert sum(counts) == len(record) == rules.counters.received
    assert record.count(Outcome.REFUSED) > 0
    assert rules.is_empty


def test_request_that_can_never_run_is_invalid() -> None:
    curve = line(0.004, 0.0002)
    traffic = replay([0.0, 0.1], rows=33)
    [record] = simulate([Member(policy(curve, split_large=False), curve, traffic)])
    assert record.outcomes.tolist() == [INVALID, INVALID]


def test_poisoned_request_fails_alone() -> None:
    curve = line(0.004, 0.0002)
    traffic = replay([0.0] * 32)
    poisoned = np.arange(32) == 11
    [record] = simulate([Member(policy(curve), curve, replace(traffic, poisoned=poisoned))])
    assert record.count(Outcome.FAILED) == 1
    assert record.count(Outcome.COMPLETED) == 31
    assert int(record.runs.repeated.sum()) <= 11  # 2·log2(32) + 1


def test_shapes_are_kept_apart_only_where_the_member_says_so() -> None:
    curve = by_elements(0.001, 1e-6)
    traffic = replace(replay([0.0] * 4), lengths=np.array([10, 20, 10, 20]))
    [together] = simulate([Member(policy(curve), curve, traffic, noise=0.0, multiple=8)])
    [apart] = simulate([Member(policy(curve), curve, traffic, noise=0.0, key_of=lambda length: length)])
    assert together.runs.rows.tolist() == [4]
    assert together.runs.elements.tolist() == [4 * 24]
    assert together.runs.padded_share == pytest.approx(1 - 60 / 96)
    assert apart.runs.rows.tolist() == [2, 2]
    assert apart.runs.padded_share == 0.0


def test_closed_loop_never_has_more_requests_than_clients() -> None:
    curve = line(0.004, 0.001)
    [record] = simulate([Member(policy(curve), curve, ClosedLoop(5, 1.0), noise=0.0)])
    assert record.runs.rows.tolist() == [5] * len(record.runs)
    assert len(record) == 5 * len(record.runs)
    assert len(record.runs) == pytest.approx(1.0 / 0.009, abs=1)


def test_two_models_run_side_by_side_on_slots_of_their_own() -> None:
    curve = line(0.01, 0.0)
    members = [Member(policy(curve), curve, replay([0.0]), noise=0.0) for _ in range(2)]
    for record in simulate(members):
        assert record.latencies_s == pytest.approx([0.01])


def test_simulation_stops_at_its_end_with_requests_open() -> None:
    curve = line(1.0, 0.0)
    [record] = simulate([Member(policy(curve), curve, replay([0.0, 0.1, 3.0]), noise=0.0)], until_s=1.5)
    assert [record.count(outcome) for outcome in (Outcome.COMPLETED, Outcome.EXPIRED)] == [1, 0]
    assert len(record) == 2


# --- rules that are wrong -----------------------------------------------------------------------------------------


class Broken(Policy):
    """Rules with a fault that a simulation has to find."""

    def __init__(self, fault: str) -> None:
        super().__init__("m", Limits(4, 10.0, 100), CostModel([(1, 0.01)], 10.0))
        self.fault = fault

    def decide(self, now: float) -> Decision:
        if self.fault == "sleeps":
            return Decision()
        decision = super().decide(now)
        if self.fault == "spins":
            decision.wake_s = now
        if self.fault == "doubles":
            decision.batches *= 2
        return decision

    def finish(self, batch: Batch, now: float, **how: Any) -> list[Ticket]:
        ended = super().finish(batch, now, **how)
        return ended * 2 if self.fault == "repeats" else ended


@pytest.mark.parametrize(
    ("fault", "message"),
    [("sleeps", "nothing will wake"), ("spins", "not settled"), ("doubles", "second batch"), ("repeats", "twice")],
)
def test_rules_that_are_wrong_are_found_out(fault: str, message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        simulate([Member(Broken(fault), line(0.01, 0.0), replay([0.0, 0.001]))])


# --- figures ------------------------------------------------------------------------------------------------------


def test_share_within_the_target_counts_all_that_asked() -> None:
    curve = line(0.01, 0.0)
    rules = Greedy(max_batch_size=1, timeout_s=0.015)
    [record] = simulate([Member(rules, curve, replay([0.0, 0.001, 0.002, 1.0]), noise=0.0)])
    # 10 ms, 19 ms, dropped when the slot is free after 18 ms, 10 ms
    assert record.within(0.010) == 0.5
    assert record.within(0.019) == 0.75
    assert record.refusal_delays_s == pytest.approx([0.018])
    assert record.late_share == pytest.approx(0.5)  # the second was answered, but after its deadline
    assert record.between(0.5, 1.5).within(0.010) == 1.0
    assert record.between(0.5, 1.5).goodput(0.010) == 1.0
    assert len(record.between(0.5, 1.5).runs) == 1


def test_quantile_of_nothing_is_not_a_number() -> None:
    curve = line(0.01, 0.0)
    [record] = simulate([Member(policy(curve), curve, replay([]))])
    assert np.isnan(record.quantile_s(0.5))
    assert record.within(1.0) == 1.0


# --- curves and traffic -------------------------------------------------------------------------------------------


def test_curves_give_what_they_say() -> None:
    assert line(0.002, 0.001)(Run(3)) == pytest.approx(0.005)
    assert by_elements(0.002, 1e-5)(Run(3, 100)) == pytest.approx(0.005)
    measured = through([(4, 0.008), (1, 0.005)])
    assert [measured(Run(rows)) for rows in (1, 2, 6)] == pytest.approx([0.005, 0.006, 0.010])
    later = changing([(0.0, line(0.001, 0.0)), (2.0, line(0.003, 0.0))])
    assert [later(Run(1, 0, at)) for at in (1.9, 2.0)] == pytest.approx([0.001, 0.003])


@pytest.mark.parametrize(
    "traffic",
    [
        poisson(500.0, 100.0, 1),
        bursts(500.0, 100.0, 1, on_s=0.05, off_s=0.1),
        volleys(500.0, 100.0, 1, size=16, spread_s=0.001),
        ramp([0.0, 1000.0, 0.0], 100.0, 1),
    ],
    ids=["poisson", "bursts", "volleys", "ramp"],
)
def test_generated_traffic_has_its_mean_rate_and_is_in_order(traffic: object) -> None:
    times = traffic.times_s  # type: ignore[attr-defined]
    assert len(times) == pytest.approx(50_000, rel=0.1)  # 667 busy times of random length: 5 % of deviation
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0


def test_bursts_are_burstier_and_volleys_come_together() -> None:
    def dispersion(times: np.ndarray) -> float:
        counts = np.bincount((times / 0.02).astype(int))
        return float(counts.var() / counts.mean())

    assert dispersion(poisson(500.0, 100.0, 1).times_s) == pytest.approx(1.0, abs=0.1)
    assert dispersion(bursts(500.0, 100.0, 1, on_s=0.05, off_s=0.1).times_s) > 5
    assert dispersion(volleys(500.0, 100.0, 1, size=16, spread_s=0.001).times_s) > 5


def test_merged_traffic_keeps_each_requests_columns() -> None:
    both = merge(replay([0.0, 2.0]), replay([1.0], rows=4).of_client(3))
    assert both.times_s.tolist() == [0.0, 1.0, 2.0]
    assert both.rows.tolist() == [1, 4, 1]
    assert both.clients.tolist() == [0, 3, 0]


def test_drawn_columns_are_the_same_for_the_same_seed() -> None:
    traffic = poisson(100.0, 1.0, 1)
    assert np.array_equal(traffic.with_lengths([8, 128], 5).lengths, traffic.with_lengths([8, 128], 5).lengths)
    assert set(traffic.with_rows([1, 2], 5).rows.tolist()) == {1, 2}


def test_request_class_of_the_simulation_is_a_request() -> None:
    """The rules get what a frontend gives them."""
    seen: list[Request] = []

    class Watching(Policy):
        def arrive(self, request: Request, now: float) -> Ticket:
            seen.append(request)
            return super().arrive(request, now)

    rules = Watching("m", Limits(4, 10.0, 100), CostModel([(1, 0.01)], 10.0))
    simulate([Member(rules, line(0.01, 0.0), replay([0.25], rows=3))])
    assert [(type(request).__mro__[1], request.rows, request.arrival_s) for request in seen] == [(Request, 3, 0.25)]
