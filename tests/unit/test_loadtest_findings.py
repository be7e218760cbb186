"""What the frontend's benchmark makes of its samples: ratios within rounds, verdicts, quantiles, what a soak left."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
from support.benchmarks import client, findings, procfs, scrape, soak, wrk

Sample, Finding, Wanted = findings.Sample, findings.Finding, findings.Wanted


def sampled(variant: str, turn: int, rate: float, connections: int = 8, **others: float) -> Any:
    return Sample("s", variant, connections, turn, {"requests_per_s": rate, **others})


def test_variants_are_compared_within_each_round_at_one_number_of_connections() -> None:
    """A round that lacks one of the two, and other numbers of connections, count for nothing."""
    samples = [
        sampled("new", 0, 300),
        sampled("old", 0, 100),
        sampled("old", 1, 200),
        sampled("new", 1, 800),
        sampled("new", 2, 1000),
        sampled("new", 0, 7, connections=64),
        sampled("old", 0, 1, connections=64),
    ]
    assert findings.compare(samples, "new", "old", 8) == (3, 4)
    assert findings.compare(samples, "new", "old", 64) == (7,)
    assert findings.compare(samples, "new", "old", 8, how=lambda ours, theirs: ours - theirs) == (200, 600)


@pytest.mark.parametrize(
    ("figures", "wanted", "verdict"),
    [
        ((1, 5, 4), Wanted(4), "met"),
        ((5, 3, 3.9), Wanted(4), "NOT met"),
        ((50, 90, 10), Wanted(50, is_least=False), "met"),
        ((51,), Wanted(50, is_least=False), "NOT met"),
        ((0,), Wanted(0, is_least=False), "met"),
        ((math.nan,), Wanted(5, is_least=False), "NOT met"),
        ((1,), None, ""),
    ],
)
def test_median_is_held_against_the_bound(figures: tuple[float, ...], wanted: Any, verdict: str) -> None:
    assert Finding("s", "ratio", "x", figures, wanted).verdict == verdict


def test_tables_show_medians_ranges_and_verdicts_and_mark_a_disturbed_sample() -> None:
    cpu = {"p50_us": 10.0, "p99_us": 20.0, "server_cpu_us": 5.0, "client_cpu_us": 1.0}
    samples = [sampled("new", turn, rate, others_share=0.5, **cpu) for turn, rate in enumerate((1000, 3000, 2000))]
    samples.append(sampled("soaked", 0, 7))
    lines = findings.sample_table(samples).splitlines()
    assert lines[2] == "| s | 8 | new | 2,000 (1,000-3,000) | 10 | 20 | 5.0 | 1.0 | 50% ! |"
    assert lines[3] == "| s | 8 | soaked | 7 (7-7) |  |  |  |  |  |"
    assert {line.count("|") for line in lines} == {10}
    (line,) = findings.finding_table([Finding("s", "ratio", "x", (0.5, 4.0, 4.25), Wanted(4), "(so)")]).splitlines()[2:]
    assert line == "| s | ratio | 4 (0.5-4.25) x | ≥ 4 x | met (so) |"


def test_quantile_lies_inside_the_bucket_that_holds_it_and_counts_only_what_came_between() -> None:
    before = {0.001: 50.0, 0.002: 50.0, 0.004: 50.0, math.inf: 50.0}
    after = {0.001: 50.0, 0.002: 140.0, 0.004: 150.0, math.inf: 150.0}
    assert scrape.quantile(0.45, before, after) == pytest.approx(0.0015)
    assert scrape.quantile(0.95, before, after) == pytest.approx(0.003)
    assert scrape.quantile(1, before, after) == pytest.approx(0.004)
    assert scrape.quantile(0.99, before, {**before, math.inf: 60.0}) == 0.004
    assert math.isnan(scrape.quantile(0.99, after, after))


def test_page_adds_up_the_series_that_have_the_labels() -> None:
    page = scrape.Page(
        "# TYPE a counter\n"
        'a_total{model="m",outcome="completed"} 3\na_total{model="m",outcome="failed"} 1\na_total{model="n"} 5\n'
    )
    assert page.total("a_total") == 9
    assert page.total("a_total", model="m") == 4
    assert page.total("a_total", outcome="failed") == 1
    assert page.values("a_total", "model") == {"m", "n"}


def page(**numbers: float) -> Any:
    lines = ['batchserve_requests_total{model="identity",outcome="cancelled"} 2']
    lines += [
        f'batchserve_requests_received_total{{model="identity"}} {numbers.get("received", 2)}',
        f'batchserve_requests_received_total{{model="other"}} {numbers.get("other", 0)}',
        f"batchserve_http_inflight_bytes {numbers.get('held', 0)}",
        f'batchserve_inflight_requests{{model="identity"}} {numbers.get("under_way", 0)}',
    ]
    return scrape.Page("\n".join(lines) + "\n")


def test_soak_notices_what_the_counters_cannot_account_for() -> None:
    fine = {"unaccounted": 0, "held_bytes": 0, "under_way": 0, "cancelled": 2}
    assert soak.left_over(page()).items() >= fine.items()
    # One model's surplus does not make up for another's loss.
    assert soak.left_over(page(received=1, other=1))["unaccounted"] == 2
    assert soak.left_over(page(held=100))["held_bytes"] == 100
    assert soak.left_over(page(under_way=3))["under_way"] == 3
    with pytest.raises(client.LoadError, match="expected requests of clients that left to be cancelled"):
        soak.left_over(scrape.Page(""))


def test_soak_compares_memory_after_the_warm_up_only() -> None:
    growing = [(float(second), 100 + second // 100, 7) for second in range(200)]
    assert soak.memory(growing, 200)["drift_percent"] == pytest.approx(1.0)
    warming = [(float(second), 50 if second < 60 else 100, 5 if second < 60 else 7) for second in range(200)]
    values = soak.memory(warming, 200)
    assert (values["drift_percent"], values["threads_more"]) == (0, 0)
    with pytest.raises(client.LoadError, match="too short"):
        soak.memory([], 3)


def test_family_of_a_process_is_what_it_started_and_what_that_started() -> None:
    script = "import subprocess, sys; print(flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        family = procfs.family(process.pid)
        assert family[0] == process.pid
        assert len(family) == 2
        assert set(family) < set(procfs.family(os.getpid()))
        assert procfs.resident_bytes(family) > procfs.resident_bytes(family[:1]) > 1 << 20
        process.stdin.close()


def test_missing_wrk_is_an_error_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(client.LoadError, match="apt-get install wrk"):
        wrk.require_wrk()
