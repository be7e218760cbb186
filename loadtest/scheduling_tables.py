"""Writes the figures of `scheduling.py` into the tables of docs/scheduling.md, between its marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["TABLES", "fill"]

Rows = Sequence[dict[str, Any]]

RULES = (
    "batchserve",
    "fixed size + timer",
    "fixed size + timer + rejects",
    "AIMD",
    "regression + hold",
    "greedy",
)


def fill(page: str, data: dict[str, Rows]) -> str:
    """Put a table between each pair of marks `<!-- table NAME -->` and `<!-- end -->` that there are figures for.

    Raises:
        KeyError: There is no table for some of the figures.
    """

    def table(match: re.Match[str]) -> str:
        name = match[1]
        if name not in data:
            return match[0]
        return f"<!-- table {name} -->\n{TABLES[name](data[name])}\n<!-- end -->"

    return re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    rule = ["---"] * text_columns + ["---:"] * (len(headings) - text_columns)
    return "\n".join(
        [f"| {' | '.join(headings)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _rates(rows: Rows) -> str:
    table = []
    for row in rows:
        cells = [f"{100 * row[name]['load']:.1f} %" for name in RULES]
        cells[1] += f" ({row[RULES[1]]['setting']})"
        table.append([row["scenario"], *cells])
    return _lines(["scenario", *RULES], table)


def _overload(rows: Rows) -> str:
    loads = ("0.5", "0.9", "1", "1.2", "2", "4")
    table = [
        [row["device"], row["rules"], *(f"{100 * row[load]:.0f} %" for load in loads), _told(row["told_ms"])]
        for row in rows
    ]
    return _lines(["device", "rules", *(f"{load} x" for load in loads), "told after"], table, 2)


def _told(delay_ms: float | None) -> str:
    return "turns nobody away" if delay_ms is None else f"{delay_ms:.1f} ms"


def _lengths(rows: Rows) -> str:
    headings = [
        "lengths",
        "way",
        "largest load",
        "rows/s",
        "rows in a run",
        "padding",
        "p50",
        "goodput at 1.5 x",
        "padding at 1.5 x",
    ]
    table = [
        [
            row["lengths"],
            row["way"],
            f"{100 * row['load']:.0f} %",
            f"{row['rows_per_s']:,}",
            f"{row['rows_per_run']:.1f}",
            f"{100 * row['padded']:.1f} %",
            f"{row['p50_ms']:.1f} ms",
            f"{100 * row['goodput_at_1.5']:.0f} %",
            f"{100 * row['padded_at_1.5']:.1f} %",
        ]
        for row in rows
    ]
    return _lines(headings, table, 2)


def _neighbours(rows: Rows) -> str:
    headings = ["slots", "loads", "weights", "within target", "p99", "rows in a run", "device time"]
    table = [
        [
            str(row["slots"]),
            " and ".join(f"{load:g} x" for load in row["loads"]),
            ":".join(f"{weight:g}" for weight in row["weights"]),
            " and ".join(f"{100 * share:.2f} %" for share in row["within"]),
            " and ".join(f"{delay:.1f} ms" for delay in row["p99_ms"]),
            " and ".join(f"{size:.1f}" for size in row["rows_per_run"]),
            f"{row['time']:.2f} : 1",
        ]
        for row in rows
    ]
    return _lines(headings, table, 0)


def _ablation(rows: Rows) -> str:
    table = []
    for row in rows:
        gain = row["with"] - row["without"] if row["is_more_better"] else row["without"] - row["with"]
        unit = row["unit"]
        figures = [f"{row[name]:.2f} {unit}" for name in ("with", "without")]
        table.append([row["rule"], row["what"], *figures, f"{gain:+.2f} {unit}"])
    return _lines(["rule", "where", "with it", "without", "gain"], table, 2)


TABLES: dict[str, Callable[[Rows], str]] = {
    "rates": _rates,
    "overload": _overload,
    "lengths": _lengths,
    "neighbours": _neighbours,
    "ablation": _ablation,
}
"""Makes each table of its rows, by the name of both."""
