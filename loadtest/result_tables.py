"""Tables of committed results, in the form that each benchmark writes: what the pages of docs/ show of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loadtest.findings import Finding, Sample, Wanted, finding_table, sample_table

__all__ = ["NoTableError", "against_us", "tables"]

Result = Mapping[str, Any]

ROWS = ("measurements", "rows", "results", "sizes", "models", "cases")
"""Where results of other forms hold a list of figures."""


class NoTableError(Exception):
    """Nothing in a result can be shown as a table; the text says what is in it."""


def tables(result: Result) -> str:
    """Write what a result has to show as Markdown tables.

    Raises:
        NoTableError: It is in no form that is known.
    """
    own = TABLES.get(result["benchmark"])
    parts = [own(result)] if own is not None else []
    if not parts and result.get("samples"):
        parts.append(sample_table([Sample(**one) for one in result["samples"]]))
    if found := _findings(result):
        parts.append(finding_table(found))
    if not parts:
        parts += [flat_table(result[name]) for name in ROWS if _is_flat(result.get(name))]
    if not parts and (columns := {name: value for name, value in result.items() if _is_numbers(value)}):
        parts.append(flat_table([{"figure": name, "median (range)": value} for name, value in columns.items()]))
    if not parts:
        raise NoTableError(
            f"a result of {result['benchmark']!r} has {', '.join(result)}: none of {', '.join(ROWS)} is a list of "
            "plain figures; add a function to TABLES in loadtest/result_tables.py"
        )
    return "\n\n".join(parts)


def against_us(result: Result) -> list[str]:
    """List the findings that miss what is wanted."""
    return [
        f"{one.scenario}: {one.what}: {one.median:.3g} {one.unit}, where {one.wanted} {one.unit} is wanted"
        for one in _findings(result)
        if one.wanted is not None and not one.wanted.is_met(one.median)
    ]


def flat_table(rows: Sequence[Result]) -> str:
    """Write plain figures as they are: one line for each, with the columns that all of them have.

    Lists of numbers, such as one for each round, are written as their median and range.
    """
    names = [name for name in rows[0] if all(_is_plain(row.get(name)) for row in rows)]
    is_number = {name: not any(isinstance(row[name], str | bool) for row in rows) for name in names}
    lines = [
        f"| {' | '.join(name.replace('_', ' ') for name in names)} |",
        f"|{'|'.join('---:' if is_number[name] else '---' for name in names)}|",
    ]
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines)


def _findings(result: Result) -> list[Finding]:
    names = ("scenario", "what", "unit", "note")
    return [
        Finding(
            **{name: one[name] for name in names},
            figures=tuple(one["figures"]),
            wanted=Wanted(**one["wanted"]) if one.get("wanted") else None,
        )
        for one in result.get("findings", [])
    ]


def _is_flat(rows: object) -> bool:
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and any(map(_is_plain, rows[0].values()))


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) or _is_numbers(value)


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) in (int, float) for one in value)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return _median(value)
    return _number(value) if isinstance(value, float) else str(value)


def _median(values: Sequence[float]) -> str:
    return f"{_number(statistics.median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- benchmarks with a table of their own; each is imported only when it is shown, for many of them import a runtime


def _generator(result: Result) -> str:
    from loadtest import generator

    return f"{generator.truth_table(result['truth'])}\n\n{generator.stall_table(result['stall'])}"


def _predictions(result: Result) -> str:
    from loadtest import predictions

    return predictions.table(result)


def _mlperf(result: Result) -> str:
    from loadtest import mlperf_tables

    return f"{mlperf_tables.verdict_table(result['results'])}\n\n{mlperf_tables.ratio_table(result['results'])}"


def _layouts(result: Result) -> str:
    from loadtest import layouts

    return layouts.table(result["measurements"])


def _comparison(result: Result) -> str:
    from loadtest import comparison

    return f"{flat_table(result['servers'])}\n\n{comparison.table(result['rows'])}"


def _batching(result: Result) -> str:
    from loadtest import report

    summaries = [report.Summary(**one) for one in result["summaries"]]
    return report.table(summaries, [report.Gain(**one) for one in result["gains"]])


def _tuning(result: Result) -> str:
    from loadtest import tuning

    return tuning.table(result["models"])


def _unloading(result: Result) -> str:
    from loadtest.unloading import MOST_GROWTH, SETTLED

    sizes = result["resident_bytes"]
    settled, last, most = sizes[SETTLED - 1], sizes[-1], max(sizes[SETTLED:])
    said = "met" if last / settled - 1 <= MOST_GROWTH else "NOT met"
    return (
        f"| cycles | resident after {SETTLED}, MB | after all, MB | most between, MB | grew by | wanted | |\n"
        "|---:|---:|---:|---:|---:|---|---|\n"
        f"| {len(sizes)} | {settled / 1e6:.1f} | {last / 1e6:.1f} | {most / 1e6:.1f} | {last / settled - 1:.2%} "
        f"| ≤ {MOST_GROWTH:.0%} | {said} |"
    )


def _execution(result: Result) -> str:
    if result["what"] in ("path", "isolation"):
        return flat_table(result["measurements"])
    rounds = result["measurements"]
    lines = ["| phase | p99 ms (range) |", "|---|---:|"]
    lines += [f"| {phase} | {_median([one['p99_ms'][phase] for one in rounds])} |" for phase in rounds[0]["p99_ms"]]
    failed = sum(one["failed"] for one in rounds)
    return "\n".join([*lines, "", f"Failed requests in {len(rounds)} rounds: {failed}."])


TABLES: dict[str, Callable[[Result], str]] = {
    "generator": _generator,
    "predictions": _predictions,
    "mlperf": _mlperf,
    "layouts": _layouts,
    "comparison": _comparison,
    "tuning": _tuning,
    "batching": _batching,
    "execution": _execution,
    "unloading": _unloading,
}
"""How results of these benchmarks are shown; those of all others are shown by their findings, samples or figures."""
