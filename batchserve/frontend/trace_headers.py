"""`traceparent` and `X-Request-Id`: read from a request, cut out of its head, and written on its answer.

Each request has others, so a head that carries them would be a new one each time. They are cut out before the head is
looked up; what is left is the same again and again.
"""

from __future__ import annotations

import re
from itertools import count
from secrets import token_hex
from typing import TYPE_CHECKING

from batchserve.core.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["REQUEST_ID", "cut_trace", "names", "new_request_id", "read_trace", "request_id_line"]

REQUEST_ID = "X-Request-Id"

MOST_CUT = 8
"""Lines cut out of one head; a head with more is read as it is."""

_LINES = re.compile(
    rb"\r\n(traceparent|tracestate|baggage|x-request-id):[ \t]*([!-~](?:[ -~]*[!-~])?)[ \t]*(?=\r\n)", re.IGNORECASE
)
"""Whole header lines of plain visible characters: nothing that a check of the whole head would refuse."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_IDENTIFIER = re.compile(r"[!-~]{1,128}")

_process = token_hex(8)
_numbers = count(1)


def new_request_id() -> str:
    """Make an id for a request that has none: 32 hexadecimal digits, the first half of them this process's."""
    return f"{_process}{next(_numbers):016x}"


def request_id_line(request_id: str) -> bytes:
    """Write the answer's header line."""
    return b"X-Request-Id: %b\r\n" % request_id.encode("ascii")


def names(trace: Trace | None) -> dict[str, str]:
    """Return the fields that say in a log line which request it is about."""
    if trace is None:
        return {}
    if not trace.trace_id:
        return {"request_id": trace.request_id}
    return {"request_id": trace.request_id, "trace_id": trace.trace_id}


def cut_trace(raw: bytes) -> tuple[bytes, Trace | None]:
    """Take the lines of tracing out of a head.

    Returns:
        The head without them (the same object if there are none), and what they say.
    """
    found = _LINES.findall(raw)
    if not found or len(found) > MOST_CUT:
        return raw, None
    values: dict[bytes, list[str]] = {}
    for name, value in found:
        values.setdefault(name.lower(), []).append(value.decode("ascii"))
    return _LINES.sub(b"", raw), read_trace(values.get(b"traceparent", ()), values.get(b"x-request-id", ()))


def read_trace(parents: Sequence[str], identifiers: Sequence[str]) -> Trace | None:
    """Read what a request says of itself; what is malformed or said twice counts as not said (W3C Trace Context 3.2).

    Args:
        parents: Values of all `traceparent` headers.
        identifiers: Values of all `X-Request-Id` headers.
    """
    trace_id = parent_id = request_id = ""
    is_sampled = False
    if len(parents) == 1 and (parent := _PARENT.fullmatch(parents[0].strip())) is not None:
        version, trace, span, flags, more = parent.groups()
        if version != "ff" and not (version == "00" and more) and trace.strip("0") and span.strip("0"):
            trace_id, parent_id, is_sampled = trace, span, bool(int(flags, 16) & 1)
    if len(identifiers) == 1 and _IDENTIFIER.fullmatch(identifiers[0].strip()):
        request_id = identifiers[0].strip()
    if not trace_id and not request_id:
        return None
    return Trace(request_id or trace_id, trace_id, parent_id, is_sampled)
