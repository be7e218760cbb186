"""The tables of docs/scheduling.md are those of the figures beside it, and the figures hold what the page claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.scheduling_tables import TABLES, fill

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "scheduling.md").read_text(encoding="utf-8")
FIGURES: dict[str, list[dict[str, Any]]] = json.loads((DOCS / "data" / "scheduling.json").read_text(encoding="utf-8"))


def test_tables_are_those_of_the_figures() -> None:
    """`python loadtest/scheduling.py --tables` writes them."""
    assert fill(PAGE, FIGURES) == PAGE
    for name in FIGURES:
        assert f"<!-- table {name} -->" in PAGE
        assert name in TABLES


def test_changed_figure_would_be_noticed() -> None:
    changed = json.loads(json.dumps(FIGURES))
    changed["rates"][0]["batchserve"]["load"] += 0.005
    assert fill(PAGE, changed) != PAGE


@pytest.mark.parametrize("row", FIGURES["rates"], ids=lambda row: row["scenario"])
def test_nothing_tuned_carries_what_the_best_fixed_size_and_timer_carry(row: dict[str, Any]) -> None:
    assert row["fixed size + timer"]["tried"] == 64
    assert row["batchserve"]["setting"] == ""
    assert row["batchserve"]["load"] >= row["fixed size + timer"]["load"]
    assert row["batchserve"]["least_below"] >= 0.99, "a lower rate must be kept, too"


def test_sixteen_scenarios_were_simulated() -> None:
    assert len({row["scenario"] for row in FIGURES["rates"]}) == 16
