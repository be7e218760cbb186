"""The numbers of `/v2/models/…/stats` (protocol.md section 9)."""

from __future__ import annotations

import time
from operator import sub
from typing import TYPE_CHECKING, Any

from batchserve.engine.events import NullListener

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchserve.engine.events import BatchEnded, RequestsEnded
    from batchserve.engine.model import Model

__all__ = ["Statistics"]

FAILURES = frozenset({"failed", "expired", "refused"})
"""Outcomes that count as `fail`: the request was admitted and the server gave no answer. A client that left is no
failure of the server's, and what was turned away at the door never reached the model."""


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
        """Charge each request of a batch with the batch's full durations. A failed execution changes nothing."""
        if event.ok:
            self._of(model).add_batch(event, int(self._wall_clock() * 1e3))

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
    """The sums of one version. All times are whole nanoseconds."""

    __slots__ = (
        "decode",
        "executions",
        "fail",
        "failures",
        "infer",
        "input",
        "last_ms",
        "output",
        "queue",
        "rows",
        "sizes",
        "successes",
    )

    def __init__(self) -> None:
        self.last_ms = self.rows = self.executions = self.successes = self.failures = 0
        self.decode = self.queue = self.input = self.infer = self.output = self.fail = 0
        self.sizes: dict[int, list[int]] = {}  # by rows: executions, input, infer, output

    def add_batch(self, event: BatchEnded, wall_ms: int) -> None:
        start_s, arrivals_s, admissions_s = event.start_s, event.arrivals_s, event.admissions_s
        gathered = _ns(event.run_start_s - start_s)
        ran = _ns(event.run_end_s - event.run_start_s)
        split = _ns(event.done_s - event.run_end_s)
        requests = len(arrivals_s)
        self.last_ms = wall_ms
        self.executions += 1
        self.rows += event.completed_rows
        self.successes += requests
        self.decode += _ns(sum(map(sub, admissions_s, arrivals_s)))
        self.queue += _ns(sum([start_s - admitted_s for admitted_s in admissions_s]))
        self.input += gathered * requests
        self.infer += ran * requests
        self.output += split * requests
        size = self.sizes.get(event.rows)
        if size is None:
            size = self.sizes[event.rows] = [0, 0, 0, 0]
        size[0] += 1
        size[1] += gathered
        size[2] += ran
        size[3] += split

    def add_failures(self, event: RequestsEnded) -> None:
        self.failures += len(event.arrivals_s)
        self.fail += _ns(sum([event.ended_s - arrival_s for arrival_s in event.arrivals_s]))

    def read(self) -> dict[str, Any]:
        count = self.successes
        success = self.decode + self.queue + self.input + self.infer + self.output
        return {
            "last_inference": self.last_ms,
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


def _ns(seconds: float) -> int:
    """Return whole nanoseconds, never below 0: rounding must not make a sum go back."""
    return max(0, int(seconds * 1e9))


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
