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
    said, figures, settings = mlperf.read_summary(SUMMARY.format(verdict=verdict))
    assert said is is_valid
    assert figures["Completed samples per second"] == 391.23
    assert figures["99.00 percentile latency (ns)"] == 320630000
    assert "target_qps" not in figures
    assert settings["target_qps"] == "400"
    assert settings["min_duration (ms)"] == "60000"
