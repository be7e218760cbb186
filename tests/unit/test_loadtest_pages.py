"""Results are taken into the pages: under which name, with what around them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.pages import PageError, add, block, fill, name_of, read_results, write_pages
from loadtest.result_tables import NoTableError, flat_table, tables

MACHINE = {
    "processor": "AMD EPYC",
    "usable_cores": 2,
    "memory": "24000000 kB",
    "system": "Linux-6.18.5-x86_64-with-glibc2.31",
    "load_average": [0.25, 0.5, 1.0],
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6"},
    "commit": "0123456789abcdef-dirty",
}
FINDING = {"scenario": "s", "what": "speed", "unit": "x", "figures": [2.0, 3.0, 4.0], "note": ""}
MISSED = {**FINDING, "what": "cost", "wanted": {"bound": 1.0, "is_least": False}}


def result(**others: Any) -> dict[str, Any]:
    return {
        "benchmark": "b",
        "command": "python loadtest/b.py --rounds 3 --with x=/opt/x/bin/python --results /tmp/r",
        "started": "2026-11-24T09:00:00+00:00",
        "machine": MACHINE,
        "findings": [FINDING, MISSED],
        **others,
    }


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").write_text("# Performance\n", encoding="utf-8")
    return tmp_path / "docs"


def written(folder: Path, content: object) -> Path:
    file = folder / "r.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_result_is_taken_in_and_shown_at_the_end_of_the_page_that_is_for_all(docs: Path, tmp_path: Path) -> None:
    runs = [{"histogram": [1], "p99_s": 0.1, "says": "wrote '/tmp/x/model.toml' in time"}]
    assert add(written(tmp_path, result(runs=runs)), docs) == "b"
    assert write_pages(docs) == [docs / "performance.md"]
    page = (docs / "performance.md").read_text(encoding="utf-8")
    assert "## b\n\n<!-- result b -->\n`python loadtest/b.py --rounds 3 --with x=…` on 2 cores of AMD EPYC, " in page
    assert (
        "24 GB of memory, Linux 6.18, Python 3.11.7, numpy 2.4.6 (2026-11-24; commit 0123456789 with changes; " in page
    )
    assert "| s | speed | 3 (2-4) x |  |  |" in page
    assert "What went against us:\n\n- s: cost: 3 x, where ≤ 1 x is wanted\n" in page
    assert read_results(docs)["b"]["runs"] == [{"p99_s": 0.1, "says": "wrote '…' in time"}]
    assert write_pages(docs) == []


def test_newer_result_takes_the_place_of_the_older_where_it_is_shown(docs: Path, tmp_path: Path) -> None:
    other = docs / "other.md"
    other.write_text("before\n<!-- result b -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    add(written(tmp_path, result()), docs)
    add(written(tmp_path, result(findings=[{**FINDING, "figures": [7.0]}])), docs)
    assert write_pages(docs) == [other]
    page = other.read_text(encoding="utf-8")
    assert page.startswith("before\n<!-- result b -->\n`python")
    assert page.endswith("<!-- end -->\nafter\n")
    assert "7 (7-7) x" in page
    assert "old" not in page


def test_marks_without_a_result_keep_what_stands_there() -> None:
    page = "<!-- result gone -->\nby hand\n<!-- end -->"
    assert fill(page, {}) == page


@pytest.mark.parametrize(
    ("content", "message"),
    [([1], "expected a JSON file"), ({"x": 1}, "expected a JSON file"), (result(error="it fell"), "it fell")],
)
def test_what_is_no_evidence_is_refused(docs: Path, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(PageError, match=message):
        add(written(tmp_path, content), docs)
    assert read_results(docs) == {}


def test_result_in_no_known_form_is_refused_and_not_kept(docs: Path, tmp_path: Path) -> None:
    with pytest.raises(NoTableError, match=r"add a function to TABLES"):
        add(written(tmp_path, result(findings=[], rows=[{"x": {"y": 1}}])), docs)
    assert read_results(docs) == {}


def test_parts_of_a_benchmark_have_names_of_their_own() -> None:
    assert name_of({"benchmark": "execution", "what": "swap", "command": "python loadtest/execution.py swap"}) == (
        "execution-swap"
    )
    assert name_of({"benchmark": "layouts", "command": "python loadtest/layouts.py --http"}) == "layouts-http"


def test_plain_figures_are_shown_as_they_are() -> None:
    rows = [{"model": "m", "added_us": [1.0, 2.0, 9.0], "more": {}}, {"model": "n", "added_us": [1234.5], "more": {}}]
    assert flat_table(rows).splitlines() == [
        "| model | added us |",
        "|---|---:|",
        "| m | 2 (1 to 9) |",
        "| n | 1,234 (1,234 to 1,234) |",
    ]
    assert tables({"benchmark": "b", "measurements": rows}) == flat_table(rows)
    assert "| cpu_us_on | 2 (1 to 3) |" in tables({"benchmark": "b", "cpu_us_on": [1.0, 2.0, 3.0]})


def test_runs_of_a_swap_are_shown_by_phase() -> None:
    rounds = [
        {"p99_ms": {"before": 3.0, "after": 4.0}, "failed": 0},
        {"p99_ms": {"before": 5.0, "after": 4.0}, "failed": 1},
    ]
    shown = block("execution-swap", result(benchmark="execution", what="swap", measurements=rounds, findings=[]))
    assert "| before | 4 (3 to 5) |" in shown
    assert "Failed requests in 2 rounds: 1." in shown
