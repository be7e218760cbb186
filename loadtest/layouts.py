"""What the choice of instances and threads at load is worth: against both by hand, and one run per request.

    python loadtest/layouts.py                 # the engine alone, four models
    python loadtest/layouts.py --http          # the encoder with mixed lengths behind a real server

The first loads each model once for each layout set by hand and afresh for each choice, keeps 64 requests in flight
through the engine without HTTP, and compares rows per second in turns. The second puts 64 connections on real servers:
one as it comes, the others with one run per request in parallel threads, and with one run at a time on all cores.
docs/performance.md says how to read them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.backends.base import ModelFile
from batchserve.backends.cores import usable_cores
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ModelConfig
from batchserve.core.request import Request, Response
from batchserve.core.shapes import shape_key
from batchserve.engine.loading import load_model
from batchserve.engine.model import Model
from batchserve.errors import RequestError
from loadtest import client, machine
from loadtest.models import model_file, model_folder
from loadtest.report import RESULTS, write_json
from loadtest.server import Server, ServerError
from loadtest.wire import infer_request, outputs

__all__ = ["WORKLOADS", "main", "mixed_lengths", "table"]

Array = npt.NDArray[Any]

IN_FLIGHT = 64
SHORTEST, LONGEST = 8, 128
CORES = usable_cores()

BY_HAND = {f"1 x {CORES}": (1, CORES), f"{CORES} x 1": (CORES, 1)}
"""Instances and threads by the layout's name."""

SERVED: dict[str, dict[str, str]] = {
    "as it comes": {},
    "one run per request": {"max_batch_size": "1", "instances": str(CORES), "intra_op_threads": "1"},
    "one run on all cores": {"instances": "1", "intra_op_threads": str(CORES)},
}
"""What real servers are set to, by the variant's name."""


def mixed_lengths(count: int) -> list[list[Array]]:
    """Draw texts of the encoder, their lengths even over 8 to 128: `int64[1, length]` twice each."""
    random = np.random.default_rng(0)
    lengths = random.integers(SHORTEST, LONGEST + 1, count)
    return [[random.integers(0, 8192, (1, length)), np.ones((1, length), np.int64)] for length in lengths]


def _rows(count: int, shape: tuple[int, ...]) -> list[list[Array]]:
    random = np.random.default_rng(0)
    return [[random.standard_normal((1, *shape), np.float32)] for _ in range(count)]


WORKLOADS: dict[str, Callable[[int], list[list[Array]]]] = {
    "mlp-small": partial(_rows, shape=(64,)),
    "mlp-wide": partial(_rows, shape=(1024,)),
    "encoder": mixed_lengths,
    "residual": partial(_rows, shape=(3, 112, 112)),
}
"""Draws so many requests of one row, by the model's name."""


# --- the engine alone -------------------------------------------------------------------------------------------------


async def load(name: str, executor: ThreadPoolExecutor, **config: Any) -> Model:
    """Load a benchmark model as the server does."""
    file = ModelFile(name, 1, model_file(name))
    return await load_model(file, ModelConfig(**config), OnnxBackend(), executor=executor)


async def rows_per_s(model: Model, rows: Sequence[list[Array]], seconds: float) -> float:
    """Keep requests in flight for that long, or longer if runs are; return the rate after a quarter of the time.

    Answers come a batch at a time: counted are those between the end of one batch and the end of another.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    start_s = time.monotonic() + seconds / 4
    flying, number = IN_FLIGHT, 0
    moments: list[float] = []

    def send() -> None:
        nonlocal number
        arrays = rows[number % len(rows)]
        number += 1
        key = shape_key(arrays, is_batching=model.signature.is_batching)
        every = (1 << len(model.signature.outputs)) - 1
        model.submit(Request(tuple(arrays), 1, key, every, time.monotonic()), answered)

    def answered(result: Response | RequestError) -> None:
        nonlocal flying
        now = time.monotonic()
        if isinstance(result, RequestError):
            ended.set_exception(result)
        elif now < start_s + seconds or not moments or moments[-1] - moments[0] < seconds / 4:
            if now >= start_s:
                moments.append(now)
            loop.call_soon(send)
        else:
            flying -= 1
            if not flying:
                ended.set_result(None)

    for _ in range(IN_FLIGHT):
        send()
    await ended
    first_s = moments[0] + 1e-3  # answers of one batch come within less
    return sum(moment > first_s for moment in moments) / (moments[-1] - moments[0])


async def compare(name: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure both layouts by hand and a fresh choice in turns; the choice's own entry says what it was."""
    rows = WORKLOADS[name](4 * IN_FLIGHT)
    found = []
    with ThreadPoolExecutor(1) as executor:
        hand = {
            label: await load(name, executor, instances=instances, intra_op_threads=threads, warmup_budget_s=1.0)
            for label, (instances, threads) in BY_HAND.items()
        }
        for turn in range(rounds):
            chosen = await load(name, executor)
            label = f"{chosen.instances} x {chosen.config.intra_op_threads}"
            models = {**hand, "chosen": chosen}
            order = list(models) if turn % 2 == 0 else list(reversed(models))
            rates = {variant: await rows_per_s(models[variant], rows, seconds) for variant in order}
            found.append({"model": name, "round": turn, "choice": label, "rows_per_s": rates})
            print(f"round {turn + 1}  {name:10} chose {label}  {_shown(rates)}", file=sys.stderr, flush=True)
            await _leave(chosen)
        for model in hand.values():
            await _leave(model)
    return found


