"""The same load on batchserve and on the servers of other projects that are installed, in alternating rounds.

    python loadtest/comparison.py --with mosec=~/mosec/bin/python --with bentoml=~/bentoml/bin/python

Each runs in a Python of its own, with the adapter of loadtest/compare/ that bears its name, and with batching as its
documents show it: up to 32 rows, and 5 ms of waiting where there is a timer. The model is the weight-bound perceptron.
Open loop at shares of the raw limit measured in the same round; what counts is answered within four times the run time
of the best batch. Requests are one row, in the form that each server has for it, which is part of the comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.config.units import format_duration
from loadtest import machine
from loadtest.models import model_file, model_folder
from loadtest.report import RESULTS, write_json
from loadtest.scheduling_real import Limit, RunError, load, raw_limit
from loadtest.server import Process, Server, ServerError

__all__ = ["CONTENDERS", "Contender", "main", "table"]

MODEL = "mlp-wide"
SHARES = (0.5, 1.2, 2.0)
ADAPTERS = Path(__file__).parent / "compare"


@dataclass(frozen=True)
class Contender:
    """A server of another project.

    Attributes:
        ready_path: Answers 200 once it is ready.
        stream: How it is asked, as keys of a scenario's stream.
        takes_target: True if its adapter is told the latency target.
    """

    ready_path: str
    stream: Mapping[str, object]
    takes_target: bool = False


CONTENDERS = {
    "mosec": Contender("/", {"format": "raw", "raw": {"path": "/inference", "shape": [1024]}}),
    "litserve": Contender(
        "/health",
        {"format": "raw", "check": False, "raw": {"path": "/predict", "shape": [1024], "json": '{"x":[DATA]}'}},
    ),
    "bentoml": Contender(
        "/readyz",
        {"format": "raw", "check": False, "raw": {"path": "/predict", "shape": [1024], "json": '{"x":[[DATA]]}'}},
        takes_target=True,
    ),
    "rayserve": Contender(
        "/-/healthz",
        {"format": "raw", "check": False, "raw": {"path": "/", "shape": [1024], "json": '{"x":[DATA]}'}},
    ),
    "mlserver": Contender("/v2/health/ready", {"model": "model", "format": "json"}),
}
"""How each is asked. Answers in JSON differ in their last digits from batch to batch, so those are not compared."""


class _Group(Process):
    """A server that starts processes of its own: what is left of them goes with it."""

    def __exit__(self, *_: object) -> None:
        descendants = [] if not self.pid else _family(self.pid)
        super().__exit__(None, None, None)
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    from loadtest import procfs

    try:
        return procfs.family(pid)[1:]
    except (FileNotFoundError, ProcessLookupError):
        return []


@contextlib.contextmanager
def serving(name: str, python: Path | None, limit: Limit) -> Iterator[str]:
    """Start a contender and give its URL."""
    if python is None:
        target = format_duration(limit.target_s)
        with Server([model_folder(MODEL)], {f"models.{MODEL}.latency_target": target}) as server:
            yield f"http://127.0.0.1:{server.port}"
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    adapter = str(ADAPTERS / f"{name}_server.py")
    command = [str(python), adapter, "--model", str(model_file(MODEL)), "--port", str(port)]
    if CONTENDERS[name].takes_target:
        command += ["--latency-ms", str(round(limit.target_s * 1e3))]
    with _Group(command, CONTENDERS[name].ready_path) as process:
        yield f"http://127.0.0.1:{process.port}"


def run_round(turn: int, pythons: Mapping[str, Path | None], seconds: float) -> tuple[Limit, list[dict[str, Any]]]:
    """Load every contender, in the other order in every other round."""
    limit = raw_limit(MODEL, 0.4)
    rows = []
    for name in list(pythons) if turn % 2 == 0 else list(reversed(pythons)):
        stream = {"model": MODEL} if pythons[name] is None else dict(CONTENDERS[name].stream)
        stream["latency_target"] = format_duration(limit.target_s)
        with serving(name, pythons[name], limit) as url:
            for share in SHARES:
                run = load(url, [stream], seconds, arrivals=f"poisson:{share * limit.rows_per_s:.1f}")
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
                    }
                )
                print(
                    f"round {turn + 1}  {name:10} {share:g} x: {rows[-1]['goodput_share']:.1%} in time",
                    file=sys.stderr,
                    flush=True,
                )
    return limit, rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write one line for each server and load: medians over the rounds, and the range of the goodput."""
    lines = ["| server | offered | in time (range) | p50 ms | p99 ms |", "|---|---:|---:|---:|---:|"]
    for name in dict.fromkeys(row["server"] for row in rows):
        for share in SHARES:
            here = [row for row in rows if row["server"] == name and row["share"] == share]
            goodput = [row["goodput_share"] for row in here]
            latency = [
                statistics.median(row["latency_s"].get(key, float("nan")) for row in here) * 1e3
                for key in ("p50", "p99")
            ]
            lines.append(
                f"| {name} | {share:g} x | {statistics.median(goodput):.1%} ({min(goodput):.1%}-{max(goodput):.1%}) "
                f"| {latency[0]:.1f} | {latency[1]:.1f} |"
            )
    return "\n".join(lines)


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
    rows: list[dict[str, Any]] = []
    limits = []
    error = ""
    try:
        for turn in range(arguments.rounds):
            limit, new = run_round(turn, pythons, arguments.seconds)
            limits.append(dataclasses.asdict(limit))
            rows += new
    except (RunError, ServerError) as caught:
        error = str(caught)
    path = write_json("comparison", facts | {"error": error, "limits": limits, "rows": rows}, arguments.results)
    print(table(rows), path, sep="\n\n")
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
