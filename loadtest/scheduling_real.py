"""What the scheduler keeps on a real server, under open-loop load from another process.

    python loadtest/scheduling_real.py [--only overload lone flooded weights] [--rounds 3] [--seconds 8]

The raw limit of each model is measured in the same round: a tight loop of `session.run` at the best batch size, right
before the server's turn and right after it. Targets are four times the run time of the best batch. docs/loadtest.md
says how to read the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.config.units import format_duration
from loadtest import machine
from loadtest.findings import Finding, Wanted, finding_table
from loadtest.models import model_file, model_folder
from loadtest.report import RESULTS, write_json
from loadtest.server import Server, ServerError

__all__ = ["MODELS", "Limit", "RunError", "main", "raw_limit"]

Array = npt.NDArray[Any]

MAX_BATCH_SIZE = 32
SIZES = (1, 2, 4, 8, 16, 24, 32)
LENGTH = 64
TARGET_RUNS = 4
WARMUP_S = 2.0
TICK = "500us"
OVERLOADS = (1.2, 2.0)


class RunError(Exception):
    """A load could not be applied; the text says why."""


@dataclass(frozen=True)
class Kind:
    """A model and how it is asked.

    Attributes:
        stream: Keys of its stream in a scenario file, besides the model's name.
        kept: Share of the raw limit that is to be kept at 2 x overload; None if nothing is asked of it.
        inputs: Draws the inputs of N rows.
    """

    stream: Mapping[str, object]
    kept: float | None
    inputs: Any


def _wide(rows: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, 1024), np.float32)}


def _pixels(rows: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, 3, 224, 224), np.float32)}


def _words(rows: int) -> dict[str, Array]:
    ids = np.random.default_rng(rows).integers(0, 8192, (rows, LENGTH))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


MODELS: dict[str, Kind] = {
    "mlp-wide": Kind({}, 0.75, _wide),
    "encoder": Kind({"lengths": LENGTH, "values": {"input_ids": [0, 8191], "attention_mask": [1, 1]}}, 0.9, _words),
    "resnet50": Kind({"variants": 4}, None, _pixels),
}


@dataclass(frozen=True)
class Limit:
    """What a model gives without a server.

    Attributes:
        batch_size: The best one.
        run_s: Median time of a run of it.
        rows_per_s: Rows a second in a tight loop of such runs.
        one_s: Median time of a run of one row.
    """

    batch_size: int
    run_s: float
    rows_per_s: float
    one_s: float

    @property
    def target_s(self) -> float:
        """The latency target: four runs of the best batch, to a tenth of a millisecond."""
        return round(TARGET_RUNS * self.run_s, 4)


def raw_limit(name: str, seconds: float) -> Limit:
    """Measure a model in a process of its own, so that none of its threads is left when the server's turn comes.

    Args:
        name: A key of `MODELS`.
        seconds: For each batch size.
    """
    command = [sys.executable, __file__, "--raw-limit", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.strip())
    return Limit(**json.loads(done.stdout))


def _raw_limit(name: str, seconds: float) -> Limit:
    """Run every size for a while, on all cores, as the server does."""
    session = onnxruntime.InferenceSession(str(model_file(name)), providers=["CPUExecutionProvider"])
    found: dict[int, tuple[float, float]] = {}
    for size in SIZES:
        inputs = MODELS[name].inputs(size)
        session.run(None, inputs)
        times, begin = [], time.perf_counter()
        while time.perf_counter() - begin < seconds or len(times) < 3:
            start = time.perf_counter()
            session.run(None, inputs)
            times.append(time.perf_counter() - start)
        found[size] = (float(np.median(times)), size * len(times) / (time.perf_counter() - begin))
    best = max(found, key=lambda size: found[size][1])
    return Limit(best, *found[best], found[1][0])


def lone_runs(name: str, count: int, gap_s: float) -> list[float]:
    """Time runs of one row with pauses between them, in a process of its own."""
    command = [sys.executable, __file__, "--lone-runs", name, "--count", str(count), "--gap", str(gap_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.strip())
    return [float(seconds) for seconds in json.loads(done.stdout)]


def _lone_runs(name: str, count: int, gap_s: float) -> list[float]:
    session = onnxruntime.InferenceSession(str(model_file(name)), providers=["CPUExecutionProvider"])
    inputs = MODELS[name].inputs(1)
    times = []
    for _ in range(count + 2):
        time.sleep(gap_s)
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - start)
    return times[2:]


def load(url: str, streams: Sequence[Mapping[str, object]], seconds: float, **keys: object) -> dict[str, Any]:
    """Apply a scenario by `batchserve bench`, in a process of its own, and return its one run."""
    scenario = {
        "duration": f"{WARMUP_S + seconds:g}s",
        "warmup": f"{WARMUP_S:g}s",
        "timeout": "20s",
        "tick": TICK,
        **keys,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in scenario.items()]
    for stream in streams:
        lines.append("[[stream]]")
        for key, value in stream.items():
            if isinstance(value, dict):
                lines += [f"{key}.{name} = {json.dumps(one)}" for name, one in value.items()]
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    with tempfile.TemporaryDirectory() as folder:
        file, result = Path(folder) / "scenario.toml", Path(folder) / "result.json"
        file.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "batchserve", "bench", url, "--scenario", str(file), "--json", str(result)]
        done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RunError(done.stderr.strip())
        (run,) = json.loads(result.read_text())["runs"]
    if wrong := run["total"]["failed"].keys() & {"wrong answer", "malformed", "closed", "status 500"}:
        raise RunError(f"the server answered wrongly: { {kind: run['examples'].get(kind) for kind in wrong} }")
    return dict(run)


@dataclass
class Round:
    """What the scenarios of one round need: the raw limits, the server's further settings, and where results go."""

    seconds: float
    limits: dict[str, Limit]
    settings: dict[str, str]
    runs: list[dict[str, Any]]

    def stream(self, name: str, **keys: object) -> dict[str, object]:
        """Describe a model's requests, within its target."""
        target = format_duration(self.limits[name].target_s)
        return {"model": name, "latency_target": target, **MODELS[name].stream, **keys}

    def keep(self, scenario: str, run: dict[str, Any], **facts: object) -> None:
        """Note a run, without what fills pages."""
        self.runs.append(
            {"scenario": scenario, **facts, **{key: one for key, one in run.items() if key != "histogram"}}
        )

    def serve(self, *names: str, **settings: str) -> Server:
        """Start a server with targets; all else is as it comes, but for what is set."""
        targets = {f"models.{name}.latency_target": format_duration(self.limits[name].target_s) for name in names}
        return Server([model_folder(name) for name in names], targets | settings | self.settings)


