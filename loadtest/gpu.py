"""Checks and measures the server on a GPU, with one command and no network.

    python loadtest/gpu.py

Builds the models, compares answers with the CPU's for every way to run them, then measures rows per second by batch
size: a bare loop of `session.run`, a bare loop of IOBinding with everything on the device, the engine in every way, and
the whole server over HTTP with image-sized bodies. The ways are the runtime's own copies, staged ones and CUDA graphs,
with one run at once and with two, when copies of the next batch overlap with the current one. It also says which of
them the server chooses.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.backends.base import ModelFile, Session
from batchserve.backends.inventory import cuda_device_names, cuda_driver
from batchserve.backends.onnx import OnnxBackend
from batchserve.backends.providers import full_name
from batchserve.config import ModelConfig
from batchserve.errors import ModelLoadError
from loadtest import client, layouts, machine
from loadtest.models import model_file, model_folder
from loadtest.report import RESULTS, write_json
from loadtest.server import Server
from loadtest.wire import infer_request

__all__ = ["main"]

Array = npt.NDArray[Any]

BATCHES = (1, 8, 32)
SECONDS = 2.0
TOLERANCE = 1e-2
"""Against the CPU, as a share of the largest answer: TF32 is on by default."""

MODELS = ("mlp-wide", "residual", "encoder")

WAYS: dict[str, dict[str, Any]] = {
    "own copies": {"staging": "off"},
    "staged": {"staging": "on"},
    "graphs": {"cuda_graphs": True},
}
"""What the engine is set to, by the way's name."""

PROVIDER = "cuda"


def config_of(way: str, rows: Sequence[int], instances: int) -> dict[str, Any]:
    """Give the settings of a way to run; graphs are captured for some sizes of batches."""
    sizes = {"preferred_batch_sizes": tuple(rows)} if way == "graphs" else {}
    return {"providers": (PROVIDER,), "instances": instances, **WAYS[way], **sizes}


def check(name: str) -> list[str]:
    """Say where answers differ from the CPU's, and which ways the model cannot be run in, and why."""
    file = ModelFile(name, 1, model_file(name))
    plain = OnnxBackend().load(file, ModelConfig(providers=("cpu",), instances=1))
    questions = [plain.sample(rows) for rows in (*BATCHES, 5)]
    expected = [plain.run(inputs, 1)[0] for inputs in questions]
    plain.close()
    wrong = []
    for way in WAYS:
        try:
            fast = OnnxBackend().load(file, ModelConfig(**config_of(way, BATCHES, 1)))
        except ModelLoadError as error:
            print(f"{name}, {way}: {error}")
            continue
        for inputs, right in zip(questions, expected, strict=True):
            worst = float(np.abs(fast.run(inputs, 1)[0] - right).max() / np.abs(right).max())
            if not worst <= TOLERANCE:
                wrong.append(f"{name}, {way}: {len(right)} rows differ by {worst:.2g} of the largest answer")
        fast.close()
    return wrong


def bare(session: Session, inputs: Sequence[Array]) -> float:
    """Run as the server does, copies included; rows per second."""
    rows, runs, start_s = len(inputs[0]), 0, time.perf_counter()
    while time.perf_counter() < start_s + SECONDS:
        session.run(inputs, 1)
        runs += 1
    return rows * runs / (time.perf_counter() - start_s)


def bound(name: str, inputs: Sequence[Array]) -> float:
    """Run with inputs and outputs that stay on the device; rows per second."""
    session = onnxruntime.InferenceSession(str(model_file(name)), providers=[full_name(PROVIDER)])
    binding = session.io_binding()
    for node, array in zip(session.get_inputs(), inputs, strict=True):
        binding.bind_ortvalue_input(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, PROVIDER, 0))
    for node in session.get_outputs():
        binding.bind_output(node.name, PROVIDER)
    session.run_with_iobinding(binding)
    rows, runs, start_s = len(inputs[0]), 0, time.perf_counter()
    while time.perf_counter() < start_s + SECONDS:
        session.run_with_iobinding(binding)
        runs += 1
    binding.synchronize_outputs()
    return rows * runs / (time.perf_counter() - start_s)


