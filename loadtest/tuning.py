"""Whether `batchserve tune` chooses well: its choice beside every setting of a grid, each as a real server under load.

    python loadtest/tuning.py                                   # five models, about an hour
    python loadtest/tuning.py --models mlp-wide --budget 30s --rounds 1 --seconds 2
    python loadtest/tuning.py --models encoder --after loadtest/results/tuning-TIME.json   # in several sittings

For each model the target is five run times of its best batch. `tune` looks for the most requests a second within its
budget. Then every layout with every batch size, its choice among them, is started and offered somewhat more than that,
in turns; what counts is the goodput, answers within the target. docs/tune.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.backends.cores import usable_cores
from batchserve.config.units import format_duration, parse_duration
from batchserve.errors import LoadError
from batchserve.load.arrivals import Steady
from batchserve.load.run import run_load
from batchserve.load.scenario import Scenario, Stream
from batchserve.tuning.settings import layouts_on, server_target_s
from loadtest import machine
from loadtest.findings import Finding, Wanted, finding_table
from loadtest.models import model_file
from loadtest.report import RESULTS, write_json
from loadtest.server import Server, ServerError

__all__ = ["Cell", "RunError", "earlier", "findings", "grid", "judged", "main", "table"]

SIZES = (1, 2, 4, 8, 16, 32)
TARGET_RUNS = 5
LEAST_TARGET_S = 0.01
WARMUP_SHARE = 0.2
GOOD = 0.95

STREAMS: dict[str, dict[str, Any]] = {
    "mlp-small": {},
    "mlp-wide": {},
    "encoder": {"lengths": (64, 64), "values": {"input_ids": (0, 8191), "attention_mask": (1, 1)}},
    "resnet50": {"variants": 4},
    "largest": {"variants": 4},
}
"""How requests are made, by the model's name."""


class RunError(Exception):
    """A command failed; the text says why."""


@dataclass(frozen=True, order=True)
class Cell:
    """One setting of the grid."""

    instances: int
    threads: int
    max_batch_size: int

    def __str__(self) -> str:
        return f"{self.instances} x {self.threads}, {self.max_batch_size}"

    def settings(self, name: str, target_s: float) -> dict[str, str]:
        """Give the configuration of a server."""
        values = {
            "instances": self.instances,
            "intra_op_threads": self.threads,
            "max_batch_size": self.max_batch_size,
            "latency_target": format_duration(server_target_s(target_s)),
            "providers": "cpu",
        }
        return {f"models.{name}.{key}": str(value) for key, value in values.items()}


def grid(cores: int, sizes: Sequence[int], chosen: Cell) -> list[Cell]:
    """List every layout with every size, and the choice if it is none of them."""
    cells = {Cell(one.instances, one.threads, rows) for one in layouts_on(cores) for rows in sizes}
    return sorted(cells | {chosen})


def judged(rates: Mapping[str, Sequence[float]], chosen: str) -> dict[str, Any]:
    """Compare the choice's goodput with the best one's: medians over the rounds, and the ratio in each round.

    Args:
        rates: Goodput of each round by the cell's name.
        chosen: Name of the choice.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(medians, key=lambda name: medians[name])
    ratios = [mine / other for mine, other in zip(rates[chosen], rates[best], strict=True)]
    ratio = medians[chosen] / medians[best]
    return {
        "best": best,
        "best_per_s": medians[best],
        "chosen_per_s": medians[chosen],
        "ratio": ratio,
        "ratios": ratios,
        "is_good": statistics.median(ratios) >= GOOD,
    }


def run(arguments: Sequence[str | Path], *, may_miss: bool = False) -> None:
    """Run a command of ours.

    Raises:
        RunError: It failed.
    """
    command = [sys.executable, "-m", "batchserve", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in ((0, 1) if may_miss else (0,)):
        raise RunError(f"{' '.join(command)}\n{done.stderr.strip()}")


def target_of(path: Path, folder: Path, seconds: float) -> float:
    """Measure what the target follows from, and round it to milliseconds."""
    out = folder / "bench.json"
    sizes = ",".join(map(str, SIZES))
    options = ("--batch-sizes", sizes, "--duration", f"{seconds:g}s", "--json", out, "--quiet")
    run(["bench", path, "--provider", "cpu", *options])
    best = max(json.loads(out.read_text())["rows"], key=lambda row: row["rows_per_s"])
    return max(LEAST_TARGET_S, round(TARGET_RUNS * best["mean_s"], 3))


def tune(path: Path, folder: Path, target_s: float, budget_s: float) -> tuple[dict[str, Any], float]:
    """Tune from nothing; return what was found and how long the command took."""
    out, output = folder / "tune.json", folder / "model.toml"
    options: list[str | Path] = ["--target", f"p99={format_duration(target_s)}", "--budget", f"{budget_s:g}s"]
    options += ["--provider", "cpu", "--set", f"server.cache_dir={folder / 'cache'}"]
    start_s = time.monotonic()
    run(["tune", path, *options, "--json", out, "--output", output, "--force", "--quiet"], may_miss=True)
    return json.loads(out.read_text()), time.monotonic() - start_s


def goodput(name: str, path: Path, cell: Cell, target_s: float, rate: float, seconds: float, seed: int) -> float:
    """Start a server and load it; return the answers within the target, a second."""
    stream = Stream(name, name, **STREAMS[name])
    scenario = Scenario(
        [stream],
        Steady(rate),
        duration_s=seconds * (1 + WARMUP_SHARE),
        warmup_s=seconds * WARMUP_SHARE,
        timeout_s=max(1.0, 3 * target_s),
        target_s=target_s,
        seed=seed,
    )
    with Server([path], cell.settings(name, target_s)) as server:
        return run_load(scenario, f"http://127.0.0.1:{server.port}").goodput_per_s


def judge(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tune one model, and measure the grid."""
    renamed = _named(name)
    with tempfile.TemporaryDirectory(prefix="batchserve-tuning-") as text:
        folder = Path(text)
        target_s = target_of(renamed, folder, options.seconds)
        tuned, took_s = tune(renamed, folder, target_s, options.budget)
    for line in tuned["says"]:
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    chosen = Cell(*(tuned["chosen"][key] for key in ("instances", "intra_op_threads", "max_batch_size")))
    rate = options.load * _best_rate(tuned)
    cells = grid(usable_cores(), options.sizes, chosen)
    rates: dict[str, list[float]] = {str(cell): [] for cell in cells}
    for turn in range(options.rounds):
        for cell in cells if turn % 2 == 0 else reversed(cells):
            found = goodput(name, renamed, cell, target_s, rate, options.seconds, turn)
            rates[str(cell)].append(found)
            print(f"{name} round {turn + 1}  {cell}: {found:,.1f}/s in time", file=sys.stderr, flush=True)
    return {
        "model": name,
        "target_s": target_s,
        "offered_per_s": rate,
        "budget_s": options.budget,
        "took_s": took_s,
        "is_within_budget": tuned["spent_s"] <= options.budget,
        "chosen": str(chosen),
        **judged(rates, str(chosen)),
        "goodput_per_s": rates,
        "tuned": tuned,
    }