def overload(turn: Round) -> dict[str, float]:
    """Goodput at 1.2 and 2 times the raw limit, as a share of that limit."""
    figures = {}
    for name, limit in turn.limits.items():
        with turn.serve(name) as server:
            for factor in OVERLOADS:
                rate = f"poisson:{factor * limit.rows_per_s:.1f}"
                run = load(f"http://127.0.0.1:{server.port}", [turn.stream(name)], turn.seconds, arrivals=rate)
                rows, executions = server.executions(name)
                again = raw_limit(name, 0.4) if factor == OVERLOADS[-1] else limit
                turn.keep("overload", run, model=name, factor=factor, rows_per_execution=rows / max(executions, 1))
                limits = (limit.rows_per_s + again.rows_per_s) / 2
                figures[f"{name}: goodput at {factor:g} x, over the raw limit"] = run["goodput_per_s"] / limits
    return figures


def lone(turn: Round) -> dict[str, float]:
    """What a request that comes alone takes longer than a bare run that comes alone, in milliseconds."""
    figures = {}
    for name in turn.limits:
        bare_s = float(np.median(lone_runs(name, 40, 0.1)))
        with turn.serve(name) as server:
            url = f"http://127.0.0.1:{server.port}"
            stream = turn.stream(name)
            run = load(url, [stream], 5.0, arrivals="constant:10", tick="0", timing_every=1)
        turn.keep("lone", run, model=name, bare_s=bare_s)
        phases = run["phases_s"]
        added_s = sum(phases[phase]["p50"] for phase in ("decode", "queue", "gather", "scatter"))
        figures[f"{name}: server's own part of a lone request"] = added_s * 1e3
        figures[f"{name}: lone request over a bare lone run, from the client"] = (
            run["total"]["latency_s"]["p50"] - bare_s
        ) * 1e3
    return figures


def flooded(turn: Round) -> dict[str, float]:
    """A light model beside one that is flooded to three times its limit: how much of the light one is in time."""
    heavy, light = "mlp-wide", "encoder"
    streams = [
        turn.stream(heavy, arrivals=f"poisson:{3 * turn.limits[heavy].rows_per_s:.1f}"),
        turn.stream(light, arrivals=f"poisson:{0.1 * turn.limits[light].rows_per_s:.1f}"),
    ]
    with turn.serve(heavy, light) as server:
        run = load(f"http://127.0.0.1:{server.port}", streams, turn.seconds)
    turn.keep("flooded", run)
    by_name = {stream["name"]: stream for stream in run["streams"]}
    latency, target_s = by_name[light]["latency_s"], turn.limits[light].target_s
    return {
        f"light {light}: within its target": by_name[light]["within_share"],
        f"light {light}: p99 over its target": latency.get("p99", float("inf")) / target_s,
        f"flooded {heavy}: goodput over the raw limit": by_name[heavy]["within"]
        / run["window_s"]
        / turn.limits[heavy].rows_per_s,
    }


