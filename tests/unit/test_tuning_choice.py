"""The choice among settings: by prediction, by real runs, and what is said where no choice is good enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchserve.backends.base import Layout
from batchserve.config import ModelConfig
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.engine.limits import limits_of
from batchserve.load.arrivals import Bursts, Replay, Steady
from batchserve.load.scenario import Scenario, Stream
from batchserve.load.search import Goal
from batchserve.tuning import predict
from batchserve.tuning.advice import batching_verdict, measured_remedy, remedies
from batchserve.tuning.choose import Predicted, finalists, rank
from batchserve.tuning.confirm import Climb, Confirmed, Probe, better, confirm
from batchserve.tuning.curves import Curves, Sample
from batchserve.tuning.demand import Demand
from batchserve.tuning.predict import Forecast, Predictor
from batchserve.tuning.settings import Setting, Way

ONE, TWO, SMALL = (Way("cpu", layout) for layout in (Layout(1, 2), Layout(2, 1), Layout(1, 1)))
GOAL = Goal(0.99, 0.1)


def forecast(speed: float, *, within: float = 1.0, latency_s: float = 0.05) -> Forecast:
    return Forecast(speed, 100 * speed, within, latency_s, 1.0, 0.5)


@dataclass
class Known:
    """A predictor that knows the largest speed of each setting."""

    speeds: Mapping[Setting, float]
    latencies_s: Mapping[Setting, float] = field(default_factory=dict)
    slack: float = 1.0
    asked: list[Setting] = field(default_factory=list)

    def bound(self, setting: Setting) -> float:
        return self.speeds[setting] * self.slack

    def at(self, setting: Setting, speed: float) -> Forecast:
        within = min(1.0, self.speeds[setting] / speed)
        return forecast(speed, within=within, latency_s=self.latencies_s.get(setting, 0.05))

    def most(self, setting: Setting) -> Forecast | None:
        self.asked.append(setting)
        return forecast(self.speeds[setting]) if self.speeds[setting] else None

    def lone_s(self, setting: Setting) -> float:
        return self.latencies_s.get(setting, 0.05)


def ranked(known: Known, *, has_rate: bool = False, has_time: bool = True) -> list[Predicted]:
    return rank(list(known.speeds), known, has_rate=has_rate, has_time=lambda: has_time)


# --- by prediction ------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.builds(Setting, st.sampled_from([ONE, TWO, SMALL]), st.sampled_from([1, 2, 4, 8, 16])),
        st.floats(0.01, 100.0),
        min_size=1,
    ),
    st.floats(1.0, 3.0),
    st.booleans(),
)
def test_choice_is_never_far_from_the_best(speeds: dict[Setting, float], slack: float, has_rate: bool) -> None:
    """Whatever is left out because of its bound, the choice is within 2 % of the best there is."""
    first = ranked(Known(speeds, slack=slack), has_rate=has_rate)[0]
    assert first.speed >= 0.98 * max(speeds.values()) * (1 - 1e-9)


def test_of_settings_that_are_as_good_the_shorter_latency_counts() -> None:
    near, best, worse = Setting(ONE, 1), Setting(ONE, 32), Setting(TWO, 8)
    known = Known({best: 100.0, near: 99.0, worse: 90.0}, {near: 0.02, best: 0.06, worse: 0.01}, slack=1.2)
    assert [one.setting for one in ranked(known)] == [near, best, worse]


def test_settings_that_cannot_be_the_best_are_not_simulated() -> None:
    best, worse = Setting(ONE, 32), Setting(TWO, 8)
    known = Known({worse: 10.0, best: 100.0})
    ranked(known)
    assert known.asked == [best]


def test_another_way_that_may_come_close_is_simulated_once() -> None:
    best, other, smaller = Setting(ONE, 32), Setting(TWO, 8), Setting(TWO, 4)
    known = Known({best: 100.0, other: 90.0, smaller: 85.0})
    assert [one.setting for one in ranked(known)] == [best, other]


def test_without_time_the_one_with_the_largest_bound_is_simulated() -> None:
    best, other = Setting(ONE, 32), Setting(TWO, 8)
    assert [one.setting for one in ranked(Known({other: 99.9, best: 100.0}), has_time=False)] == [best]


def test_when_nothing_holds_the_traffic_the_most_goodput_counts() -> None:
    most, quick = Setting(ONE, 32), Setting(TWO, 8)
    known = Known({most: 0.9, quick: 0.7}, {quick: 0.001}, slack=1.3)
    assert ranked(known, has_rate=True)[0].setting == most


def test_when_not_one_row_fits_the_shortest_run_counts() -> None:
    slow, quick = Setting(ONE, 1), Setting(TWO, 1)
    assert ranked(Known({slow: 0.0, quick: 0.0}, {slow: 0.2, quick: 0.1}))[0].setting == quick


def predicted(setting: Setting, speed: float) -> Predicted:
    return Predicted(setting, forecast(speed) if speed else None, None)


def test_finalists_are_the_best_of_two_ways() -> None:
    first, second = predicted(Setting(ONE, 32), 100), predicted(Setting(ONE, 16), 99)
    other, poor = predicted(Setting(TWO, 8), 90), predicted(Setting(SMALL, 8), 70)
    assert finalists([first, second, other, poor]) == [first, other]
    assert finalists([first, second, poor]) == [first, second]
    assert finalists([first, poor]) == [first]


# --- traffic ------------------------------------------------------------------------------------------------------


def demand(rate: float | None = None, **stream: object) -> Demand:
    scenario = Scenario([Stream("m", "m", **stream)], timeout_s=1.0)  # type: ignore[arg-type]
    if rate is None:
        return Demand.unlimited(scenario, GOAL)
    return Demand(scenario.with_(arrivals=Steady(rate)), "poisson", GOAL)


def test_demand_knows_its_rate_and_rows() -> None:
    assert demand(50.0).per_s == pytest.approx(50)
    assert demand().per_s == pytest.approx(1)
    assert demand(rows=(1, 3)).rows == 2
    mixed = [Stream("a", "m", rows=(1, 1), weight=3), Stream("b", "m", rows=(5, 5))]
    assert replace(demand(), scenario=Scenario(mixed, Steady(1.0))).rows == 2


def test_traffic_that_repeats_itself_is_taken_in_whole_periods() -> None:
    scenario = Scenario([Stream("m", "m")], Bursts(100.0, 1.0, 3.0))
    bursts = Demand(scenario, "bursts", GOAL)
    assert bursts.per_s == pytest.approx(25)
    assert bursts.fitted(1.0, 1.0) == 4.0
    assert bursts.fitted(2.0, 7.0) == 8.0
    assert bursts.at(1.0, 4.0).warmup_s == 0, "the beginning of a period is not the middle of it"
    assert demand(50.0).at(1.0, 4.0).warmup_s > 0


def test_recorded_traffic_ends() -> None:
    stream = Stream("m", "m", arrivals=Replay(np.arange(0, 10, 0.1)))
    trace = Demand(Scenario([stream], duration_s=10.0), "trace", GOAL, whole_s=10.0)
    assert trace.per_s == pytest.approx(10)
    assert trace.fitted(2.0, 60.0) == 5.0
    (faster,) = trace.at(2.0, 5.0).streams
    assert faster.arrivals is not None
    assert faster.arrivals.expected(5.0) == 100


# --- the simulator ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fewer_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "REQUESTS", 1500)


def measured(seconds: Mapping[Way, Mapping[int, float]]) -> Curves:
    found = Curves()
    for way, by_rows in seconds.items():
        for rows, busy_s in by_rows.items():
            found.add(way, rows, Sample(busy_s, busy_s, 0.02))
    return found


FLAT = measured({ONE: {1: 0.01, 2: 0.0105, 4: 0.0115, 8: 0.0135}})
"""Batches cost little more than single rows: 100 rows/s one by one, 593 in batches of 8."""
PAD = PadRule(((1,),), (0,), 0, ((1,),))
STEEP = measured({ONE: {1: 0.01, 2: 0.02, 4: 0.04}, TWO: {1: 0.02, 2: 0.04}})
"""Batches gain nothing."""


def limits(setting: Setting, target_s: float) -> Limits:
    return limits_of(ModelConfig(latency_target_s=target_s), setting.way.layout.instances, setting.max_batch_size, None)


def predictor(curves: Curves, asked: Demand) -> Predictor:
    return Predictor("m", curves, asked, limits)


def test_largest_rate_is_near_what_the_curve_allows_and_never_above() -> None:
    known = predictor(FLAT, demand())
    batched, alone = known.most(Setting(ONE, 8)), known.most(Setting(ONE, 1))
    assert batched is not None
    assert alone is not None
    assert 0.7 * 593 < batched.offered_per_s < 1.05 * 593
    assert 0.7 * 100 < alone.offered_per_s < 1.1 * 100
    assert batched.within_share >= 0.99


def test_row_that_takes_longer_than_the_target_holds_at_no_rate() -> None:
    known = predictor(FLAT, demand()).with_target(0.005)
    assert known.bound(Setting(ONE, 8)) == 0
    assert known.most(Setting(ONE, 8)) is None


def test_rate_is_counted_in_requests_and_not_in_rows() -> None:
    single, double = predictor(FLAT, demand()), predictor(FLAT, demand(rows=(2, 2)))
    assert double.bound(Setting(ONE, 8)) == pytest.approx(single.bound(Setting(ONE, 8)) / 2)


def test_longer_requests_cost_more_where_the_traffic_has_lengths() -> None:
    def runs(length: int) -> Forecast:
        asked = replace(demand(20.0, lengths=(length, length)), has_lengths=True)
        return Predictor("m", STEEP, asked, limits, length=64).at(Setting(ONE, 1), 1.0)

    assert runs(128).busy_share == pytest.approx(2 * runs(64).busy_share, rel=0.1)


def test_requests_of_different_lengths_share_runs_only_with_a_pad() -> None:
    """Above the limit of single rows: with a pad any two share a run, so nobody waits long for a companion."""

    def padding(setting: Setting, target_s: float) -> Limits:
        return limits_of(ModelConfig(latency_target_s=target_s), 1, setting.max_batch_size, PAD)

    asked = replace(demand(150.0, lengths=(60, 68)), has_lengths=True)
    padded = Predictor("m", FLAT, asked, padding, length=64).at(Setting(ONE, 8), 1.0)
    apart = Predictor("m", FLAT, asked, limits, length=64).at(Setting(ONE, 8), 1.0)
    assert padded.rows_per_run > apart.rows_per_run
    assert padded.quantile_s < 0.5 * apart.quantile_s


# --- what would meet the target -----------------------------------------------------------------------------------


def remedies_of(curves: Curves, asked: Demand, setting: Setting) -> dict[str, float]:
    known = predictor(curves, asked)
    chosen = Predicted(setting, known.most(setting), None)
    return {one.kind: one.value for one in remedies(known, chosen, lambda: True)}


def test_too_much_traffic_wants_fewer_requests_or_more_slots_and_no_target_helps() -> None:
    found = remedies_of(STEEP, demand(150.0), Setting(ONE, 1))
    assert set(found) == {"rate", "slots"}
    assert 70 < found["rate"] < 110
    assert found["slots"] == 2


def test_target_below_a_single_run_wants_a_longer_target() -> None:
    asked = replace(demand(20.0), goal=Goal(0.99, 0.008))
    found = remedies_of(STEEP, asked, Setting(ONE, 1))
    assert 0.01 < found["target"] < 0.1
    assert "rate" not in found
    alone = remedies_of(STEEP, replace(demand(), goal=Goal(0.99, 0.008)), Setting(ONE, 1))
    assert set(alone) == {"target"}


def test_target_that_is_said_to_do_does() -> None:
    asked = replace(demand(20.0), goal=Goal(0.99, 0.008))
    target_s = remedies_of(STEEP, asked, Setting(ONE, 1))["target"]
    known = predictor(STEEP, asked).with_target(target_s)
    assert known.is_held(known.at(Setting(ONE, 1), 1.0))


def test_target_that_only_real_runs_miss_wants_less_than_they_answered() -> None:
    said = measured_remedy(probe(100.0, 0.6))
    assert (said.kind, said.value) == ("rate", pytest.approx(57))
    assert "57/s, as 60/s were in time" in said.text


def test_batching_that_gains_nothing_is_called_so() -> None:
    said = batching_verdict(STEEP, is_batching=True, why="")
    assert "does not pay" in said
    assert "no batch of up to 4 gave more than the 100 rows/s of single rows (cpu 1 x 2)" in said
    slight = measured({ONE: {1: 0.01, 2: 0.019}})
    assert "105 rows/s in batches of 2 (cpu 1 x 2), 1.05 times the 100 one by one" in batching_verdict(
        slight, is_batching=True, why=""
    )
    assert "Batching pays" in batching_verdict(FLAT, is_batching=True, why="")
    assert "cannot be batched: its rows meet" in batching_verdict(FLAT, is_batching=False, why="its rows meet")


def test_several_runs_at_once_are_no_gain_of_batching() -> None:
    """Batches of 2 on all cores are as good as two runs at once: what batching brings is beyond both."""
    known = measured({ONE: {1: 0.013, 2: 0.02}, TWO: {1: 0.02, 2: 0.04}})
    assert "does not pay" in batching_verdict(known, is_batching=True, why="")


# --- by real runs -------------------------------------------------------------------------------------------------


def probe(speed: float, within: float = 1.0, *, is_late: bool = False) -> Probe:
    return Probe(speed, 1.0, speed, within, speed * within, 0.01, 0, is_load_late=is_late)


@given(st.floats(0.5, 5000.0), st.floats(0.2, 30.0))
def test_climb_ends_right_below_the_limit_wherever_it_begins(limit: float, ratio: float) -> None:
    """A server that answers in time what it can: 15 runs do, and the speed found is within 5 % of its limit."""
    climb = Climb(limit * ratio, math.inf, 0.99)
    count = 0
    while (speed := climb.next()) is not None:
        climb.note(probe(speed, min(1.0, limit / speed)))
        count += 1
        assert count <= 15
    assert climb.held is not None
    assert limit / 1.06 <= climb.held.speed <= limit / 0.99


def test_climb_begins_calmly() -> None:
    assert Climb(100_000.0, 4000.0, 0.99).next() == 4000.0


def test_rate_that_held_by_chance_is_tried_again() -> None:
    climb = Climb(100.0, math.inf, 0.99)
    climb.note(probe(100.0))
    climb.note(probe(103.0, 0.9))
    assert climb.next() == 100.0
    climb.note(probe(100.0, 0.9))
    assert climb.held is None
    assert climb.next() == pytest.approx(100 * 0.9 * 0.94)


async def confirmed(
    limits_per_s: Sequence[float], asked: Demand, seconds: float = 1e9, known: Sequence[Sequence[Probe]] = ()
) -> tuple[list[Confirmed | None], list[tuple[int, float]]]:
    """Confirm on servers of these limits; time passes with the runs alone."""
    runs: list[tuple[int, float]] = []
    left = [seconds]

    async def load(index: int, scenario: Scenario, speed: float) -> Probe:
        left[0] -= scenario.duration_s
        runs.append((index, speed))
        rate = asked.per_s * speed
        return probe(rate, min(1.0, limits_per_s[index] / rate))

    def bound(index: int):  # type: ignore[no-untyped-def]
        return lambda scenario, speed: load(index, scenario, speed)

    found = await confirm(
        [bound(index) for index in range(len(limits_per_s))],
        asked,
        [limit / asked.per_s for limit in limits_per_s],
        calm_per_s=4000.0,
        known=known or [()] * len(limits_per_s),
        left_s=lambda: left[0],
        keep=lambda index, one: None,
    )
    return found, runs


async def test_servers_are_loaded_in_turns_until_each_limit_is_known() -> None:
    found, runs = await confirmed([100.0, 200.0], demand())
    assert [index for index, _ in runs[:4]] == [0, 1, 0, 1]
    assert [round(one.best.speed / 10) for one in found if one] in ([10, 19], [10, 20], [9, 19], [10, 18], [9, 18])
    assert better(found) == 1


async def test_traffic_with_a_rate_is_run_at_that_rate() -> None:
    found, runs = await confirmed([60.0, 40.0], demand(50.0))
    assert {speed for _, speed in runs} == {1.0}
    assert len(runs) == 6
    assert [one is not None and one.held is not None for one in found] == [True, False]
    assert better(found) == 0


async def test_no_run_begins_that_would_not_end_in_time() -> None:
    found, runs = await confirmed([60.0, 40.0], demand(50.0), seconds=4.0)
    assert len(runs) == 2  # of a second each, and each might last another one for its time-out
    found, runs = await confirmed([60.0], demand(50.0), seconds=2.0)
    assert found == [None]
    assert runs == []


async def test_last_run_is_shorter_rather_than_left_out() -> None:
    found, runs = await confirmed([60.0], demand(50.0), seconds=19.0)
    assert [one is not None and len(one.probes) for one in found] == [3]
    assert len(runs) == 3


async def test_runs_that_were_made_before_count() -> None:
    _, runs = await confirmed([60.0], demand(50.0), known=[[probe(50.0), probe(50.0)]])
    assert len(runs) == 1


def test_prediction_decides_where_real_runs_are_alike() -> None:
    first, second = (Confirmed([one], one, one) for one in (probe(98.0), probe(100.0)))
    assert better([first, second]) == 0
    assert better([None, second]) == 1
    missed = Confirmed([probe(150.0, 0.9)], None, probe(150.0, 0.9))
    assert better([missed, second]) == 1
