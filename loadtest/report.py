"""Sums a comparison of variants up: medians over rounds, ratios within rounds; a table and a JSON file.

    python -m loadtest.report [--add FILE.json...]

takes results of any benchmark into docs/results/ and writes the tables of docs/ anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["DISTURBED_SHARE", "RESULTS", "Gain", "Measurement", "Summary", "summarise", "table", "write", "write_json"]

RESULTS = Path(__file__).parent / "results"

DISTURBED_SHARE = 0.1

HEADINGS = (
    ("model", "---"),
    ("connections", "---:"),
    ("variant", "---"),
    ("requests/s (range)", "---:"),
    ("server CPU µs/request", "---:"),
    ("p50 ms", "---:"),
    ("p99 ms", "---:"),
    ("rows/run", "---:"),
    ("others' CPU", "---:"),
    ("gain (range)", "---:"),
)


@dataclass(frozen=True)
class Measurement:
    """One variant of one model at one number of connections, in one round.

    Attributes:
        rows_per_execution: Mean rows in a run of the model, warm-up included.
        others_share: Share of the machine's processor time that neither the server nor the load used. High means that
            something else ran, and that the figures are not worth much.
    """

    model: str
    variant: str
    connections: int
    round: int
    requests_per_s: float
    server_cpu_us: float
    client_cpu_us: float
    p50_ms: float
    p99_ms: float
    rows_per_execution: float
    others_share: float


@dataclass(frozen=True)
class Summary:
    """A measurement over all rounds: medians, and the range of the throughput."""

    model: str
    variant: str
    connections: int
    requests_per_s: float
    least_per_s: float
    most_per_s: float
    server_cpu_us: float
    p50_ms: float
    p99_ms: float
    rows_per_execution: float
    others_share: float


@dataclass(frozen=True)
class Gain:
    """A variant's throughput over that of what it is compared with, round by round: median and range."""

    model: str
    connections: int
    variant: str
    median: float
    least: float
    most: float


def summarise(measurements: Sequence[Measurement], variant: str, base: str) -> tuple[list[Summary], list[Gain]]:
    """Take medians over the rounds, and ratios of throughput within each round.

    Args:
        measurements: Every point measured for both variants in the same rounds.
        variant: The variant whose gain is asked for.
        base: What it is compared with.

    Returns:
        A summary for each model, number of connections and variant; a gain for each model and number of connections.
    """
    groups: dict[tuple[str, int], dict[str, list[Measurement]]] = {}
    for one in measurements:
        groups.setdefault((one.model, one.connections), {}).setdefault(one.variant, []).append(one)
    summaries: list[Summary] = []
    gains: list[Gain] = []
    for (model, connections), variants in groups.items():
        summaries += [_summary(model, name, connections, variants[name]) for name in (variant, base)]
        bases = {one.round: one.requests_per_s for one in variants[base]}
        ratios = [one.requests_per_s / bases[one.round] for one in variants[variant]]
        gains.append(Gain(model, connections, variant, statistics.median(ratios), min(ratios), max(ratios)))
    return summaries, gains


def _summary(model: str, variant: str, connections: int, rounds: Sequence[Measurement]) -> Summary:
    """Sum one variant's rounds up."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in rounds))

    rates = [one.requests_per_s for one in rounds]
    medians = ("requests_per_s", "server_cpu_us", "p50_ms", "p99_ms", "rows_per_execution", "others_share")
    return Summary(
        model, variant, connections, least_per_s=min(rates), most_per_s=max(rates), **{n: median(n) for n in medians}
    )


def table(summaries: Sequence[Summary], gains: Sequence[Gain]) -> str:
    """Write the summaries as a Markdown table, the gain in the line of the variant that has it.

    A `!` stands where something else on the machine took more than a tenth of its processor time.
    """
    by_point = {(gain.model, gain.connections): gain for gain in gains}
    lines = [f"| {' | '.join(name for name, _ in HEADINGS)} |", f"|{'|'.join(align for _, align in HEADINGS)}|"]
    for one in summaries:
        gain = by_point[one.model, one.connections]
        shown = f"{gain.median:.2f} ({gain.least:.2f}-{gain.most:.2f})" if one.variant == gain.variant else ""
        mark = " !" if one.others_share > DISTURBED_SHARE else ""
        lines.append(
            f"| {one.model} | {one.connections} | {one.variant} "
            f"| {one.requests_per_s:,.0f} ({one.least_per_s:,.0f}-{one.most_per_s:,.0f}) | {one.server_cpu_us:,.0f} "
            f"| {one.p50_ms:.2f} | {one.p99_ms:.2f} | {one.rows_per_execution:.1f} | {one.others_share:.0%}{mark} "
            f"| {shown} |"
        )
    return "\n".join(lines)


def write(
    name: str,
    facts: dict[str, object],
    measurements: Sequence[Measurement],
    summed_up: tuple[Sequence[Summary], Sequence[Gain]],
    folder: Path,
) -> Path:
    """Write everything to a new JSON file, named after the benchmark and the time, and return it."""
    summaries, gains = summed_up
    parts = {
        "summaries": [dataclasses.asdict(one) for one in summaries],
        "gains": [dataclasses.asdict(one) for one in gains],
        "measurements": [dataclasses.asdict(one) for one in measurements],
    }
    return write_json(name, facts | parts, folder)


def write_json(name: str, parts: Mapping[str, object], folder: Path = RESULTS) -> Path:
    """Write a benchmark's result to a new JSON file, named after the benchmark and the time, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"benchmark": name, **parts}, indent=1) + "\n")
    return path


def main() -> int:
    """Take results in, write the pages that show them, and say which; 1 if one cannot be taken in."""
    from loadtest.pages import PageError, add, write_pages
    from loadtest.result_tables import NoTableError

    parser = argparse.ArgumentParser(prog="python -m loadtest.report", description="Write the tables of docs/ anew.")
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="FILE", help="results to take in")
    arguments = parser.parse_args()
    try:
        for file in arguments.add:
            print(f"{file}: taken in as {add(file)}")
    except (PageError, NoTableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for page in write_pages():
        print(f"{page}: written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
