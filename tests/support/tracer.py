"""A tracer for tests of the frontend."""

from __future__ import annotations

from typing import Any

from batchserve.core.trace import Trace

__all__ = ["Recorder"]


class Recorder:
    """A tracer that records every request, and what it is told."""

    def __init__(self) -> None:
        self.ended: list[tuple[Any, ...]] = []

    def sample(self, trace: Trace | None) -> Trace | None:
        trace = trace or Trace("new", "f" * 32, is_sampled=True)
        trace.span_id = "1" * 16
        return trace

    def request_ended(self, trace: Trace, model: str, version: str, status: int, start_s: float) -> None:
        self.ended.append((trace.request_id, model, version, status))
