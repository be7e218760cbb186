"""Under which names a request is known outside: its own id, and its place in a trace (W3C Trace Context)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Trace"]


@dataclass(slots=True)
class Trace:
    """What a request is called. Most requests have none of it.

    Attributes:
        request_id: For answers and log lines: what the caller calls it, else its trace id.
        trace_id: 32 hexadecimal digits, "" if it is part of no trace.
        parent_id: The caller's span, 16 hexadecimal digits, "" if there is none.
        is_sampled: True if the trace is recorded, here or by the caller.
        span_id: The request's own span, 16 hexadecimal digits; "" unless it is recorded here.
    """

    request_id: str
    trace_id: str = ""
    parent_id: str = ""
    is_sampled: bool = False
    span_id: str = ""