def _named(name: str) -> Path:
    """Give the model's file a name of its own: a file is served by its stem."""
    made = model_file(name)
    named = made.with_name(f"{name}.onnx")
    if not named.exists():
        named.hardlink_to(made)
    return named


def _best_rate(tuned: Mapping[str, Any]) -> float:
    """Return the most goodput of any real run, or the largest rate as predicted where there was none."""
    goodputs = [run["goodput_per_s"] for one in tuned["confirmed"] for run in one["runs"]]
    return max(goodputs or [one["most"]["offered_per_s"] for one in tuned["predicted"] if one["most"]])


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Write one line for each model."""
    lines = [
        "| model | target ms | took s (budget) | chosen | in time/s | best | in time/s | ratio | gain | batching |",
        "|---|---:|---:|---|---:|---|---:|---:|---:|---|",
    ]
    for one in found:
        ratios = f"{one['ratio']:.3f} ({min(one['ratios']):.2f}-{max(one['ratios']):.2f})"
        lines.append(
            f"| {one['model']} | {one['target_s'] * 1e3:g} | {one['took_s']:.0f} ({one['budget_s']:g}) "
            f"| {one['chosen']} | {one['chosen_per_s']:,.4g} | {one['best']} | {one['best_per_s']:,.4g} "
            f"| {ratios} | x {one['tuned']['batching']['gain']:.2f} | {_verdict(one['tuned']['says'])} |"
        )
    return "\n".join(lines)


def _verdict(says: Sequence[str]) -> str:
    """Pick what it says of batching, without the figures."""
    line = next((line for line in says if line.startswith("Batching ")), "")
    return ("pays" if line.startswith("Batching pays") else "does not pay") if line else "not possible"


def findings(found: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Hold each choice, and the time it took, against what is wanted."""
    return [
        one
        for model in found
        for one in (
            Finding(model["model"], "choice's goodput over the best's", "x", tuple(model["ratios"]), Wanted(GOOD)),
            Finding(
                model["model"],
                "time of tuning over its budget",
                "x",
                (model["tuned"]["spent_s"] / model["budget_s"],),
                Wanted(1.0, is_least=False),
            ),
        )
    ]


def earlier(file: Path, again: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return what an earlier result says of the models that are not judged again.

    Raises:
        RunError: It is no result, or comes from another version or another number of rounds.
    """
    try:
        found = json.loads(file.read_text())
        models = [one for one in found["models"] if one["model"] not in again]
        commit = found["machine"]["commit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file.name} is no result of this benchmark: {error!r}") from error
    if commit != machine.commit():
        raise RunError(f"{file.name} was measured with another version, {commit[:10]}: measure its models again")
    if any(len(rates) != rounds for one in models for rates in one["goodput_per_s"].values()):
        raise RunError(f"{file.name} has another number of rounds than {rounds}")
    return models


def main() -> int:
    """Judge the models, print the table and write the JSON file; 1 if a choice was poor or a budget was exceeded."""
    parser = argparse.ArgumentParser(description="Compare the choice of batchserve tune with a grid of real servers.")
    parser.add_argument("--models", nargs="+", choices=STREAMS, default=list(STREAMS), help="(%(default)s)")
    parser.add_argument("--budget", type=parse_duration, default=parse_duration("2m"), help="of tune (2m)")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="batch sizes (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, for each server (%(default)s)")
    parser.add_argument(
        "--load", type=float, default=1.1, help="offered, over the most that tune saw in time (%(default)s)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    parser.add_argument("--after", type=Path, metavar="FILE", help="result of other models, kept in the new one")
    options = parser.parse_args()
    facts = machine.facts()
    try:
        found = earlier(options.after, options.models, options.rounds) if options.after else []
        found += [judge(name, options) for name in options.models]
    except (RunError, ServerError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    held = findings(found)
    facts |= {"findings": [dataclasses.asdict(one) for one in held]}
    path = write_json("tuning", {**facts, "models": found}, options.results)
    print(table(found), finding_table(held), path, sep="\n\n")
    return 0 if all(one["is_good"] and one["is_within_budget"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