def weights(turn: Round) -> dict[str, float]:
    """Two models of the same form with weights 3:1, each offered twice the limit: how their answers divide.

    The encoder, because turning so many away for a quicker model would take the cores that the runs want.
    """
    name = "encoder"
    limit = turn.limits[name]
    with tempfile.TemporaryDirectory() as folder:
        for copy in ("three", "one"):
            (Path(folder) / copy / "1").mkdir(parents=True)
            (Path(folder) / copy / "1" / "model.onnx").symlink_to(model_file(name))
        target = format_duration(3 * limit.target_s)
        settings = {"models.three.weight": "3", "models.one.weight": "1", "defaults.latency_target": target}
        rate = f"poisson:{2 * limit.rows_per_s:.1f}"
        with Server([Path(folder)], settings | turn.settings) as server:
            url = f"http://127.0.0.1:{server.port}"
            streams = [
                {**turn.stream(name), "model": copy, "arrivals": rate, "latency_target": target}
                for copy in ("three", "one")
            ]
            run = load(url, streams, turn.seconds)
    turn.keep("weights", run)
    answered = {stream["name"]: stream["answered"] for stream in run["streams"]}
    return {"answers of weight 3 over weight 1": answered["three"] / max(answered["one"], 1)}


SCENARIOS = {"overload": overload, "lone": lone, "flooded": flooded, "weights": weights}

WANTED = {
    **{f"{name}: goodput at 2 x, over the raw limit": Wanted(kind.kept) for name, kind in MODELS.items() if kind.kept},
    **{f"{name}: server's own part of a lone request": Wanted(0.2, is_least=False) for name in MODELS},
    "light encoder: p99 over its target": Wanted(1.0, is_least=False),
}


def main() -> int:
    """Run what is asked for, print the findings and write a JSON file; 1 if anything could not be measured."""
    arguments = _parser().parse_args()
    if arguments.raw_limit:
        print(json.dumps(dataclasses.asdict(_raw_limit(arguments.raw_limit, arguments.seconds))))
        return 0
    if arguments.lone_runs:
        print(json.dumps(_lone_runs(arguments.lone_runs, arguments.count, arguments.gap)))
        return 0
    facts: dict[str, object] = machine.facts()
    figures: dict[tuple[str, str], list[float]] = {}
    rounds: list[dict[str, Any]] = []
    error = ""
    try:
        for number in range(arguments.rounds):
            limits = {name: raw_limit(name, 0.4) for name in arguments.models}
            turn = Round(arguments.seconds, limits, dict(arguments.set), [])
            rounds.append({"limits": {name: vars(one) for name, one in limits.items()}, "runs": turn.runs})
            for scenario in arguments.only:
                for what, figure in SCENARIOS[scenario](turn).items():
                    figures.setdefault((scenario, what), []).append(figure)
                    print(f"round {number + 1}  {scenario}: {what}: {figure:.3f}", file=sys.stderr, flush=True)
    except (RunError, ServerError) as caught:
        error = str(caught)
    findings = [
        Finding(scenario, what, "ms" if "lone request" in what else "x", tuple(one), WANTED.get(what))
        for (scenario, what), one in figures.items()
    ]
    parts = {"findings": [dataclasses.asdict(one) for one in findings], "rounds": rounds}
    for number, one in enumerate(rounds):
        for name, limit in one["limits"].items():
            print(f"round {number + 1}  {name}: {limit}", file=sys.stderr)
    path = write_json("scheduling-real", facts | {"error": error} | parts, arguments.results)
    print(finding_table(findings), path, sep="\n\n")
    if error:
        print(f"error: {error}", file=sys.stderr)
    return 1 if error else 0


def _setting(text: str) -> tuple[str, str]:
    """Read `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='; expected KEY=VALUE")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what the scheduler keeps on a real server.")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="scenarios (all)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["mlp-wide", "encoder"], help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, for each run (%(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="KEY=VALUE", help="configure the server (nothing)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    for hidden, kind in (("--raw-limit", str), ("--lone-runs", str), ("--count", int), ("--gap", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    os.environ.pop("BATCHSERVE_CONFIG", None)
    sys.exit(main())
