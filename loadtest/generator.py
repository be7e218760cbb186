"""Whether the load generator tells the truth: against a server whose delays are known, and that stalls for a second.

    python loadtest/generator.py [--rate 5000] [--seconds 10] [--rounds 3]

Three parts: percentiles against those that the server itself measured, with the generator's processor time, as it comes
and with `tick = "0"`, in alternating rounds; a stall of 1 s as the open loop sees it; the same stall as a closed loop
sees it.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.load.arrivals import Steady
from batchserve.load.run import run_load
from batchserve.load.scenario import Scenario, Stream
from loadtest import machine
from loadtest.report import RESULTS, write_json

__all__ = ["SHARES", "Comparison", "compare", "main", "stall_table", "truth_table", "with_delays"]

SERVER = Path(__file__).parent / "baselines" / "delays.py"
SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)
VARIANTS = {"as it comes": None, "tick 0": 0.0}
STREAM = Stream("delayed", form="raw", path="/", raw_shape=(16,), variants=1)


@dataclass(frozen=True)
class Comparison:
    """A percentile as it was and as it was reported, in seconds."""

    share: float
    truth_s: float
    reported_s: float

    @property
    def error(self) -> float:
        """How far the report is off, as a share of the truth."""
        return self.reported_s / self.truth_s - 1


def with_delays(scenario: Scenario, *arguments: str) -> tuple[dict[str, Any], list[float]]:
    """Apply a scenario to a server of its own.

    Args:
        scenario: What to apply.
        arguments: The server's.

    Returns:
        The result as JSON has it, and every delay that the server measured, in seconds.
    """
    command = [sys.executable, str(SERVER), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "the pipe was asked for"
    try:
        url = process.stdout.readline().strip()
        result = run_load(scenario, url).to_json()
        process.send_signal(signal.SIGTERM)
        delays = json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return result, delays


def compare(result: dict[str, Any], delays: list[float]) -> list[Comparison]:
    """Set percentiles side by side: of all answers' latencies, and of all delays."""
    buckets = np.array(result["histogram"])
    counts = np.cumsum(buckets[:, 1])
    ordered = np.sort(delays)
    comparisons = []
    for share in SHARES:
        reported = buckets[np.searchsorted(counts, np.ceil(share * counts[-1])), 0]
        truth = ordered[int(np.ceil(share * len(ordered))) - 1]
        comparisons.append(Comparison(share, float(truth), float(reported)))
    return comparisons


def middle(values: Sequence[float], form: str) -> str:
    """Write the median of some rounds, and their range."""
    low, high = format(min(values), form), format(max(values), form)
    return f"{statistics.median(values):{form}} ({low} to {high})"


def against_truth(open_loop: Scenario, rounds: int, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Measure every variant in each round, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for number in range(rounds):
        for name, tick_s in list(VARIANTS.items())[:: -1 if number % 2 else 1]:
            result, delays = with_delays(open_loop.with_(tick_s=tick_s, seed=number), *arguments)
            compared = [asdict(row) | {"error": row.error} for row in compare(result, delays)]
            found[name].append({"cpu_share": result["cpu_share"], "compared": compared, "result": result})
    return found


def truth_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write a line for each variant and percentile: medians over the rounds, and ranges."""
    lines = ["| generator | CPU of a core | percentile | truth ms | reported ms | error |"]
    lines.append("|---|---:|---|---:|---:|---:|")
    for name, each in found.items():
        cpu = middle([one["cpu_share"] for one in each], ".1%")
        for index, share in enumerate(SHARES):
            rows = [one["compared"][index] for one in each]
            truth, reported = (statistics.median(row[key] for row in rows) * 1e3 for key in ("truth_s", "reported_s"))
            error = middle([row["error"] for row in rows], "+.1%")
            lines.append(f"| {name} | {cpu} | p{share * 100:g} | {truth:.2f} | {reported:.2f} | {error} |")
    return "\n".join(lines)


def through_a_stall(*arguments: str) -> dict[str, dict[str, Any]]:
    """Let the server stand still for a second under an open and a closed loop."""
    open_loop = Scenario([STREAM], Steady(500.0, is_even=True), duration_s=5.0, warmup_s=0, timing_every=0)
    closed = open_loop.with_(arrivals=None, connections=20)
    found = {}
    for name, scenario in (("open loop, 500/s", open_loop), ("closed loop, 20 connections", closed)):
        result, _ = with_delays(scenario, *arguments, "--stall-after-s", "2", "--stall-s", "1")
        above = sum(count for seconds, count in result["histogram"] if seconds > 0.5)
        found[name] = {"above_500_ms": above, "result": result}
    return found


def stall_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Write what each loop saw of the stall."""
    lines = ["| a stall of 1 s | requests | p50 ms | p99 ms | max ms | above 500 ms |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, one in found.items():
        total = one["result"]["total"]
        points = " | ".join(f"{total['latency_s'][key] * 1e3:.1f}" for key in ("p50", "p99", "max"))
        lines.append(f"| {name} | {total['answered']} | {points} | {one['above_500_ms']} |")
    return "\n".join(lines)


def main() -> int:
    """Run all parts, print what they gave, and write a JSON file."""
    parser = argparse.ArgumentParser(description="Hold the load generator against a server whose delays are known.")
    parser.add_argument("--rate", type=float, default=5000.0, help="requests a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--least-ms", type=float, default=20.0, help="no delay is shorter (%(default)s)")
    parser.add_argument("--mean-ms", type=float, default=40.0, help="mean of the delays (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    arguments = parser.parse_args()
    facts: dict[str, object] = machine.facts()
    spread = ("--least-ms", str(arguments.least_ms), "--mean-ms", str(arguments.mean_ms))
    open_loop = Scenario([STREAM], Steady(arguments.rate), duration_s=arguments.seconds, warmup_s=0, timing_every=0)
    print(f"{arguments.rate:,.0f} requests/s, Poisson, {arguments.rounds} rounds of {arguments.seconds:g} s; ", end="")
    print(f"delays of {arguments.least_ms:g} ms and more, mean {arguments.mean_ms:g} ms\n")
    truth = against_truth(open_loop, arguments.rounds, *spread)
    print(truth_table(truth), end="\n\n", flush=True)
    stall = through_a_stall(*spread)
    path = write_json("generator", facts | {"truth": truth, "stall": stall}, arguments.results)
    print(stall_table(stall), path, sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
