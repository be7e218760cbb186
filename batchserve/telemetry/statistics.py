"""The numbers of `/v2/models/…/stats` (protocol.md section 9)."""

from __future__ import annotations

import time
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from batchserve.engine.events import NullListener

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchserve.core.tensors import Array
    from batchserve.engine.events import BatchEnded, RequestsEnded
    from batchserve.engine.model import Model

__all__ = ["Statistics"]

FAILURES = frozenset({"failed", "expired", "refused"})
"""Outcomes that count as `fail`: the request was admitted and the server gave no answer. A client that left is no
failure of the server's, and what was turned away at the door never reached the model."""

SETTLE_NUMBERS = 4096
"""Numbers are kept as they came until there are so many, as in `durations`; the events themselves are not kept."""

_NUMBERS = 6
"""Of each batch: start, call and return of the run, end, rows, requests."""


class Statistics(NullListener):
    """Statistics of every version, since the server started. Event loop only.

    Invariants, at every moment: the counts of `success`, `queue` and the three computes are equal, and `success` is not
    less than the others' ns together. They hold because one event changes all of them, and because `success` is the sum
    of its phases: decoding, queueing, gathering, the run and splitting, each at least 0.

    A version's numbers go on across reloads and outlive an unload, as a whole: no difference of two readings is ever
    negative.

    Args:
        wall_clock: Seconds since the epoch.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._versions: dict[tuple[str, int], _Version] = {}

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        """Charge each request of a batch with the batch's full durations. A failed execution changes nothing.

        Its numbers are kept and summed up many at once, at the latest when somebody reads.
        """
        if event.ok:
            version = self._of(model)
            version.last_s = self._wall_clock()
            version.add(event)

    def requests_ended(self, model: Model, event: RequestsEnded) -> None:
        """Count requests that were admitted and got no answer."""
        if event.outcome in FAILURES:
            self._of(model).add_failures(event)

    def entry(self, model: Model) -> dict[str, Any]:
        """Return the entry of one version for `model_stats`, of plain JSON types."""
        version = self._versions.get((model.name, model.version)) or _Version()
        return {"name": model.name, "version": str(model.version), **version.read()}

    def _of(self, model: Model) -> _Version:
        key = (model.name, model.version)
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = _Version()
        return version


class _Version:
    """The sums of one version. All times are whole nanoseconds, but for `last_s`."""

    __slots__ = (
        "admissions_s",
        "arrivals_s",
        "decode",
        "executions",
        "fail",
        "failures",
        "infer",
        "input",
        "last_s",
        "numbers",
        "output",
        "queue",
        "rows",
        "sizes",
        "successes",
    )

    def __init__(self) -> None:
        self.last_s = 0.0
        self.rows = self.executions = self.successes = self.failures = 0
        self.decode = self.queue = self.input = self.infer = self.output = self.fail = 0
        self.sizes: dict[int, tuple[int, int, int, int]] = {}  # by rows: executions, input, infer, output
        self.numbers: list[float] = []
        self.arrivals_s: list[float] = []
        self.admissions_s: list[float] = []

    def add(self, event: BatchEnded) -> None:
        """Keep the times of a batch."""
        arrivals_s, numbers = event.arrivals_s, self.numbers
        numbers += (event.start_s, event.run_start_s, event.run_end_s, event.done_s, event.rows, len(arrivals_s))
        self.arrivals_s += arrivals_s
        self.admissions_s += event.admissions_s
        self.rows += event.completed_rows
        if len(numbers) + len(self.arrivals_s) >= SETTLE_NUMBERS:
            self.settle()

    def settle(self) -> None:
        """Sum up the batches that were kept."""
        if not self.numbers:
            return
        table = np.array(self.numbers).reshape(-1, _NUMBERS)
        arrivals_s, admissions_s = np.array(self.arrivals_s), np.array(self.admissions_s)
        self.numbers, self.arrivals_s, self.admissions_s = [], [], []
        moments, requests = table[:, :4], table[:, 5].astype(np.int64)
        phases = _ns(np.diff(moments))  # gathering, the run, splitting
        self.executions += len(table)
        self.successes += len(arrivals_s)
        self.decode += int(_ns(admissions_s - arrivals_s).sum())
        self.queue += int(_ns(moments[:, 0].repeat(requests) - admissions_s).sum())
        gathered, ran, split = requests @ phases
        self.input += int(gathered)
        self.infer += int(ran)
        self.output += int(split)
        rows, kinds = np.unique(table[:, 4].astype(np.int64), return_inverse=True)
        for kind, size in enumerate(rows.tolist()):
            of_size = phases[kinds == kind]
            added = (len(of_size), *of_size.sum(axis=0).tolist())
            self.sizes[size] = tuple(map(add, self.sizes.get(size, (0, 0, 0, 0)), added))

    def add_failures(self, event: RequestsEnded) -> None:
        self.failures += len(event.arrivals_s)
        self.fail += int(_ns(event.ended_s - np.array(event.arrivals_s)).sum())

    def read(self) -> dict[str, Any]:
        self.settle()
        count = self.successes
        success = self.decode + self.queue + self.input + self.infer + self.output
        return {
            "last_inference": int(self.last_s * 1e3),
            "inference_count": self.rows,
            "execution_count": self.executions,
            "inference_stats": {
                "success": _duration(count, success),
                "fail": _duration(self.failures, self.fail),
                "queue": _duration(count, self.queue),
                "compute_input": _duration(count, self.input),
                "compute_infer": _duration(count, self.infer),
                "compute_output": _duration(count, self.output),
                "cache_hit": _duration(0, 0),
                "cache_miss": _duration(0, 0),
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": _duration(executions, gathered),
                    "compute_infer": _duration(executions, ran),
                    "compute_output": _duration(executions, split),
                }
                for rows, (executions, gathered, ran, split) in sorted(self.sizes.items())
            ],
            "memory_usage": [],
        }


def _ns(seconds: Array) -> Array:
    """Turn seconds into whole nanoseconds, none below 0: rounding must not make a sum go back."""
    return (np.maximum(seconds, 0.0) * 1e9).astype(np.int64)


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
