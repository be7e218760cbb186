"""What padding gains where requests differ in length: `pad` against cutting batches at shape changes, on a real server.

    python loadtest/mixed_lengths.py [--only scorer encoder] [--rounds 3] [--seconds 6]

Lengths are 8 to 128, evenly spread. For `scorer`, whose batching pays: rows per second of equal lengths at 1 and 16
rows, then goodput under open-loop load with `pad` and without, in alternation on servers of their own. For `encoder`,
whose batching hardly pays on a CPU: answers per second of 64 closed-loop connections, as it comes, with `pad`, and with
one run for each request (`max_batch_size = 1`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.config.units import format_duration
from batchserve.load.arrivals import parse_arrivals
from batchserve.load.run import run_load
from batchserve.load.scenario import Scenario, Stream
from loadtest import machine
from loadtest.findings import Finding, Wanted, finding_table
from loadtest.models import model_file, model_folder
from loadtest.report import RESULTS, write_json
from loadtest.scrape import scrape
from loadtest.server import Server, ServerError

__all__ = ["main"]

SHORTEST, LONGEST = 8, 128
MIDDLE = (SHORTEST + LONGEST) // 2
ROWS = 32
PAD = '{axes = {input_ids = 1, attention_mask = 1}, mask = "attention_mask"}'
OFFERED = 2.0
"""Load as a multiple of what full batches of the middle length would carry."""
TARGET_RUNS = 4
CONNECTIONS = 64
WARMUP_S = 2.0


class RunError(Exception):
    """A load could not be applied; the text says why."""


def bare(name: str, shapes: list[tuple[int, int]], seconds: float) -> dict[tuple[int, int], float]:
    """Time bare runs of (rows, length) in a process of its own; medians in seconds."""
    command = [sys.executable, __file__, "--bare", json.dumps([name, shapes, seconds])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.strip())
    return dict(zip(shapes, json.loads(done.stdout), strict=True))


def _bare(name: str, shapes: list[tuple[int, int]], seconds: float) -> list[float]:
    session = onnxruntime.InferenceSession(str(model_file(name)), providers=["CPUExecutionProvider"])
    medians = []
    for rows, length in shapes:
        ids = np.random.default_rng(rows).integers(0, 8192, (rows, length))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        session.run(None, inputs)
        times, begin = [], time.perf_counter()
        while time.perf_counter() - begin < seconds or len(times) < 3:
            start = time.perf_counter()
            session.run(None, inputs)
            times.append(time.perf_counter() - start)
        medians.append(float(np.median(times)))
    return medians


def load(port: int, name: str, seconds: float, **keys: Any) -> dict[str, Any]:
    """Apply load in a process of its own and return its result. `arrivals` stands for an open loop."""
    command = [sys.executable, __file__, "--load", json.dumps([f"http://127.0.0.1:{port}", name, seconds, keys])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.strip())
    result: dict[str, Any] = json.loads(done.stdout)
    if wrong := result["total"]["failed"].keys() & {"wrong answer", "malformed", "closed", "status 500"}:
        raise RunError(f"the server answered wrongly: { {kind: result['examples'].get(kind) for kind in wrong} }")
    return result


def _load(url: str, name: str, seconds: float, keys: Mapping[str, Any]) -> dict[str, Any]:
    values = {"input_ids": (0.0, 8191.0), "attention_mask": (1.0, 1.0)}
    stream = Stream(name, model=name, lengths=(SHORTEST, LONGEST), values=values, variants=256)
    arrivals = parse_arrivals(keys["arrivals"]) if "arrivals" in keys else None
    scenario = Scenario(
        (stream,),
        arrivals=arrivals,
        connections=1000 if arrivals is not None else CONNECTIONS,
        duration_s=WARMUP_S + seconds,
        warmup_s=WARMUP_S,
        timeout_s=20.0,
        target_s=keys.get("target_s"),
        timing_every=0,
        tick_s=5e-4 if arrivals is not None else 0.0,
    )
    return run_load(scenario, url).to_json()


def padded_share(port: int, name: str) -> float:
    """Read the share of padding in all runs so far; 0 without any token."""
    page = scrape(port)
    tokens = page.total("batchserve_tokens_total", model=name)
    return page.total("batchserve_padding_tokens_total", model=name) / tokens if tokens else 0.0


def scorer(seconds: float, runs: list[dict[str, Any]]) -> dict[str, float]:
    """Goodput with `pad` over that of cutting at shape changes, where batching pays."""
    name = "scorer"
    times = bare(name, [(1, MIDDLE), (16, MIDDLE), (ROWS, MIDDLE), (ROWS, LONGEST)], 0.5)
    target_s = round(TARGET_RUNS * times[ROWS, LONGEST], 4)
    rate = OFFERED * ROWS / times[ROWS, MIDDLE]
    figures = {"rows/s at 16 rows over 1, equal lengths": 16 * times[1, MIDDLE] / times[16, MIDDLE]}
    target = {f"models.{name}.latency_target": format_duration(target_s)}
    good = {}
    for kind, settings in (("pad", {f"models.{name}.pad": PAD}), ("cut at shapes", {})):
        with Server([model_folder(name)], target | settings) as server:
            run = load(server.port, name, seconds, arrivals=f"poisson:{rate:.1f}", target_s=target_s)
            rows, executions = server.executions(name)
            share = padded_share(server.port, name)
        good[kind] = run["goodput_per_s"]
        figures[f"{kind}: goodput per s"] = good[kind]
        figures[f"{kind}: rows per execution"] = rows / max(executions, 1)
        runs.append({"kind": kind, "rate": rate, "target_s": target_s, "padded_share": share, **_brief(run)})
        if kind == "pad":
            figures["pad: padded share"] = share
    figures["goodput with pad over cutting at shapes"] = good["pad"] / good["cut at shapes"]
    figures["goodput with pad over full batches of the middle length"] = good["pad"] * times[ROWS, MIDDLE] / ROWS
    return figures


def encoder(seconds: float, runs: list[dict[str, Any]]) -> dict[str, float]:
    """Answers per second of 64 connections where batching hardly pays, over those of one run for each request."""
    name = "encoder"
    answered = {}
    kinds: dict[str, dict[str, str]] = {
        "one run per request": {f"models.{name}.max_batch_size": "1"},
        "as it comes": {},
        "pad": {f"models.{name}.pad": PAD},
    }
    for kind, settings in kinds.items():
        with Server([model_folder(name)], settings) as server:
            run = load(server.port, name, seconds)
            rows, executions = server.executions(name)
        answered[kind] = run["answered_per_s"]
        runs.append({"kind": kind, "rows_per_execution": rows / max(executions, 1), **_brief(run)})
    figures = {f"{kind}: answers per s": rate for kind, rate in answered.items()}
    for kind in ("as it comes", "pad"):
        figures[f"{kind}, over one run per request"] = answered[kind] / answered["one run per request"]
    return figures


def _brief(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key not in ("histogram", "timeline")}


SCENARIOS = {"scorer": scorer, "encoder": encoder}

WANTED = {
    "rows/s at 16 rows over 1, equal lengths": Wanted(4.0),
    "goodput with pad over cutting at shapes": Wanted(2.0),
    "pad: padded share": Wanted(0.15, is_least=False),
    "as it comes, over one run per request": Wanted(1.0),
}


def main() -> int:
    """Run what is asked for, print the findings and write a JSON file; 1 if anything could not be measured."""
    parser = argparse.ArgumentParser(description="Measure what padding gains where requests differ in length.")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="models (all)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured, for each run (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    parser.add_argument("--bare", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        name, shapes, seconds = arguments.bare
        print(json.dumps(_bare(name, [tuple(shape) for shape in shapes], seconds)))
        return 0
    if arguments.load:
        print(json.dumps(_load(*arguments.load)))
        return 0
    facts: dict[str, object] = machine.facts()
    figures: dict[tuple[str, str], list[float]] = {}
    runs: list[dict[str, Any]] = []
    try:
        for number in range(arguments.rounds):
            for scenario in arguments.only:
                for what, figure in SCENARIOS[scenario](arguments.seconds, runs).items():
                    figures.setdefault((scenario, what), []).append(figure)
                    print(f"round {number + 1}  {scenario}: {what}: {figure:.3f}", file=sys.stderr, flush=True)
    except (RunError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    findings = [
        Finding(scenario, what, "1/s" if what.endswith("per s") else "x", tuple(one), WANTED.get(what))
        for (scenario, what), one in figures.items()
    ]
    parts = {"findings": [dataclasses.asdict(one) for one in findings], "runs": runs}
    print(finding_table(findings), write_json("mixed-lengths", facts | parts, arguments.results), sep="\n\n")
    return 0


if __name__ == "__main__":
    os.environ.pop("BATCHSERVE_CONFIG", None)
    sys.exit(main())
