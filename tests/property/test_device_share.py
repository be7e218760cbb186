"""Invariant 11: a model that always has work gets its share of the device, whatever the others do."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from batchserve.core.cost import CostModel
from batchserve.core.curves import Curve, Run, line, warmed
from batchserve.core.device import Device
from batchserve.core.limits import Limits
from batchserve.core.policy import Decision, Policy
from batchserve.core.simulator import Member, simulate
from batchserve.core.traffic import poisson, replay
from batchserve.engine.warmup import warm_up_sizes

ROWS = 8
DURATION_S = 0.8


class Charged(Policy):
    """Notes what the device charges the model for each batch, and when."""

    def __init__(self, limits: Limits, curve: Curve, device: Device) -> None:
        super().__init__("m", limits, CostModel(warmed(curve, warm_up_sizes(ROWS)), 60.0), device=device)
        self.charges: list[tuple[float, float]] = []

    def end(self, decision: Decision) -> Decision:
        self.charges += [(batch.cut_s, batch.predicted_s) for batch in decision.batches]
        return super().end(decision)


@given(
    weights=st.lists(st.sampled_from([1.0, 1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=3),
    alphas_ms=st.lists(st.floats(0.5, 8.0), min_size=3, max_size=3),
    loads=st.lists(st.sampled_from([0.02, 0.3, 3.0]), min_size=3, max_size=3),
    slots=st.integers(1, 2),
    seed=st.integers(0, 3),
)
@settings(max_examples=15)
def test_backlogged_model_gets_its_share_over_every_interval(
    weights: list[float], alphas_ms: list[float], loads: list[float], slots: int, seed: int
) -> None:
    device = Device(slots)
    curves = [line(alphas_ms[index] / 1e3, 0.0001) for index in range(len(weights))]
    members = []
    for index, (weight, curve) in enumerate(zip(weights, curves, strict=True)):
        limits = Limits(ROWS, 1000.0, 10**9, weight=weight, slots=slots, max_queue_delay_s=0.0)
        rate = loads[index] * ROWS / curve(Run(ROWS)) * slots
        # The first model has all of its work from the beginning, so it is backlogged all the time.
        always = replay(np.zeros(int(3 * DURATION_S * ROWS / curve(Run(ROWS)) * slots)))
        traffic = poisson(rate, DURATION_S, seed + index) if index else always
        members.append(Member(Charged(limits, curve, device), curve, traffic, noise=0.0))
    simulate(members, device=device, seed=seed, until_s=DURATION_S)
    policy = members[0].policy
    assert isinstance(policy, Charged)
    slack_s = 4 * max(curve(Run(ROWS)) for curve in curves) * slots
    fair = weights[0] / sum(weights) * slots
    moments = np.array([cut_s for cut_s, _ in policy.charges])
    total = np.concatenate([[0.0], np.cumsum([seconds for _, seconds in policy.charges])])
    for since_s, until_s in np.random.default_rng(seed).uniform(0, DURATION_S, (50, 2)).tolist():
        low, high = sorted((since_s, until_s))
        got_s = total[np.searchsorted(moments, high)] - total[np.searchsorted(moments, low)]
        assert got_s >= fair * (high - low) - slack_s


def test_charges_are_what_the_batches_are_predicted_to_take() -> None:
    """The figures above are the device's own: its virtual time has moved by just these."""
    device = Device(1)
    curve = line(0.002, 0.0001)
    policy = Charged(Limits(ROWS, 1000.0, 10**9, weight=2.0, max_queue_delay_s=0.0), curve, device)
    simulate([Member(policy, curve, replay(np.zeros(64)), noise=0.0)], device=device)
    assert sum(seconds for _, seconds in policy.charges) / 2.0 == pytest.approx(policy.virtual_s)
