"""LoadGen's summary is read as it stands."""

from __future__ import annotations

import pytest
from support.benchmarks import mlperf

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
    one = {"model": "encoder", "limit": {"rows_per_s": 100.0}, "verdicts": runs}
    none = {"model": "resnet50", "limit": {"rows_per_s": 100.0}, "verdicts": runs[:2]}
    table = mlperf.ratio_table([one, none]).splitlines()
    assert table[2] == "| encoder | 100.0 | 85.0 | 0.850 | ≥ 0.8 | met |"
    assert table[3] == "| resnet50 | 100.0 | 0.0 | | ≥ 0.9 | no VALID run of the Server scenario |"
    assert (
        mlperf.verdict_table([one]).splitlines()[3]
        == "| encoder | Server | INVALID: Early stopping | 95.0 |  | 5.00 | 320.0 | 0.950 |"
    )
