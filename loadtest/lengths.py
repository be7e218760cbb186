"""Requests of different lengths: cutting at every change of length, fixed buckets, and padded windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from batchserve.core.cost import CostModel
from batchserve.core.curves import Run, by_elements
from batchserve.core.limits import Limits
from batchserve.core.padding import PadRule
from batchserve.core.policy import Policy
from batchserve.core.record import Record
from batchserve.core.simulator import Member, Scheduled, simulate
from batchserve.core.traffic import Traffic, poisson
from loadtest.policies.fixed import Greedy

__all__ = ["CURVE", "MIXES", "WAYS", "Mix", "Way", "carried", "member", "under"]

ROWS = 32
CURVE = by_elements(0.004, 1e-6)
"""4 ms for the launch, 1 µs for each token: 32 rows of length 68 cost 1.5 times as much as one."""

TARGET_S = 0.04
MULTIPLE = 8
SEEDS = (1, 2)
STEP = 0.01

PAD = PadRule(axes=((1,),), values=(0,), mask=0, outputs=((1,),), multiple=MULTIPLE)


@dataclass(frozen=True)
class Mix:
    """How long requests are.

    Attributes:
        name: In words.
        lengths: Every length is as likely as it is frequent here.
    """

    name: str
    lengths: tuple[int, ...]

    @property
    def limit(self) -> float:
        """Rows per second in full batches of equal lengths, without padding and without a pause."""
        per_row = np.mean([CURVE(Run(ROWS, length)) / ROWS for length in self.lengths])
        return float(1 / per_row)


def _log_normal() -> tuple[int, ...]:
    drawn = np.random.default_rng(0).lognormal(np.log(48), 0.8, 4000)
    return tuple(np.clip(np.round(drawn), 1, 512).astype(int).tolist())


MIXES = {
    "uniform": Mix("uniform from 8 to 128", tuple(range(8, 129))),
    "log-normal": Mix("log-normal, median 48, sigma 0.8", _log_normal()),
}


def _points(length: int) -> list[tuple[float, float]]:
    return [(rows, CURVE(Run(rows, length))) for rows in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)]


def _limits(**more: object) -> Limits:
    settings = {
        "max_batch_size": ROWS,
        "timeout_s": 60.0,
        "max_queue_size": 1024,
        "latency_target_s": TARGET_S,
        "shed": True,
    }
    return Limits(**(settings | more))  # type: ignore[arg-type]


def _by_rows() -> Policy:
    return Policy("m", _limits(), CostModel(_points(68), TARGET_S))


def _windows() -> Policy:
    points = [(rows * 68, seconds) for rows, seconds in _points(68)]
    return Policy("m", _limits(pad=PAD), CostModel(points, TARGET_S))


@dataclass(frozen=True)
class Way:
    """One way to deal with lengths.

    Attributes:
        name: In words.
        make: Makes its rules.
        key_of: Which requests may share a batch, by length.
    """

    name: str
    make: Callable[[], Scheduled]
    key_of: Callable[[int], int]


WAYS = {
    "cut": Way("cut at every change of length", lambda: Greedy(max_batch_size=ROWS), lambda length: length),
    "queues": Way("a queue for each length", _by_rows, lambda length: length),
    "buckets": Way("buckets that double in length", _by_rows, lambda length: max(3, (length - 1).bit_length())),
    "windows": Way("padded windows (`pad`)", _windows, lambda length: 0),
}


def member(way: Way, mix: Mix, rate: float, requests: int, seed: int) -> Member:
    """Put a way under Poisson traffic of a mix."""
    traffic: Traffic = poisson(rate, requests / rate, seed).with_lengths(mix.lengths, seed + 100)
    return Member(way.make(), CURVE, traffic, key_of=way.key_of, multiple=MULTIPLE)


def under(way: Way, mix: Mix, load: float, requests: int = 15_000, seed: int = 1) -> Record:
    """Run a way at a share of the limit, and leave the first tenth of the time out."""
    duration_s = requests / (load * mix.limit)
    [record] = simulate([member(way, mix, load * mix.limit, requests, seed)], seed=seed)
    return record.between(0.1 * duration_s, duration_s)


def carried(way: Way, mix: Mix, requests: int = 15_000, seeds: tuple[int, ...] = SEEDS) -> float:
    """Find the largest load at which 99 % are answered within the target, as a share of the limit."""
    low, high = 0, round(1.2 / STEP)
    while high - low > 1:
        middle = (low + high) // 2
        shares = [under(way, mix, middle * STEP, requests, seed).within(TARGET_S) for seed in seeds]
        low, high = (middle, high) if sum(shares) / len(shares) >= 0.99 else (low, middle)
    return low * STEP
