"""Traffic for the simulator, and what its records come to."""

from __future__ import annotations

import numpy as np
import pytest

from batchserve.core.cost import CostModel
from batchserve.core.curves import line
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.core.policy import Policy
from batchserve.core.simulator import Member, simulate
from batchserve.errors import ConfigError
from batchserve.load.arrivals import Replay, Steady
from batchserve.load.scenario import Scenario, Stream
from batchserve.load.whatif import Prediction, predicted, traffic_by_model


def test_streams_of_a_model_are_laid_together_with_what_each_request_is_like() -> None:
    streams = [
        Stream("a", "m", rows=(2, 2), dims=((8,),), priority=1, arrivals=Replay(np.array([0.0, 2.0]))),
        Stream("b", "m", dims=((16,),), arrivals=Replay(np.array([1.0]))),
        Stream("c", "n", arrivals=Replay(np.array([0.5])), timeout_s=0.1),
    ]
    found = traffic_by_model(Scenario(streams))
    assert found.keys() == {"m", "n"}
    assert found["m"].times_s.tolist() == [0.0, 1.0, 2.0]
    assert found["m"].rows.tolist() == [2, 1, 2]
    assert found["m"].priorities.tolist() == [1, 0, 1]
    first, second, third = found["m"].lengths.tolist()
    assert first == third != second
    assert (found["m"].timeout_s, found["n"].timeout_s) == (None, 0.1)


def test_lengths_of_a_model_that_pads_are_the_requests_own() -> None:
    pad = PadRule(axes=((), (2, 1)), values=(0, 0), mask=1, outputs=((),))
    streams = [
        Stream("a", "m", dims=((8,), (4, 30)), arrivals=Replay(np.array([0.0, 2.0]))),
        Stream("b", "m", dims=((8,), (4, 50)), arrivals=Replay(np.array([1.0]))),
        Stream("c", "n", dims=((8,), (4, 50)), arrivals=Replay(np.array([1.0]))),
    ]
    found = traffic_by_model(Scenario(streams), {"m": pad, "n": None})
    assert found["m"].lengths.tolist() == [30, 50, 30]
    assert found["n"].lengths.tolist() == [1]


def test_streams_that_share_arrivals_divide_them_by_weight() -> None:
    streams = [Stream("a", "m", weight=3.0), Stream("b", "n", weight=1.0)]
    found = traffic_by_model(Scenario(streams, Steady(1000.0), duration_s=10.0))
    assert len(found["m"]) / len(found["n"]) == pytest.approx(3.0, rel=0.1)
    assert len(found["m"]) + len(found["n"]) == pytest.approx(10_000, rel=0.05)


def test_closed_loop_and_unknown_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no arrivals"):
        traffic_by_model(Scenario([Stream("a", "m")]))
    with pytest.raises(ConfigError, match="stream 'a' has no model"):
        traffic_by_model(Scenario([Stream("a")], Steady(1.0)))


def prediction(load: float, target_s: float | None = 0.04) -> Prediction:
    """Simulate 4 ms and 0.1 ms a row: 32 rows take 7.2 ms, so 4,444 rows a second can be had."""
    curve = line(0.004, 0.0001)
    limits = Limits(
        max_batch_size=32, timeout_s=60.0, max_queue_size=1024, latency_target_s=target_s, shed=target_s is not None
    )
    policy = Policy("m", limits, CostModel([(1, 0.0041), (32, 0.0072)], limits.horizon_s))
    scenario = Scenario([Stream("m", "m")], Steady(load * 4444), duration_s=10.0)
    record = simulate([Member(policy, curve, traffic_by_model(scenario)["m"], noise=0.0)])
    (one,) = predicted({"m": record[0]}, 10.0, 1.0, 1, {"m": target_s})
    return one


def test_light_load_is_answered_in_little_more_than_a_run() -> None:
    one = prediction(0.02)
    assert one.within_share == 1.0
    assert one.turned_away == 0.0
    assert one.p50_s is not None
    assert 0.0041 <= one.p50_s < 0.006
    assert 0.2 < one.busy_share < 0.5


def test_overload_is_turned_away_and_the_rest_is_in_time() -> None:
    one = prediction(2.0)
    assert one.goodput_per_s == pytest.approx(4444, rel=0.06)
    assert one.turned_away == pytest.approx(0.5, abs=0.05)
    assert one.p99_s is not None
    assert one.p99_s <= 0.04
    assert one.rows_per_run > 28
    assert one.busy_share > 0.95
