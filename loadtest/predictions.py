"""What `batchserve simulate` says of traffic, against what became of the same traffic on a real server.

    python loadtest/predictions.py [--only NAME...] [--rounds 3] [--seconds 12]

Five traces: steady, bursty, a ramp into overload, mixed lengths, and two models on the same cores. In each round a
server learns what the models cost from other traffic, a second one begins with that and records the trace while the
load is put on it, and `simulate` is given the recording and what the second one had learnt when it ended. So the costs
are those of the same minute, for a virtual machine's speed drifts by a fifth within some; what is predicted is what
becomes of the requests. Compared are the 99th percentile at the client and the requests answered within the target.

Models run on one thread, one batch at a time, so that on two cores the server's event loop and the load have the other:
a load that has to wait for a processor measures its own waiting.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.config.units import format_duration
from loadtest import machine, procfs
from loadtest.findings import Finding, Wanted, finding_table
from loadtest.mixed_lengths import LONGEST, PAD, SHORTEST
from loadtest.models import model_file, model_folder
from loadtest.report import DISTURBED_SHARE, RESULTS, write_json
from loadtest.scheduling_real import MODELS, TARGET_RUNS, RunError, load
from loadtest.server import Server, ServerError

__all__ = ["TRACES", "main"]

LEARNING = "ramp:{0.1}-{1.2}"
"""Traffic under which costs are learnt: batches of all sizes."""

MEASURED_S = 0.4
ROWS = 32
TRIES = 3
"""How often a simulation may find the machine so much slower or faster that it does not believe what was learnt."""
LAYOUT = {
    "defaults.instances": "1",
    "defaults.intra_op_threads": "1",
    "defaults.device_slots": "1",
    "server.profile_cache": "true",
}

WITHIN = {"error of p99": 0.2, "error of goodput": 0.05}


@dataclass(frozen=True)
class Loaded:
    """A model as it is served and asked.

    Attributes:
        rate: Rows a second that it gives without a server, in full batches on one thread.
        target_s: Its latency target.
        stream: Keys of its stream in a scenario file.
        settings: Its configuration besides the target.
    """

    name: str
    rate: float
    target_s: float
    stream: Mapping[str, object]
    settings: Mapping[str, str]

    def asked(self, arrivals: str) -> dict[str, object]:
        """Describe its requests in a scenario file."""
        target = format_duration(self.target_s)
        return {"model": self.name, **self.stream, "arrivals": arrivals, "latency_target": target}


@dataclass(frozen=True)
class Trace:
    """Traffic for some models.

    Attributes:
        arrivals: A schedule for each model, with `{}` in the place of a rate, which is given as a share of the model's.
    """

    arrivals: Mapping[str, str]

    def streams(self, models: Mapping[str, Loaded]) -> list[dict[str, object]]:
        """Describe its requests."""
        return [models[name].asked(_at(schedule, models[name].rate)) for name, schedule in self.arrivals.items()]


def _at(schedule: str, rate: float) -> str:
    """Put rates in the place of shares: `poisson:{0.6}`."""
    parts = schedule.replace("}", "{").split("{")
    return "".join(f"{float(part) * rate:.1f}" if index % 2 else part for index, part in enumerate(parts))


TRACES = {
    "steady": Trace({"mlp-wide": "poisson:{0.6}"}),
    "bursty": Trace({"mlp-wide": "bursts:{1.0},on=300ms,off=300ms,low={0.2}"}),
    "ramp": Trace({"mlp-wide": "ramp:{0.2}-{1.4}"}),
    "mixed lengths": Trace({"scorer": "poisson:{0.6}"}),
    "two models": Trace({"mlp-wide": "poisson:{0.3}", "scorer": "poisson:{0.3}"}),
}


def measured(name: str) -> Loaded:
    """Measure what a model gives without a server, and derive the rest from it."""
    if name == "scorer":
        texts = {"values": {"input_ids": [0, 8191], "attention_mask": [1, 1]}, "variants": 256}
        target_s = round(TARGET_RUNS * _run_s(name, _texts(ROWS, LONGEST)), 4)
        rate = ROWS / _run_s(name, _texts(ROWS, (SHORTEST + LONGEST) // 2))
        stream = {"lengths": [SHORTEST, LONGEST], **texts}
        return Loaded(name, rate, target_s, stream, {f"models.{name}.pad": PAD})
    times = {rows: _run_s(name, MODELS[name].inputs(rows)) for rows in (1, 8, ROWS)}
    best = max(times, key=lambda rows: rows / times[rows])
    return Loaded(name, best / times[best], round(TARGET_RUNS * times[best], 4), MODELS[name].stream, {})


def _texts(rows: int, length: int) -> dict[str, np.ndarray[Any, Any]]:
    ids = np.random.default_rng(rows).integers(0, 8192, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _run_s(name: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> float:
    """Take the median time of a run on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_file(name)), options, providers=["CPUExecutionProvider"])
    session.run(None, inputs)
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < MEASURED_S or len(times) < 3:
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def serve(models: Sequence[Loaded], cache: Path, **settings: str) -> Server:
    """Start a server of these models with what is known of them in a folder."""
    return Server([model_folder(one.name) for one in models], _settings(models, cache) | settings)


