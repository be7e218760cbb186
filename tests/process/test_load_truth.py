"""The load generator tells the truth about a server whose delays are known, and sees it stall."""

from __future__ import annotations

from support.benchmarks import generator

from batchserve.load.arrivals import Steady
from batchserve.load.scenario import Scenario

OPEN = Scenario([generator.STREAM], Steady(300.0, is_even=True), duration_s=4.0, warmup_s=0, timing_every=0)


def test_percentiles_are_within_three_percent_of_what_the_server_measured() -> None:
    """Delays are 50 ms and more: 3 % are 1.5 ms, which a machine that does other things, too, can still keep."""
    result, delays = generator.with_delays(OPEN)
    assert result["total"]["answered"] == 1200
    assert len(delays) == 1200 + 1
    for row in generator.compare(result, delays):
        if row.share <= 0.99:
            assert abs(row.error) < 0.03, row


def test_stall_is_seen_by_the_open_loop_and_hidden_by_the_closed_one() -> None:
    """300 requests are due in the second of the stall: half of them wait for more than half of it."""
    stall = ("--stall-after-s", "1.5", "--stall-s", "1")
    result, _ = generator.with_delays(OPEN, *stall)
    above = sum(count for seconds, count in result["histogram"] if seconds > 0.5)
    assert 150 <= above <= 220
    assert result["total"]["latency_s"]["max"] > 0.9
    assert max(moment["p99_s"] for moment in result["timeline"]) > 0.9
    closed = Scenario([generator.STREAM], connections=10, duration_s=4.0, warmup_s=0, timing_every=0)
    result, _ = generator.with_delays(closed, *stall)
    assert sum(count for seconds, count in result["histogram"] if seconds > 0.5) <= 10
