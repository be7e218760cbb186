"""What execution costs: the engine over a bare loop, a worker process over a thread, and a swap under load.

    python loadtest/execution.py path         # the saturated engine against a tight loop of the runtime's own runs
    python loadtest/execution.py isolation    # one run in a worker process against one in this process
    python loadtest/execution.py swap         # open-loop latency before, during and after a build and its swap

No HTTP is in any of them. docs/performance.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.backends.base import ModelFile, Session
from batchserve.backends.isolated import IsolatingBackend
from batchserve.backends.onnx import OnnxBackend
from batchserve.backends.providers import full_name
from batchserve.backends.swapping import SwappingBackend, SwappingSession
from batchserve.config import ModelConfig
from batchserve.core.request import Request
from batchserve.core.shapes import shape_key
from batchserve.engine.loading import load_model
from batchserve.engine.model import Model
from batchserve.errors import RequestError
from loadtest import layouts, machine
from loadtest.models import model_file
from loadtest.report import RESULTS, write_json
from loadtest.scheduling_real import MODELS

__all__ = ["main"]

Array = npt.NDArray[Any]

BUILD_S = 3.0

PATHS: dict[str, tuple[int, ...]] = {"encoder": (1, 8, 32), "resnet50": (1, 4, 16), "mlp-wide": (1, 8, 32)}
"""Sizes of a run, by model."""
PATH_S = 3.0


# --- the engine over a bare loop --------------------------------------------------------------------------------------


async def path(rounds: int) -> list[dict[str, Any]]:
    """Saturate the engine with runs of one size, in turns with a loop that does nothing but run; rows per second.

    Both have one run at a time on all cores. The loop's session is made as a script would make it, by defaults.
    """
    found = []
    with ThreadPoolExecutor(1) as executor:
        for name, sizes in PATHS.items():
            bare = onnxruntime.InferenceSession(str(model_file(name)), providers=["CPUExecutionProvider"])
            for size in sizes:
                config = {"instances": 1, "intra_op_threads": layouts.CORES, "max_batch_size": size}
                model = await layouts.load(name, executor, warmup_budget_s=1.0, **config)
                batch = MODELS[name].inputs(size)
                rows = [[array[at : at + 1] for array in batch.values()] for at in range(size)]
                pairs = []
                for _ in range(rounds):
                    raw = _bare_rows_per_s(bare, batch, size)
                    pairs.append((raw, await layouts.rows_per_s(model, rows, PATH_S)))
                await _leave(model)
                raw, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
                ratios = [ours / raw for raw, ours in pairs]
                found.append(
                    {"model": name, "rows": size, "bare_per_s": raw, "engine_per_s": ours, "engine_over_bare": ratios}
                )
                print(f"{name} x {size}: bare {raw:,.0f}/s  engine {ours:,.0f}/s  {statistics.median(ratios):.3f}")
    return found


def _bare_rows_per_s(session: Any, batch: Mapping[str, Array], size: int) -> float:
    runs, start_s = 0, time.perf_counter()
    while time.perf_counter() < start_s + PATH_S:
        session.run(None, batch)
        runs += 1
    return size * runs / (time.perf_counter() - start_s)


# --- a worker process over a thread -----------------------------------------------------------------------------------


def isolation(rounds: int, runs: int) -> list[dict[str, Any]]:
    """Time single runs of three models inside and in a worker, in turns; medians in microseconds."""
    found = []
    for name, rows in (("mlp-small", 1), ("mlp-small", 32), ("identity-image", 1), ("encoder", 1)):
        file = ModelFile(name, 1, model_file(name))
        inside = OnnxBackend().load(file, ModelConfig(instances=1, intra_op_threads=1))
        apart = IsolatingBackend(OnnxBackend()).load(
            file, ModelConfig(isolation="process", instances=1, intra_op_threads=1)
        )
        inputs = inside.sample(rows)
        count = runs if name != "encoder" else runs // 10
        pairs = [(_median_us(inside, inputs, count), _median_us(apart, inputs, count)) for _ in range(rounds)]
        here, there = (statistics.median(column) for column in zip(*pairs, strict=True))
        added = [other - one for one, other in pairs]
        found.append({"model": name, "rows": rows, "inside_us": here, "apart_us": there, "added_us": added})
        print(
            f"{name} x {rows}: inside {here:,.0f} us, apart {there:,.0f} us, added {statistics.median(added):,.0f} us "
            f"({min(added):,.0f}-{max(added):,.0f})",
            flush=True,
        )
        inside.close()
        apart.close()
    return found


def _median_us(session: Session, inputs: Sequence[Array], runs: int) -> float:
    mask = (1 << len(session.outputs)) - 1
    times = []
    for _ in range(runs):
        start_s = time.perf_counter()
        session.run(inputs, mask)
        times.append(time.perf_counter() - start_s)
    return statistics.median(times) * 1e6


# --- a swap under load ------------------------------------------------------------------------------------------------


class _Slow:
    """Opens any provider but the CPU as the CPU's, after a build that waits or computes.

    Args:
        is_computing: True if the build keeps a core busy.

    Attributes:
        may_build: The build begins when it is set.
    """

    def __init__(self, *, is_computing: bool) -> None:
        self._inner = OnnxBackend()
        self._is_computing = is_computing
        self.may_build = threading.Event()

    def load(self, file: ModelFile, config: ModelConfig) -> Session:
        if config.providers[0] == "cpu":
            return self._inner.load(file, config)
        self.may_build.wait()
        end_s = time.monotonic() + BUILD_S
        weights = np.ones((256, 256), np.float32)
        while time.monotonic() < end_s:
            if self._is_computing:
                weights = np.tanh(weights @ weights)
            else:
                time.sleep(0.05)  # the build waits
        plain = ModelConfig(providers=("cpu",), intra_op_threads=config.intra_op_threads, instances=1)
        session = self._inner.load(file, plain)
        session.providers = (full_name(config.providers[0]), *session.providers)
        return session


async def swap(rounds: int, *, is_computing: bool) -> list[dict[str, Any]]:
    """Load a model openly at 60 % of its capacity before, during and after a build; p99 of each phase."""
    found = []
    row = layouts.WORKLOADS["mlp-wide"](1)[0]
    with ThreadPoolExecutor(1) as executor:
        for turn in range(rounds):
            backend = _Slow(is_computing=is_computing)
            config = ModelConfig(
                providers=("dnnl", "cpu"), build="background", instances=2, intra_op_threads=1, warmup_budget_s=1.0
            )
            file = ModelFile("mlp-wide", 1, model_file("mlp-wide"))
            model = await load_model(file, config, SwappingBackend(backend), executor=executor)
            capacity = await layouts.rows_per_s(model, [row], 1.0)
            session = model.session
            assert isinstance(session, SwappingSession)
            lag, failed = await _open_loop(model, row, 0.6 * capacity, backend, session)
            found.append({"round": turn, "capacity": capacity, "p99_ms": lag, "failed": failed})
            print(f"capacity {capacity:,.0f}/s  {lag}  failed {failed}  {session.build}", flush=True)
            await _leave(model)
    return found


async def _open_loop(
    model: Model, row: list[Array], rate: float, backend: _Slow, session: SwappingSession
) -> tuple[dict[str, float], int]:
    """Send at random moments: a while before the build, during it, and a while after its swap."""
    random, loop = np.random.default_rng(0), asyncio.get_running_loop()
    phases: dict[str, list[float]] = {"before": [], "during": [], "after": []}
    failed = 0
    every = (1 << len(model.signature.outputs)) - 1
    key = shape_key(row, is_batching=model.signature.is_batching)
    phase, begin_s, end_s = "before", time.monotonic() + BUILD_S, float("inf")
    due_s = time.monotonic()
    pending: set[asyncio.Future[None]] = set()
    while time.monotonic() < end_s:
        now = time.monotonic()
        if phase == "before" and now > begin_s:
            phase = "during"
            backend.may_build.set()
        elif phase == "during" and session.wait(0):
            phase, end_s = "after", now + BUILD_S
        while due_s <= now:
            done = loop.create_future()
            pending.add(done)

            def answered(result: object, sent_s: float = due_s, phase: str = phase, done: Any = done) -> None:
                nonlocal failed
                failed += isinstance(result, RequestError)
                phases[phase].append(time.monotonic() - sent_s)
                pending.discard(done)
                done.set_result(None)

            try:
                model.submit(Request(tuple(row), 1, key, every, time.monotonic()), answered)
            except RequestError as error:  # refused: the queue is full
                answered(error)
            due_s += random.exponential(1 / rate)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    await asyncio.gather(*pending)
    return {name: round(float(np.percentile(times, 99)) * 1e3, 2) for name, times in phases.items()}, failed


async def _leave(model: Model) -> None:
    model.start_drain(10.0)
    await model.drained()
    await model.close()


def main() -> int:
    """Run one comparison, print its lines and write the JSON file."""
    parser = argparse.ArgumentParser(description="Measure what execution costs.")
    parser.add_argument("what", choices=["path", "isolation", "swap", "swap-computing"])
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    arguments = parser.parse_args()
    facts = machine.facts()
    if arguments.what == "path":
        found = asyncio.run(path(arguments.rounds))
    elif arguments.what == "isolation":
        found = isolation(arguments.rounds, 500)
    else:
        found = asyncio.run(swap(arguments.rounds, is_computing=arguments.what == "swap-computing"))
    parts = {"what": arguments.what, "measurements": found}
    print(write_json("execution", facts | parts, arguments.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