def _settings(models: Sequence[Loaded], cache: Path) -> dict[str, str]:
    targets = {f"models.{one.name}.latency_target": format_duration(one.target_s) for one in models}
    own = {key: value for one in models for key, value in one.settings.items()}
    return targets | own | LAYOUT | {"server.cache_dir": str(cache)}


def learn(models: Sequence[Loaded], cache: Path, seconds: float) -> None:
    """Let a server learn what the models cost."""
    with serve(models, cache) as server:
        streams = [one.asked(_at(LEARNING, one.rate / len(models))) for one in models]
        load(f"http://127.0.0.1:{server.port}", streams, 0, duration=f"{seconds:g}s", warmup="0s")


def replayed(trace: Trace, models: Mapping[str, Loaded], folder: Path, seconds: float) -> dict[str, Any]:
    """Put a trace on a server that records it, and then on the simulator; figures of both by model."""
    here = [models[name] for name in trace.arrivals]
    cache, recording = folder / "cache", folder / "recording"
    learn(here, cache, seconds / 2)
    with serve(here, cache, **{"server.record": str(recording)}) as server:
        url = f"http://127.0.0.1:{server.port}"
        others = Others(server.pid)
        run = load(url, trace.streams(models), 0, duration=f"{seconds:g}s", warmup="0s")
        others_share = others.share()
    last_of(recording, run["offered"], folder / "trace.jsonl")
    told = simulate(here, cache, folder / "trace.jsonl")
    found = {}
    for stream in run["streams"]:
        one = told[stream["name"]]
        found[stream["name"]] = {
            "offered_per_s": (stream["answered"] + sum(stream["failed"].values())) / run["window_s"],
            "p50_s": [stream["latency_s"]["p50"], one["p50_s"]],
            "p99_s": [stream["latency_s"]["p99"], one["p99_s"]],
            "within_share": [stream["within_share"], one["within_share"]],
            "others_share": others_share,
            "rows_per_run": one["rows_per_run"],
            "busy_share": one["busy_share"],
            "observed": one["observed"],
            "on_server_s": run["phases_s"].get("total", {}),
            "lag_s": run["lag_s"],
            "batch_rows": run["batch_rows"],
        }
    return found


class Others:
    """What else the machine does while a server and a process of the load run.

    Args:
        pid: The server's.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start_s = time.monotonic()
        self._before_s = self._seconds()

    def share(self) -> float:
        """Say how much of the machine's processor time neither of them used since then."""
        cores = len(os.sched_getaffinity(0))
        return max(0.0, self._seconds() - self._before_s) / (cores * (time.monotonic() - self._start_s))

    def _seconds(self) -> float:
        load = resource.getrusage(resource.RUSAGE_CHILDREN)
        return procfs.machine_s() - procfs.process_s(self._pid) - load.ru_utime - load.ru_stime


def last_of(recording: Path, count: int, to: Path) -> None:
    """Copy the last requests of a recording: those before were sent alone, to learn the right answers."""
    (file,) = recording.glob("*.jsonl")
    head, *requests = file.read_text().splitlines(keepends=True)
    to.write_text("".join([head, *requests[-count:]]))


