"""What `simulate` makes of what is known of a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from batchserve.cli.simulation import Known, simulated
from batchserve.core.curves import Run
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.engine.observed import Observation
from batchserve.load.arrivals import Replay
from batchserve.load.scenario import Scenario, Stream
from batchserve.load.whatif import Prediction, traffic_by_model

LIMITS = Limits(max_batch_size=8, timeout_s=10.0, max_queue_size=100)
POINTS = ((1.0, 0.010), (8.0, 0.024))
SEEN = (Observation(1.0, 0.010, 0.001, 9), Observation(8.0, 0.024, 0.001, 9))
KNOWN = Known(LIMITS, POINTS, 1.2, SEEN, (1.0,), "cpu", 1)
PAD = PadRule(axes=((1,),), values=(0,), mask=0, outputs=((),))


def prediction(known: Known, *, moments: int = 40) -> Prediction:
    """Four requests of two lengths at each of some moments, far from each other."""
    times = Replay(np.arange(moments).repeat(2) * 1.0)
    scenario = Scenario(
        [Stream(str(size), "m", dims=((size,),), arrivals=times) for size in (4, 8)], duration_s=moments, warmup_s=0.0
    )
    models = {"m": known}
    (one,) = simulated(models, traffic_by_model(scenario, {"m": known.limits.pad}), scenario)
    return one


def test_latency_is_the_run_and_the_hand_over() -> None:
    one = prediction(KNOWN)
    assert one.rows_per_run == 2  # the two lengths do not share a run
    assert one.p99_s == pytest.approx(2 * (0.012 + 0.001))


def test_model_that_pads_is_known_by_tokens_and_joins_lengths() -> None:
    seen = (Observation(8.0, 0.010, 0.001, 9), Observation(32.0, 0.012, 0.001, 9))
    by_tokens = replace(KNOWN, limits=replace(LIMITS, pad=PAD), points=((8.0, 0.010), (32.0, 0.012)), observed=seen)
    assert by_tokens.curve()(Run(2, 16)) == pytest.approx(0.012)
    one = prediction(by_tokens)
    assert one.rows_per_run == 4
    assert one.p99_s == pytest.approx(0.012 + 0.001)


def test_runs_take_what_they_took_in_service_one_after_the_other() -> None:
    """Slow runs that come together make a queue, which is what a 99th percentile is made of."""
    apart = prediction(replace(KNOWN, ratios=(3.0, *[1.0] * 11, 3.0, *[1.0] * 12)), moments=400)
    together = prediction(replace(KNOWN, ratios=(3.0, 3.0, *[1.0] * 23)), moments=400)
    assert apart.p99_s == pytest.approx(4 * 0.012 + 2 * 0.001)
    assert together.p99_s == pytest.approx(2 * (3 * 0.012 + 0.001))


def test_runs_that_were_never_seen_scatter_as_runs_do() -> None:
    unknown = prediction(replace(KNOWN, observed=(), ratios=()), moments=400)
    assert unknown.p99_s is not None
    assert unknown.p99_s > 1.05 * 2 * 0.012


def test_what_was_seen_often_enough_counts_more_than_what_the_scheduler_believes_now() -> None:
    seen = (Observation(1.0, 0.020, 0.001, 5), Observation(8.0, 0.048, 0.002, 4))
    known = replace(KNOWN, observed=seen)
    assert [known.curve()(Run(rows)) for rows in (1, 8)] == pytest.approx([0.020, 0.024])
    assert known.way()(Run(8)) == pytest.approx(0.002)
    assert known.cost().run(1) == pytest.approx(0.010)


def test_target_given_by_hand_is_held_by_turning_away() -> None:
    assert KNOWN.with_target(0.015).limits.shed
    one = prediction(KNOWN.with_target(0.015))
    assert one.p99_s is not None
    assert one.p99_s <= 0.015
    assert one.turned_away == pytest.approx(1 - one.within_share)
    assert one.turned_away >= 0.5
