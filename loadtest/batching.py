"""What dynamic batching gains: the server as it comes against the same server with `max_batch_size = 1`.

    python loadtest/batching.py

Closed loop at 1, 8 and 64 connections, one row a request, binary bodies, for the digits model and for a perceptron
whose 101 MB of weights every run must read. Each round starts both servers afresh and loads them in turns, the one
after the other at every point, in the other order in the next round. Every measurement ends with a comparison of
each connection's answer with what ONNX Runtime says about its row alone. docs/benchmarks.md says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest import client, machine
from loadtest.models import model_folder
from loadtest.questions import Questions, WrongAnswerError
from loadtest.report import RESULTS, Measurement, summarise, table, write
from loadtest.server import Server, ServerError
from loadtest.wire import WireError

__all__ = ["VARIANTS", "WORKLOADS", "Bench", "WrongAnswerError", "main"]

Array = npt.NDArray[Any]

ROOT = Path(__file__).resolve().parents[1]

WARMUP_S = 0.5

VARIANTS: dict[str, dict[str, str]] = {"batching": {}, "one by one": {"max_batch_size": "1"}}
"""What is compared: settings of every model, by the variant's name. The gain is the first's over the second's."""


@dataclass(frozen=True)
class Workload:
    """A model and the rows it is asked about.

    Attributes:
        folder: Gives the model's folder in a repository, made first if need be.
        input_name: Its one input.
        rows: Draws N distinct rows, `float32[N, ...]`.
    """

    folder: Callable[[], Path]
    input_name: str
    rows: Callable[[np.random.Generator, int], Array]


def _pixels(random: np.random.Generator, count: int) -> Array:
    return random.integers(0, 17, (count, 64)).astype(np.float32)


def _normal(random: np.random.Generator, count: int) -> Array:
    return random.standard_normal((count, 1024), np.float32)


WORKLOADS: dict[str, Workload] = {
    "digits": Workload(lambda: ROOT / "examples" / "models" / "digits", "pixels", _pixels),
    "mlp-wide": Workload(lambda: model_folder("mlp-wide"), "x", _normal),
}


class Bench(Questions):
    """Requests and right answers of one workload, ready to be asked of any server."""

    def __init__(self, name: str, most_connections: int) -> None:
        workload = WORKLOADS[name]
        rows = workload.rows(np.random.default_rng(0), most_connections)
        super().__init__(name, workload.folder(), workload.input_name, rows)


def measure(bench: Bench, server: Server, variant: str, connections: int, turn: int, seconds: float) -> Measurement:
    """Load one server for a while and check its answers.

    Raises:
        WrongAnswerError: An answer was not right.
        client.LoadError: The load could not be applied, or an answer was no success.
    """
    rows_before, runs_before = server.executions(bench.name)
    requests = bench.requests(connections, f"127.0.0.1:{server.port}")
    job = client.Job("127.0.0.1", server.port, requests, seconds, WARMUP_S, server.pid)
    result = client.measure(job)
    bench.check(result.last_answers)
    if set(result.statuses) != {200}:
        raise client.LoadError(f"{bench.name}: expected answers of status 200 alone, got {result.statuses}")
    rows_after, runs_after = server.executions(bench.name)
    cores = len(os.sched_getaffinity(0))
    others_s = result.machine_cpu_s - result.server_cpu_s - result.client_cpu_s
    return Measurement(
        model=bench.name,
        variant=variant,
        connections=connections,
        round=turn,
        requests_per_s=result.answered / result.elapsed_s,
        server_cpu_us=result.server_cpu_s / result.answered * 1e6,
        client_cpu_us=result.client_cpu_s / result.answered * 1e6,
        p50_ms=result.latency_s["p50"] * 1e3,
        p99_ms=result.latency_s["p99"] * 1e3,
        rows_per_execution=(rows_after - rows_before) / (runs_after - runs_before),
        others_share=max(0.0, others_s / (cores * result.elapsed_s)),
    )


def run_round(turn: int, benches: Sequence[Bench], connections: Sequence[int], seconds: float) -> list[Measurement]:
    """Start a server for each variant and measure everything on each, in turns."""
    measurements = []
    order = list(VARIANTS) if turn % 2 == 0 else list(reversed(VARIANTS))
    with contextlib.ExitStack() as stack:
        servers = {}
        for variant in order:
            settings = {f"models.{b.name}.{key}": value for b in benches for key, value in VARIANTS[variant].items()}
            servers[variant] = stack.enter_context(Server([b.folder for b in benches], settings))
        for bench in benches:
            for count in connections:
                for variant in order:
                    one = measure(bench, servers[variant], variant, count, turn, seconds)
                    measurements.append(one)
                    print(
                        f"round {turn + 1}  {one.model:9} {count:3} connections  {variant:10} "
                        f"{one.requests_per_s:9,.0f} requests/s",
                        file=sys.stderr,
                        flush=True,
                    )
    return measurements


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare batching with max_batch_size = 1.")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured, for each point (%(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64], help="(%(default)s)")
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="(%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    return parser


def main() -> int:
    """Run all rounds, print the table and write the JSON file; 1 if anything could not be measured or was wrong."""
    arguments = _parser().parse_args()
    facts: dict[str, object] = {
        **machine.facts(),
        "warmup_s": WARMUP_S,
    }
    measurements: list[Measurement] = []
    try:
        benches = [Bench(name, max(arguments.connections)) for name in arguments.models]
        for turn in range(arguments.rounds):
            measurements += run_round(turn, benches, arguments.connections, arguments.seconds)
    except (client.LoadError, ServerError, WireError, WrongAnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    summed_up = summarise(measurements, *VARIANTS)
    path = write("batching", facts, measurements, summed_up, arguments.results)
    print(table(*summed_up))
    print(f"\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
