"""The policies that ours are compared with do what their descriptions say, so that the comparison is fair."""

from __future__ import annotations

import numpy as np
import pytest

from batchserve.core.curves import line
from batchserve.core.record import Record
from batchserve.core.simulator import Member, Scheduled, simulate
from batchserve.core.ticket import Outcome
from batchserve.core.traffic import poisson, replay
from loadtest.policies.aimd import Aimd
from loadtest.policies.fixed import FixedSizeAndTimer, Greedy
from loadtest.policies.regression import RegressionWithHold

CURVE = line(0.004, 0.0001)


def run(policy: Scheduled, times: list[float], noise: float = 0.0) -> Record:
    return simulate([Member(policy, CURVE, replay(times), noise=noise)])[0]


def test_fixed_size_goes_when_it_is_full_or_its_timer_runs_out() -> None:
    record = run(FixedSizeAndTimer(max_batch_size=3, max_queue_delay_s=0.01), [0.0, 0.001, 0.002, 0.1])
    assert record.runs.starts_s == pytest.approx([0.002, 0.11])
    assert record.runs.rows.tolist() == [3, 1]


def test_fixed_size_without_a_delay_goes_at_once() -> None:
    record = run(FixedSizeAndTimer(max_batch_size=3, max_queue_delay_s=0.0), [0.0, 0.001, 0.002])
    assert record.runs.rows.tolist() == [1, 2]


def test_fixed_size_rejects_what_waited_longer_than_its_queue_policy_allows() -> None:
    record = run(
        FixedSizeAndTimer(max_batch_size=1, max_queue_delay_s=0.0, timeout_s=0.005), [0.0, 0.001, 0.002, 0.003]
    )
    assert record.count(Outcome.COMPLETED) == 2  # the runs take 4.1 ms: the third would start after 6.2 ms
    assert record.count(Outcome.EXPIRED) == 2


def test_greedy_takes_what_waits_and_never_holds() -> None:
    assert run(Greedy(max_batch_size=8), [0.0, 0.001, 0.002]).runs.rows.tolist() == [1, 2]


def test_queue_limit_refuses() -> None:
    record = run(Greedy(max_batch_size=1, max_queue_size=1), [0.0, 0.001, 0.002])
    assert record.count(Outcome.REFUSED) == 1


def test_aimd_settles_where_a_run_takes_its_objective() -> None:
    """With runs of 4 + 0.1 b ms and an objective of 6 ms the largest size that keeps it is 20."""
    policy = Aimd(max_batch_size=64, latency_target_s=0.012)
    [record] = simulate([Member(policy, CURVE, poisson(20_000.0, 2.0, 1), noise=0.0)])
    later = record.runs.between(1.0)
    assert later.rows.max() <= 21
    assert 17 <= later.rows.mean() <= 21


def test_regression_finds_the_line_and_drops_who_cannot_make_it() -> None:
    policy = RegressionWithHold(max_batch_size=32, latency_target_s=0.02)
    [record] = simulate([Member(policy, CURVE, poisson(10_000.0, 12.0, 1), noise=0.02)])
    assert policy._fixed_s + 32 * policy._per_row_s == pytest.approx(0.0072, rel=0.05)
    later = record.between(6.0, 12.0)
    assert later.count(Outcome.EXPIRED) > 0
    assert later.late_share < 1.0
    assert np.quantile(later.latencies_s, 0.9) < 0.022


def test_regression_holds_for_company_while_the_mean_wait_allows_it() -> None:
    """At first it believes in a mean wait of 10 ms and in 6.7 ms a row: one may wait for two ticks, two may not."""

    def policy() -> RegressionWithHold:
        return RegressionWithHold(max_batch_size=32, latency_target_s=0.1)

    assert run(policy(), [0.0]).runs.starts_s == pytest.approx([0.002])
    together = run(policy(), [0.0, 0.0005])
    assert together.runs.rows.tolist() == [2]
    assert together.runs.starts_s == pytest.approx([0.0005])
