"""LoadGen's summary is read as it stands."""

from __future__ import annotations

from math import exp, factorial

import pytest
from support.benchmarks import mlperf, mlperf_tables

SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 391.23
Result is : {verdict}
  Performance constraints satisfied : Yes
  Min duration satisfied : NO
================================================
Additional Stats
================================================
Scheduled samples per second : 400.15
50.00 percentile latency (ns)   : 57840000
99.00 percentile latency (ns)   : 320630000
================================================
Test Parameters Used
================================================
samples_per_query : 1
target_qps : 400
target_latency (ns): 320000000
min_duration (ms): 60000
"""


@pytest.mark.parametrize(("verdict", "is_valid"), [("VALID", True), ("INVALID", False)])
def test_verdict_figures_and_settings_are_read(verdict: str, is_valid: bool) -> None:
    said, figures, settings, missed = mlperf.read_summary(SUMMARY.format(verdict=verdict))
    assert said is is_valid
    assert figures["Completed samples per second"] == 391.23
    assert figures["99.00 percentile latency (ns)"] == 320630000
    assert "target_qps" not in figures
    assert settings["target_qps"] == "400"
    assert settings["min_duration (ms)"] == "60000"
    assert missed == ["Min duration"]


def verdict(scenario: str, rate: float, *, is_valid: bool) -> dict[str, object]:
    return {
        "scenario": scenario,
        "is_valid": is_valid,
        "figures": {"Samples per second": rate, "99.00 percentile latency (ns)": 5e6},
        "settings": {"target_latency (ns)": "320000000"},
        "missed": [] if is_valid else ["Early stopping"],
        "failed": {},
    }


def test_server_rate_is_that_of_the_best_valid_run_over_the_bare_runtime() -> None:
    runs = [
        verdict("offline-raw", 100.0, is_valid=True),
        verdict("Server", 95.0, is_valid=False),
        verdict("Server", 85.0, is_valid=True),
    ]
    one = {"model": "encoder", "limit": {"rows_per_s": 100.0, "run_s": 0.01}, "verdicts": runs}
    none = {"model": "resnet50", "limit": {"rows_per_s": 100.0, "run_s": 0.01}, "verdicts": runs[:2]}
    table = mlperf_tables.ratio_table([one, none]).splitlines()
    assert table[2] == "| encoder | 100.0 | 85.0 | 0.850 | ≥ 0.8 | met | 0.55 |"
    assert table[3] == "| resnet50 | 100.0 | 0.0 | | ≥ 0.9 | no VALID run of the Server scenario | 0.55 |"
    assert (
        mlperf_tables.verdict_table([one]).splitlines()[3]
        == "| encoder | Server | INVALID: Early stopping | 95.0 |  | 5.00 | 320.0 | 0.950 |"
    )


def wait_is_within(load: float, services: float) -> float:
    """Erlang's formula for one server with constant service: the chance that a wait is no longer than that."""
    terms = range(int(services) + 1)
    return (1 - load) * sum((load * (n - services)) ** n / factorial(n) * exp(load * (services - n)) for n in terms)


@pytest.mark.parametrize("services", [4, 8])
def test_single_rows_in_turn_carry_what_queueing_theory_says(services: int) -> None:
    share = mlperf_tables.unbatched_share(1.0, services + 1)
    assert wait_is_within(share, services) == pytest.approx(0.99, abs=0.002)


def test_single_rows_in_turn_carry_nothing_within_less_than_their_time() -> None:
    assert mlperf_tables.unbatched_share(1.0, 0.9) == 0.0
