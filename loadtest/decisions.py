"""What deciding costs: microseconds of the core for each request, by the size of the batches.

    python loadtest/decisions.py

Feeds the rules alone, without runs and without a server: requests arrive, a batch is decided on, and it ends; single
rows of one shape under a latency target with shedding, so that every rule for admission is asked. A few seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from batchserve.core.cost import CostModel, size_starts
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy
from batchserve.core.request import Request
from loadtest import machine
from loadtest.report import RESULTS, write_json

__all__ = ["main"]

SIZES = (1, 2, 4, 8, 16, 32)
LIMITS = Limits(
    max_batch_size=max(SIZES),
    timeout_s=1.0,
    max_queue_size=1000,
    priority_levels=3,
    slots=2,
    latency_target_s=0.02,
    shed=True,
)
STEPS = ("arriving", "deciding", "ending")


def main() -> int:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description="Measure what deciding costs.")
    parser.add_argument("--batches", type=int, default=8000, help="for each size (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result (%(default)s)")
    arguments = parser.parse_args()
    facts = machine.facts()
    rows = [_measure(size, arguments.batches) for size in SIZES]
    print("Microseconds of the core a request, medians:\n")
    print("| rows in a batch | " + " | ".join(STEPS) + " | together (a quarter below, above) |")
    print("|---:|" + "---:|" * (len(STEPS) + 1))
    for row in rows:
        steps = " | ".join(f"{row[step]:.2f}" for step in STEPS)
        print(f"| {row['rows']} | {steps} | {row['together']:.2f} ({row['quarter']:.2f}-{row['three_quarters']:.2f}) |")
    path = write_json("decisions", facts | {"batches": arguments.batches, "sizes": rows}, arguments.results)
    print("", path, sep="\n")
    return 0


def _measure(size: int, batches: int) -> dict[str, float]:
    """Return the medians for batches of one size, in microseconds a request."""
    policy = Policy("m", LIMITS, CostModel([(rows, _run_s(rows)) for rows in size_starts(max(SIZES))], 1.0))
    inputs = (np.zeros((1, 64), np.float32),)
    times = np.array([_one_batch(policy, inputs, size, number) for number in range(batches)]) * 1e6 / size
    quarter, together, three_quarters = np.percentile(times.sum(axis=1), (25, 50, 75))
    steps = dict(zip(STEPS, np.median(times, axis=0).tolist(), strict=True))
    return {"rows": size, "together": together, "quarter": quarter, "three_quarters": three_quarters, **steps}


def _one_batch(policy: Policy, inputs: tuple[np.ndarray, ...], size: int, number: int) -> tuple[float, float, float]:
    """Let one batch through; returns the seconds of its three steps."""
    now = time.monotonic()
    requests = [Request(inputs, 1, (), 1, now, None, 0, inputs[0].nbytes) for _ in range(size)]
    start = time.perf_counter()
    for request in requests:
        policy.arrive(request, now)
    arrived = time.perf_counter()
    decision = policy.decide(now)
    decided = time.perf_counter()
    (batch,) = decision.batches
    assert batch.rows == size, f"{batch.rows} of {size} rows were cut"
    now, scatter = time.monotonic(), 0.9 + 0.02 * (number * 7 % 11)  # runs are never the same twice
    resumed = time.perf_counter()
    policy.finish(batch, now, ok=True, took_s=_run_s(size) * scatter, overhead_s=1e-5)
    ended = time.perf_counter()
    for entry in batch.entries:
        entry.ticket.entries = ()  # as the engine does, lest they wait for the garbage collector
    return arrived - start, decided - arrived, ended - resumed


def _run_s(rows: int) -> float:
    return (10 + 1.5 * rows) * 1e-6


if __name__ == "__main__":
    sys.exit(main())
