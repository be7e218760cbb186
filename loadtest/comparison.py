"""The same load on batchserve and on the servers of other projects that are installed, in alternating rounds.

    python loadtest/comparison.py --with mosec=~/mosec/bin/python --with bentoml=~/bentoml/bin/python

Each runs in a Python of its own, with the adapter of loadtest/compare/ that bears its name, and with batching as its
documents show it: up to 32 rows, 5 ms of waiting where there is a timer, and the latency target where it has a use for
one. The model is the weight-bound perceptron. Open loop at shares of the raw limit measured in the same round; what
counts is answered within four times the run time of the best batch. Requests are one row, in the form that each server
has for it, which is part of the comparison. Every answer is compared with that of the same row alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.config.units import format_duration
from loadtest import machine
from loadtest.contenders import CONTENDERS, MODEL, OURS, asked, check_answer, described, serving
from loadtest.findings import Finding, Wanted, finding_table
from loadtest.report import RESULTS, write_json
from loadtest.scheduling_real import Limit, RunError, load, raw_limit
from loadtest.server import ServerError

__all__ = ["findings", "main", "table"]

SHARES = (0.1, 0.5, 1.2, 2.0)
TIMEOUT = "2s"
"""What is answered later is late by far, and waiting for it would make the rounds long."""


def run_round(turn: int, pythons: Mapping[str, Path | None], seconds: float) -> tuple[Limit, list[dict[str, Any]]]:
    """Load every contender, in the other order in every other round."""
    limit = raw_limit(MODEL, 0.4)
    rows = []
    for name in list(pythons) if turn % 2 == 0 else list(reversed(pythons)):
        stream = {**asked(name), "latency_target": format_duration(limit.target_s)}
        with serving(name, pythons[name], limit.target_s) as url:
            check_answer(name, url)
            for share in SHARES:
                run = load(url, [stream], seconds, arrivals=f"poisson:{share * limit.rows_per_s:.1f}", timeout=TIMEOUT)
                rows.append(
                    {
                        "round": turn,
                        "server": name,
                        "share": share,
                        "offered_per_s": run["offered_per_s"],
                        "goodput_per_s": run["goodput_per_s"],
                        "goodput_share": run["goodput_per_s"] / min(limit.rows_per_s, run["offered_per_s"]),
                        "latency_s": run["total"]["latency_s"],
                        "failed": run["total"]["failed"],
                        "is_load_late": run["is_load_late"],
                    }
                )
                print(
                    f"round {turn + 1}  {name:10} {share:g} x: {rows[-1]['goodput_share']:.1%} in time",
                    file=sys.stderr,
                    flush=True,
                )
    return limit, rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write one line for each server and load: medians over the rounds, and the range of the goodput.

    A `!` stands where the load itself was late in a round: this machine had no time left to make it.
    """
    lines = ["| server | offered | in time (range) | p50 ms | p99 ms |", "|---|---:|---:|---:|---:|"]
    for name in dict.fromkeys(row["server"] for row in rows):
        for share in SHARES:
            here = [row for row in rows if row["server"] == name and row["share"] == share]
            goodput = [row["goodput_share"] for row in here]
            late = " !" if any(row.get("is_load_late") for row in here) else ""
            latency = [_median_ms(here, key) for key in ("p50", "p99")]
            spread = f"{statistics.median(goodput):.1%} ({min(goodput):.1%}-{max(goodput):.1%})"
            lines.append(f"| {name} | {share:g} x{late} | {spread} | {latency[0]} | {latency[1]} |")
    return "\n".join(lines)


def _median_ms(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Write the median over the rounds in which anything was answered."""
    times = [row["latency_s"][key] for row in rows if row["latency_s"]]
    return f"{statistics.median(times) * 1e3:.1f}" if times else "-"


def findings(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Compare batchserve with the best of the others, within each round; empty if there is none."""
    figures: dict[tuple[str, Wanted], list[float]] = {}
    for turn in dict.fromkeys(row["round"] for row in rows):
        for share in SHARES:
            here = [row for row in rows if (row["round"], row["share"]) == (turn, share)]
            ours = [row for row in here if row["server"] == OURS]
            others = [row for row in here if row["server"] != OURS]
            if not ours or not others:
                continue
            best = max(row["goodput_per_s"] for row in others)
            what = f"goodput at {share:g} x the raw limit, over the best other's"
            figures.setdefault((what, Wanted(1.0)), []).append(ours[0]["goodput_per_s"] / best if best else 10.0)
            if share < 1 and (times := [row["latency_s"]["p99"] for row in others if row["latency_s"]]):
                what = f"p99 at {share:g} x the raw limit, over the best other's"
                ratio = ours[0]["latency_s"].get("p99", float("inf")) / min(times)
                figures.setdefault((what, Wanted(1.0, is_least=False)), []).append(ratio)
    return [Finding(MODEL, what, "x", tuple(one), wanted) for (what, wanted), one in figures.items()]


def main() -> int:
    """Run all rounds, print the table and write a JSON file; 1 if anything could not be measured."""
    parser = argparse.ArgumentParser(description="Compare batchserve with other servers.")
    parser.add_argument("--with", dest="others", action="append", default=[], metavar="NAME=PYTHON", type=_other)
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, for each point (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    arguments = parser.parse_args()
    pythons: dict[str, Path | None] = {"batchserve": None, **dict(arguments.others)}
    facts: dict[str, object] = machine.facts()
    servers: list[dict[str, str]] = []
    rows: list[dict[str, Any]] = []
    limits = []
    error = ""
    try:
        servers += [described(name, python) for name, python in pythons.items()]
        for turn in range(arguments.rounds):
            limit, new = run_round(turn, pythons, arguments.seconds)
            limits.append(dataclasses.asdict(limit))
            rows += new
    except (RunError, ServerError) as caught:
        error = str(caught)
    found = findings(rows)
    facts |= {"error": error, "servers": servers, "findings": [dataclasses.asdict(one) for one in found]}
    path = write_json("comparison", facts | {"limits": limits, "rows": rows}, arguments.results)
    print(table(rows), finding_table(found), path, sep="\n\n")
    if error:
        print(f"error: {error}", file=sys.stderr)
    return 1 if error else 0


def _other(text: str) -> tuple[str, Path]:
    name, _, python = text.partition("=")
    if name not in CONTENDERS or not python:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=PYTHON with one of {', '.join(CONTENDERS)}")
    return name, Path(python).expanduser()


if __name__ == "__main__":
    sys.exit(main())
