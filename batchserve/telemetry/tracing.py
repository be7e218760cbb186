"""Traces: which requests are recorded, and the spans of those that are.

A recorded request has a span of its own and one for its time in the queue; its batch has one, with the run inside. The
batch belongs to the trace of its first recorded request and links to all of them; the queue's span of each links to it.

Spans are built from times that are known anyway, once a request or a batch has ended, and are handed to another process
(`span_exporter.py`) as plain tuples. An OpenTelemetry span costs 40 us of Python to make, encode and send, twice what a
request costs here; that must not happen under this interpreter's lock.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Any

from batchserve.core.trace import Trace
from batchserve.engine.events import NullListener

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchserve.engine.events import BatchEnded
    from batchserve.engine.model import Model

__all__ = ["Span", "Tracing"]

Span = tuple[str, str, str, str, str, int, int, "Mapping[str, Any]", "Sequence[tuple[str, str]]", str]
"""Name, trace id, span id, parent's span id, kind (`server` or `internal`), start and end in nanoseconds since the
epoch, attributes, links as trace id and span id, and what went wrong or ""."""

_NEVER = 1 << 62


class Tracing(NullListener):
    """Decides which requests are recorded, and builds their spans. Event loop only.

    Args:
        ratio: Share of the requests without a caller's `traceparent` that are recorded, 0 to 1. With one the caller
            has decided.
        send: Takes one span; must not block.
        clock: Monotonic seconds; the clock of the engine's events.
        wall_clock: Nanoseconds since the epoch.
        dice: Makes ids and draws.
    """

    def __init__(
        self,
        ratio: float,
        send: Callable[[Span], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], int] = time.time_ns,
        dice: random.Random | None = None,
    ) -> None:
        self._ratio = ratio
        self._send = send
        self._clock = clock
        self._wall_clock = wall_clock
        # Seeded by the system, so that replicas make different ids; nobody need be unable to guess them.
        self._dice = dice or random.Random()  # noqa: S311
        self._until_next = self._gap()

    # --- which requests -------------------------------------------------------------------------------------------

    def sample(self, trace: Trace | None) -> Trace | None:
        """Decide whether a request is recorded; see `frontend.services.Tracer`."""
        if trace is not None and trace.trace_id:
            if trace.is_sampled:
                trace.span_id = self._span_id()
            return trace
        self._until_next -= 1  # one subtraction for each request that is not recorded
        if self._until_next:
            return trace
        self._until_next = self._gap()
        trace_id = f"{self._dice.getrandbits(128) or 1:032x}"
        request_id = trace_id if trace is None else trace.request_id
        return Trace(request_id, trace_id, "", is_sampled=True, span_id=self._span_id())

    def _gap(self) -> int:
        """Draw how many requests there are until the next one that is recorded, itself included."""
        if self._ratio >= 1:
            return 1
        if self._ratio <= 0:
            return _NEVER
        return 1 + int(math.log(1.0 - self._dice.random()) / math.log(1.0 - self._ratio))

    def _span_id(self) -> str:
        return f"{self._dice.getrandbits(64) or 1:016x}"

    # --- their spans ----------------------------------------------------------------------------------------------

    def request_ended(self, trace: Trace, model: str, version: str, status: int, start_s: float) -> None:
        """Record the request itself; see `frontend.services.Tracer`."""
        attributes = {
            "http.request.method": "POST",
            "http.route": "/v2/models/{model}/infer",
            "http.response.status_code": status,
            "batchserve.model": model,
            "batchserve.version": version,
            "batchserve.request_id": trace.request_id,
        }
        now = self._clock()
        at = self._wall_clock() - int(now * 1e9)
        problem = "" if status < 499 else "the client left" if status == 499 else f"answered {status}"
        self._send(
            (
                "POST /v2/models/{model}/infer",
                trace.trace_id,
                trace.span_id,
                trace.parent_id,
                "server",
                at + int(start_s * 1e9),
                at + int(now * 1e9),
                attributes,
                (),
                problem,
            )
        )

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        """Record a batch in which a recorded request was completed, and that request's time in the queue."""
        if not event.traced:
            return
        at = self._wall_clock() - int(self._clock() * 1e9)

        def ns(moment_s: float) -> int:
            return at + int(moment_s * 1e9)

        first = event.traced[0].trace
        batch_id = self._span_id()
        where = {"batchserve.model": model.name, "batchserve.version": str(model.version)}
        link = ((first.trace_id, batch_id),)
        for traced in event.traced:
            trace, rows = traced.trace, {**where, "batchserve.rows": traced.rows}
            begin, end = ns(traced.admitted_s), ns(event.start_s)
            self._send(
                ("queue", trace.trace_id, self._span_id(), trace.span_id, "internal", begin, end, rows, link, "")
            )
        about = {
            **where,
            "batchserve.batch.rows": event.rows,
            "batchserve.batch.requests": event.requests,
            "batchserve.batch.reason": event.reason,
            "batchserve.instance": event.instance,
        }
        links = [(traced.trace.trace_id, traced.trace.span_id) for traced in event.traced]
        begin, end = ns(event.start_s), ns(event.done_s)
        self._send(("batch", first.trace_id, batch_id, first.span_id, "internal", begin, end, about, links, ""))
        begin, end = ns(event.run_start_s), ns(event.run_end_s)
        self._send(("run", first.trace_id, self._span_id(), batch_id, "internal", begin, end, where, (), ""))
