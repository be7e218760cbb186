"""Checks and measures the server on a GPU, with one command and no network.

    python loadtest/gpu.py

Builds the models, compares answers with the CPU's, then measures rows per second by batch size: a bare loop of
`session.run`, a bare loop of IOBinding with everything on the device, the engine with one and with two runs at once
(copies of the next batch overlap with the current one), and the whole server over HTTP with image-sized bodies.
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
from batchserve.config import ModelConfig
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


def check(name: str) -> str:
    """Say how the GPU's answers differ from the CPU's; "" if they agree."""
    file = ModelFile(name, 1, model_file(name))
    fast = OnnxBackend().load(file, ModelConfig(providers=("cuda",), instances=1))
    plain = OnnxBackend().load(file, ModelConfig(providers=("cpu",), instances=1))
    try:
        for rows in BATCHES:
            inputs = plain.sample(rows)
            for got, expected in zip(fast.run(inputs, 1), plain.run(inputs, 1), strict=True):
                worst = float(np.abs(got - expected).max() / np.abs(expected).max())
                if not worst <= TOLERANCE:
                    return f"{name}: {rows} rows differ by {worst:.2g} of the largest answer"
    finally:
        fast.close()
        plain.close()
    return ""


def bare(session: Session, inputs: Sequence[Array]) -> float:
    """Run as the server does, copies included; rows per second."""
    rows, runs, start_s = len(inputs[0]), 0, time.perf_counter()
    while time.perf_counter() < start_s + SECONDS:
        session.run(inputs, 1)
        runs += 1
    return rows * runs / (time.perf_counter() - start_s)


def bound(name: str, inputs: Sequence[Array]) -> float:
    """Run with inputs and outputs that stay on the device; rows per second."""
    session = onnxruntime.InferenceSession(str(model_file(name)), providers=["CUDAExecutionProvider"])
    binding = session.io_binding()
    for node, array in zip(session.get_inputs(), inputs, strict=True):
        binding.bind_ortvalue_input(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for node in session.get_outputs():
        binding.bind_output(node.name, "cuda")
    session.run_with_iobinding(binding)
    rows, runs, start_s = len(inputs[0]), 0, time.perf_counter()
    while time.perf_counter() < start_s + SECONDS:
        session.run_with_iobinding(binding)
        runs += 1
    binding.synchronize_outputs()
    return rows * runs / (time.perf_counter() - start_s)


async def engine(name: str, rows: int, instances: int) -> float:
    """Saturate the engine without HTTP; rows per second."""
    with ThreadPoolExecutor(1) as executor:
        model = await layouts.load(
            name, executor, providers=("cuda",), instances=instances, max_batch_size=rows, warmup_budget_s=2.0
        )
        # Texts of one length: what is compared runs whole batches.
        question = layouts.WORKLOADS[name](1)
        rate = await layouts.rows_per_s(model, question, SECONDS)
        model.start_drain(10.0)
        await model.drained()
        await model.close()
    return rate


def http() -> float:
    """Put 64 connections with image-sized bodies on the whole server; requests per second."""
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    with Server([model_folder("identity-image")], {"defaults.providers": "cuda"}) as server:
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
    if wrong := list(filter(None, map(check, MODELS))):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    found: list[dict[str, Any]] = []
    for name in MODELS:
        session = OnnxBackend().load(
            ModelFile(name, 1, model_file(name)), ModelConfig(providers=("cuda",), instances=1)
        )
        for rows in BATCHES:
            inputs = [np.concatenate([one] * rows) for one in layouts.WORKLOADS[name](1)[0]]
            rates = {
                "bare run": bare(session, inputs),
                "bare IOBinding": bound(name, inputs),
                "engine, 1 at once": asyncio.run(engine(name, rows, 1)),
                "engine, 2 at once": asyncio.run(engine(name, rows, 2)),
            }
            found.append({"model": name, "rows": rows, "rows_per_s": rates})
            print(f"{name} x {rows}: " + "  ".join(f"{key} {rate:,.0f}/s" for key, rate in rates.items()), flush=True)
        session.close()
    images = http()
    print(f"images over HTTP: {images:,.0f}/s")
    facts = {"devices": devices, "cuda": cuda_driver(), "machine": machine.describe(), "images_per_s": images}
    print(write_json("gpu", {**facts, "measurements": found}, arguments.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