def simulate(models: Sequence[Loaded], cache: Path, recording: Path) -> dict[str, dict[str, Any]]:
    """Ask `batchserve simulate` about a recording; its predictions by model."""
    sets = [part for key, value in _settings(models, cache).items() for part in ("--set", f"{key}={value}")]
    file = recording.with_suffix(".json")
    folders = [str(model_folder(one.name)) for one in models]
    command = [sys.executable, "-m", "batchserve", "simulate", *folders, "--replay", str(recording), *sets]
    for _ in range(TRIES):
        done = subprocess.run([*command, "--json", str(file)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RunError(done.stderr.strip())
        told = json.loads(file.read_text())
        if all(one["observed"] for one in told["models"].values()):
            break
    else:
        raise RunError(f"what the servers learnt was thrown away {TRIES} times: the machine's speed changes too much")
    return {one["model"]: one | told["models"][one["model"]] for one in told["predictions"]}


def off(found: Mapping[str, Any], key: str) -> float:
    """Say how far a prediction is off, as a share of what was measured."""
    was, told = found[key]
    return float(told / was - 1)


def table(result: Mapping[str, Any]) -> str:
    """Write one line for each model of each trace: medians over the rounds, and the range of the errors.

    A `!` stands where something else took more than a tenth of the machine's processor time in a round: what was
    measured then says little.
    """
    lines = [
        (
            "| trace | model | requests/s | p99 ms | predicted | off by (range) | in time | predicted | off by (range) "
            "| others' CPU |"
        ),
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    first = result["rounds"][0]["traces"]
    for trace, model in ((trace, model) for trace, found in first.items() for model in found):
        rounds = [one["traces"][trace][model] for one in result["rounds"]]
        cells = [trace, model, f"{statistics.median(one['offered_per_s'] for one in rounds):,.0f}"]
        for key, scale, form in (("p99_s", 1e3, ".1f"), ("within_share", 1.0, ".1%")):
            cells += [format(statistics.median(one[key][side] for one in rounds) * scale, form) for side in (0, 1)]
            errors = [off(one, key) for one in rounds]
            cells.append(f"{statistics.median(errors):+.1%} ({min(errors):+.1%} to {max(errors):+.1%})")
        others = max(one["others_share"] for one in rounds)
        cells.append(f"{others:.0%}{' !' if others > DISTURBED_SHARE else ''}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(rounds: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Hold the errors against what is wanted, whichever way they go."""
    figures: dict[tuple[str, str], list[float]] = {}
    for one in rounds:
        for trace, found in one["traces"].items():
            for model, figure in found.items():
                label = f"{trace}, {model}"
                figures.setdefault((label, "error of p99"), []).append(abs(off(figure, "p99_s")))
                figures.setdefault((label, "error of goodput"), []).append(abs(off(figure, "within_share")))
    return [
        Finding(label, what, "x", tuple(one), Wanted(WITHIN[what], is_least=False))
        for (label, what), one in figures.items()
    ]


def main() -> int:
    """Run what is asked for, print how far the predictions are off and write a JSON file."""
    parser = argparse.ArgumentParser(description="Hold predictions against real runs.")
    parser.add_argument("--only", nargs="+", choices=TRACES, default=list(TRACES), help="traces (all)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each trace (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    arguments = parser.parse_args()
    facts: dict[str, object] = machine.facts()
    rounds: list[dict[str, Any]] = []
    try:
        for number in range(arguments.rounds):
            names = {name for trace in arguments.only for name in TRACES[trace].arrivals}
            models = {name: measured(name) for name in sorted(names)}
            rounds.append({"models": {name: dataclasses.asdict(one) for name, one in models.items()}, "traces": {}})
            for trace in arguments.only:
                with tempfile.TemporaryDirectory() as folder:
                    found = replayed(TRACES[trace], models, Path(folder), arguments.seconds)
                rounds[-1]["traces"][trace] = found
                for model, one in found.items():
                    errors = f"p99 {off(one, 'p99_s'):+.1%}, goodput {off(one, 'within_share'):+.1%}"
                    errors += f", others' CPU {one['others_share']:.0%}"
                    print(f"round {number + 1}  {trace}, {model}: {errors}", file=sys.stderr, flush=True)
    except (RunError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    facts |= {"findings": [dataclasses.asdict(one) for one in findings(rounds)], "rounds": rounds}
    path = write_json("predictions", facts, arguments.results)
    print(table(facts), finding_table(findings(rounds)), path, sep="\n\n")
    return 0


if __name__ == "__main__":
    os.environ.pop("BATCHSERVE_CONFIG", None)
    sys.exit(main())
