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

__all__ = [
    "REQUEST_ID",
    "Cuts",
    "cut_again",
    "cut_trace",
    "is_cut",
    "names",
    "new_request_id",
    "read_trace",
    "request_id_line",
]

REQUEST_ID = "X-Request-Id"

Cuts = tuple[tuple[bytes, int, int], ...]
"""Lines that were cut out of a head, in order: how each begins, from the line end before it to the colon; where it was,
counted in what is left; and which of the names it has."""

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


def is_cut(header: str) -> bool:
    """Say whether lines of a header are cut out."""
    return b"\r\n%b:" % header.lower().encode() in _NAMES


def cut_trace(raw: bytes) -> tuple[bytes, Trace | None, Cuts]:
    """Take the lines of tracing out of a head.

    Only whole lines of plain visible characters are taken, nothing that a check of the whole head would refuse.

    Returns:
        The head without them (the same object if there are none), what they say, and where they were.
    """
    lower = raw.lower()
    lines: list[tuple[int, int, int]] = []
    values: tuple[list[str], ...] = ([], [], [], [])
    for kind, name in enumerate(_NAMES):
        at = lower.find(name)
        while at >= 0:
            end = lower.find(b"\r\n", at + 2)
            text = _plain_text(raw[at + len(name) : end])
            if not text or len(lines) == MOST_CUT:
                return raw, None, ()
            values[kind].append(text)
            lines.append((at, end, kind))
            at = lower.find(name, end)
    if not lines:
        return raw, None, ()
    rest, begin, cuts = b"", 0, []
    for at, end, kind in sorted(lines):
        rest += raw[begin:at]
        cuts.append((raw[at : at + len(_NAMES[kind])], len(rest), kind))
        begin = end
    return rest + raw[begin:], read_trace(values[0], values[1]), tuple(cuts)


def cut_again(data: bytes, cuts: Cuts) -> tuple[bytes, Trace | None] | None:
    """Take lines of tracing out of a request whose head may be like an earlier one.

    Args:
        data: The request; it need not be complete.
        cuts: Where the lines of the earlier one were.

    Returns:
        The request without them, which has to be compared with the earlier one's, and what they say; None if the lines
        are not there.
    """
    parts, begin, shift = [], 0, 0
    values: tuple[list[str], ...] = ([], [], [], [])
    for name, place, kind in cuts:
        at = place + shift
        if not data.startswith(name, at):
            return None
        end = data.find(b"\r\n", at + 2)
        text = _plain_text(data[at + len(name) : end]) if end > 0 else ""
        if not text:
            return None
        values[kind].append(text)
        parts.append(data[begin:at])
        begin = end
        shift += end - at
    parts.append(data[begin:])
    return b"".join(parts), read_trace(values[0], values[1])


def _plain_text(value: bytes) -> str:
    """Return a header's value, "" if it is empty or has other than visible ASCII characters and spaces in it."""
    text = value.decode("latin-1").strip(" \t")
    return text if text.isprintable() and text.isascii() else ""


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