async def _leave(model: Model) -> None:
    model.start_drain(10.0)
    await model.drained()
    await model.close()


# --- behind HTTP ------------------------------------------------------------------------------------------------------


def compare_served(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Put the mixed lengths on real servers in turns, each started afresh in every round.

    Raises:
        LoadError: The load could not be applied, or an answer was wrong.
        ServerError: A server did not start.
    """
    rows = mixed_lengths(IN_FLIGHT)
    expected = _alone(rows)
    found = []
    for turn in range(rounds):
        rates: dict[str, float] = {}
        for variant in SERVED if turn % 2 == 0 else reversed(SERVED):
            settings = {f"models.encoder.{key}": value for key, value in SERVED[variant].items()}
            with Server([model_folder("encoder")], settings) as server:
                rates[variant] = _load(server, rows, expected, seconds)
        found.append({"model": "encoder", "round": turn, "choice": "as it comes", "rows_per_s": rates})
        print(f"round {turn + 1}  {_shown(rates)}", file=sys.stderr, flush=True)
    return found


def _load(server: Server, rows: Sequence[list[Array]], expected: Sequence[Array], seconds: float) -> float:
    requests = [
        infer_request("encoder", {"input_ids": ids, "attention_mask": mask}, f"127.0.0.1:{server.port}")
        for ids, mask in rows
    ]
    result = client.measure(client.Job("127.0.0.1", server.port, requests, seconds, 1.0, server.pid))
    for answer, right in zip(result.last_answers, expected, strict=True):
        if not np.allclose(outputs(answer)["embedding"], right, 1e-3, 1e-4):
            raise client.LoadError("encoder: an answer is not what its row gives alone")
    return result.answered / result.elapsed_s


def _alone(rows: Sequence[list[Array]]) -> list[Array]:
    session = onnxruntime.InferenceSession(str(model_file("encoder")), providers=["CPUExecutionProvider"])
    return [session.run(None, {"input_ids": ids, "attention_mask": mask})[0] for ids, mask in rows]


# --- results ----------------------------------------------------------------------------------------------------------


def _shown(rates: Mapping[str, float]) -> str:
    return "  ".join(f"{variant}: {rate:,.0f}/s" for variant, rate in rates.items())


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Write medians and ranges; the ratio is the last column's variant over the best other one of its round."""
    names = list(dict.fromkeys(one["model"] for one in found))
    variants = list(found[0]["rows_per_s"])
    ours = "chosen" if "chosen" in variants else "as it comes"
    others = sorted(variant for variant in variants if variant != ours)
    lines = [
        f"| model | {' | '.join(f'{variant}, rows/s' for variant in (*others, ours))} | choices | over the best |",
        f"|---|{'---:|' * (len(variants))}---|---:|",
    ]
    for name in names:
        rounds = [one for one in found if one["model"] == name]
        cells = [_median([one["rows_per_s"][variant] for one in rounds], ",.0f") for variant in (*others, ours)]
        best = [one["rows_per_s"][ours] / max(one["rows_per_s"][other] for other in others) for one in rounds]
        choices = ", ".join(dict.fromkeys(one["choice"] for one in rounds))
        lines.append(f"| {name} | {' | '.join(cells)} | {choices} | {_median(best, '.2f')} |")
    return "\n".join(lines)


def _median(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def main() -> int:
    """Run all rounds, print the table and write the JSON file; 1 if anything could not be measured or was wrong."""
    parser = argparse.ArgumentParser(description="Compare the choice of instances and threads with those by hand.")
    parser.add_argument("--http", action="store_true", help="real servers and mixed lengths")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="measured, for each point (%(default)s)")
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="(%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    arguments = parser.parse_args()
    facts: dict[str, object] = machine.facts()
    try:
        if arguments.http:
            found = compare_served(arguments.rounds, arguments.seconds)
        else:
            found = [
                one
                for name in arguments.models
                for one in asyncio.run(compare(name, arguments.rounds, arguments.seconds))
            ]
    except (client.LoadError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = write_json("layouts", {**facts, "measurements": found}, arguments.results)
    print(table(found))
    print(f"\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