async def engine(name: str, rows: int, way: str, instances: int) -> float | None:
    """Saturate the engine without HTTP; rows per second, None if the model cannot be run in this way."""
    config = config_of(way, [rows], instances)
    with ThreadPoolExecutor(1) as executor:
        try:
            model = await layouts.load(name, executor, max_batch_size=rows, warmup_budget_s=2.0, **config)
        except ModelLoadError:  # `check` has said why
            return None
        # Texts of one length: what is compared runs whole batches.
        question = layouts.WORKLOADS[name](1)
        rate = await layouts.rows_per_s(model, question, SECONDS)
        model.start_drain(10.0)
        await model.drained()
        await model.close()
    return rate


async def chosen(name: str) -> dict[str, Any]:
    """Load a model as the server does, with nothing set but the provider, and say how it runs and why."""
    with ThreadPoolExecutor(1) as executor:
        model = await layouts.load(name, executor, providers=(PROVIDER,), warmup_budget_s=10.0)
        tried = {str(one.layout): {"rows_per_s": one.rows_per_s, "lone_s": one.lone_s} for one in model.layouts}
        found = {"instances": model.instances, "staging": model.session.facts.get("staging", ""), "tried": tried}
        model.start_drain(10.0)
        await model.drained()
        await model.close()
    return found


def measured(name: str, session: Session, rows: int) -> dict[str, float]:
    """Measure a model in every way at one size of batches; rows per second by the way's name."""
    inputs = [np.concatenate([one] * rows) for one in layouts.WORKLOADS[name](1)[0]]
    rates = {"bare run": bare(session, inputs), "bare IOBinding": bound(name, inputs)}
    for way in WAYS:
        for instances in (1,) if way == "graphs" else (1, 2):
            rate = asyncio.run(engine(name, rows, way, instances))
            if rate is not None:
                rates[f"engine, {way}, {instances} at once"] = rate
    return rates


def http() -> float:
    """Put 64 connections with image-sized bodies on the whole server; requests per second."""
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    with Server([model_folder("identity-image")], {"defaults.providers": PROVIDER}) as server:
        request = infer_request("identity-image", {"x": image}, f"127.0.0.1:{server.port}")
        result = client.measure(client.Job("127.0.0.1", server.port, [request] * 64, 5.0, 1.0, server.pid))
    return result.answered / result.elapsed_s


def main() -> int:
    """Check, measure, print and write the JSON file; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description="Check and measure on a GPU.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    arguments = parser.parse_args()
    devices = cuda_device_names()
    if not devices:
        print("error: no CUDA device is there; run `batchserve doctor`", file=sys.stderr)
        return 1
    if wrong := [problem for name in MODELS for problem in check(name)]:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    found: list[dict[str, Any]] = []
    choices: dict[str, Any] = {}
    for name in MODELS:
        config = ModelConfig(**config_of("own copies", [], 1))
        session = OnnxBackend().load(ModelFile(name, 1, model_file(name)), config)
        for rows in BATCHES:
            rates = measured(name, session, rows)
            found.append({"model": name, "rows": rows, "rows_per_s": rates})
            print(f"{name} x {rows}: " + "  ".join(f"{key} {rate:,.0f}/s" for key, rate in rates.items()), flush=True)
        session.close()
        choices[name] = asyncio.run(chosen(name))
        print(f"{name}: chosen {choices[name]['instances']} at once, staging {choices[name]['staging']}", flush=True)
    images = http()
    print(f"images over HTTP: {images:,.0f}/s")
    facts = {"devices": devices, "cuda": cuda_driver(), "machine": machine.describe(), "images_per_s": images}
    print(write_json("gpu", {**facts, "measurements": found, "chosen": choices}, arguments.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
