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

_NAMES = (b"\r\ntraceparent:", b"\r\nx-request-id:", b"\r\ntracestate:", b"\r\nbaggage:")

_PARENT = re.compile(
    r"(?!ff)(?:00(?=.{53}$)|(?!00)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])(?:-[!-~]*)?"
)
"""Version, trace, span and flags, none of the ids all zeros; a version after 00 may have more behind them."""

_ODD_DIGITS = frozenset("13579bdf")
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

    Only whole lines of plain visible characters are taken, nothing that a check of the whole head would refuse.

    Returns:
        The head without them (the same object if there are none), and what they say.
    """
    lower = raw.lower()
    cuts: list[tuple[int, int]] = []
    values: tuple[list[str], ...] = ([], [], [], [])
    for name, found in zip(_NAMES, values, strict=True):
        at = lower.find(name)
        while at >= 0:
            end = lower.find(b"\r\n", at + 2)
            text = raw[at + len(name) : end].decode("latin-1").strip(" \t")
            if not (text.isprintable() and text.isascii() and text) or len(cuts) == MOST_CUT:
                return raw, None
            found.append(text)
            cuts.append((at, end))
            at = lower.find(name, end)
    if not cuts:
        return raw, None
    return _without(raw, cuts), read_trace(values[0], values[1])


def _without(raw: bytes, cuts: list[tuple[int, int]]) -> bytes:
    if len(cuts) == 1:
        ((at, end),) = cuts
        return raw[:at] + raw[end:]
    for at, end in sorted(cuts, reverse=True):
        raw = raw[:at] + raw[end:]
    return raw


def read_trace(parents: Sequence[str], identifiers: Sequence[str]) -> Trace | None:
    """Read what a request says of itself; what is malformed or said twice counts as not said (W3C Trace Context 3.2).

    Args:
        parents: Values of all `traceparent` headers.
        identifiers: Values of all `X-Request-Id` headers.
    """
    trace_id = parent_id = request_id = ""
    is_sampled = False
    if len(parents) == 1 and (parent := _PARENT.fullmatch(parents[0])) is not None:
        trace_id, parent_id, flags = parent.groups()
        is_sampled = flags in _ODD_DIGITS
    if len(identifiers) == 1 and _IDENTIFIER.fullmatch(identifiers[0]):
        request_id = identifiers[0]
    if not trace_id and not request_id:
        return None
    return Trace(request_id or trace_id, trace_id, parent_id, is_sampled)
