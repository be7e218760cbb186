"""Loads and unloads a model 200 times: its memory must come back.

    python loadtest/unloading.py

Each cycle loads a perceptron of 21 MB through the engine, layouts compared and sizes warmed up as ever, answers a
request, and unloads it. Resident memory is read after each; what it grew by after the tenth cycle is the result.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.core.request import Request
from batchserve.core.shapes import shape_key
from loadtest import layouts, machine, procfs
from loadtest.report import RESULTS, write_json

__all__ = ["MOST_GROWTH", "SETTLED", "cycles", "main"]

MODEL = "mlp-medium"
SETTLED = 10
"""Cycles after which memory should stand still: the runtime and the allocator have what they want by then."""
MOST_GROWTH = 0.02


async def cycles(count: int, warmup_budget_s: float) -> list[int]:
    """Load, ask and unload so many times; return the resident memory after each, in bytes."""
    row = layouts.WORKLOADS["mlp-wide"](1)[0]
    sizes = []
    with ThreadPoolExecutor(1) as executor:
        for _ in range(count):
            model = await layouts.load(MODEL, executor, warmup_budget_s=warmup_budget_s)
            key = shape_key(row, is_batching=model.signature.is_batching)
            await model.infer(Request(tuple(row), 1, key, 1, time.monotonic()))
            model.start_drain(10.0)
            await model.drained()
            await model.close()
            del model
            sizes.append(procfs.resident_bytes([os.getpid()]))
    return sizes


def main() -> int:
    """Run the cycles, print what memory did and write the JSON file; 1 if it grew."""
    parser = argparse.ArgumentParser(description="Load and unload a model many times and watch the memory.")
    parser.add_argument("--cycles", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--warmup-budget", type=float, default=0.3, help="seconds (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    arguments = parser.parse_args()
    sizes = asyncio.run(cycles(arguments.cycles, arguments.warmup_budget))
    settled = sizes[min(SETTLED, len(sizes)) - 1]
    growth = sizes[-1] / settled - 1
    print(f"resident after {SETTLED} cycles {settled / 1e6:.1f} MB, after {len(sizes)} {sizes[-1] / 1e6:.1f} MB")
    print(
        f"grew by {growth:.2%}, of {MOST_GROWTH:.0%} allowed; the most between was {max(sizes[SETTLED:]) / 1e6:.1f} MB"
    )
    print(write_json("unloading", {"machine": machine.describe(), "resident_bytes": sizes}, arguments.results))
    return growth > MOST_GROWTH


if __name__ == "__main__":
    sys.exit(main())
