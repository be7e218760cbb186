"""What an answer says: its head, its outputs, and whether they are those of another answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from batchserve.core.tensors import DATATYPES

if TYPE_CHECKING:
    from batchserve.core.tensors import Array

__all__ = ["CHUNKED", "Head", "MalformedAnswer", "agree", "dechunked", "json_values", "outputs", "read_head"]

CHUNKED = -1
"""The length of a body that comes in chunks."""

RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4
"""Floats of a row that ran among others against the same row alone; the latter times the largest value. FP32 needs a
tenth of it on a CPU; on devices with TF32 all of it."""

_TIMING = re.compile(r"([A-Za-z0-9_-]+)\s*;\s*dur=([0-9.]+)")


class MalformedAnswer(Exception):
    """An answer is not what HTTP or the protocol says; the text says where."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer.

    Attributes:
        status: Its status.
        length: Bytes of the body, `CHUNKED` if it comes in chunks.
        closes: True if the server closes the connection behind it.
        json_length: Bytes of JSON before binary tensors; None if the body is JSON throughout.
        phases_s: Seconds by phase of `Server-Timing`; empty without.
        batch_rows: Rows that ran with it, 0 if it does not say.
    """

    status: int
    length: int
    closes: bool = False
    json_length: int | None = None
    phases_s: Mapping[str, float] | None = None
    batch_rows: int = 0


def read_head(head: bytes) -> Head:
    """Read a head, everything up to and with the empty line.

    Raises:
        MalformedAnswer: It is no HTTP head, or does not say how long its body is.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise MalformedAnswer(f"expected an HTTP status line, got {first[:80]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        length = str(CHUNKED)
    elif words[1] in ("204", "304"):
        length = "0"
    elif not length.isdecimal():
        raise MalformedAnswer("expected an answer that says how long it is; it has neither a length nor chunks")
    json_length = headers.get("inference-header-content-length", "")
    rows = headers.get("x-batch-rows", "")
    timing = headers.get("server-timing")
    return Head(
        status=int(words[1]),
        length=int(length),
        closes=headers.get("connection", "").lower() == "close" or words[0] == "HTTP/1.0",
        json_length=int(json_length) if json_length.isdecimal() else None,
        phases_s={name: float(dur) / 1e3 for name, dur in _TIMING.findall(timing)} if timing else None,
        batch_rows=int(rows) if rows.isdecimal() else 0,
    )


def dechunked(data: bytes) -> tuple[bytes, int] | None:
    """Put a body that came in chunks together.

    Args:
        data: What has come so far, from the first chunk's size on.

    Returns:
        The body and how many bytes it took; None if it is not whole.

    Raises:
        MalformedAnswer: A chunk has no size.
    """
    parts: list[bytes] = []
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:end].partition(b";")[0], 16)
        except ValueError as error:
            raise MalformedAnswer(f"expected a chunk's size, got {data[at:end][:40]!r}") from error
        if size == 0:  # trailers are not sent by anybody we speak to
            return (b"".join(parts), end + 4) if len(data) >= end + 4 else None
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return None


def outputs(body: bytes, json_length: int | None) -> dict[str, Array]:
    """Read the outputs of a successful answer.

    Args:
        body: Its body.
        json_length: That of its head.

    Returns:
        Arrays by output name; BYTES and datatypes that numpy does not have as `uint8`, as they came.

    Raises:
        MalformedAnswer: It is no answer with outputs, or the sizes do not add up.
    """
    at = len(body) if json_length is None else json_length
    try:
        found = {}
        for output in msgspec.json.decode(body[:at])["outputs"]:
            datatype = DATATYPES.get(output["datatype"])
            if "data" in output:
                is_number = datatype is not None and datatype.itemsize
                array = np.asarray(output["data"], datatype.dtype if datatype and is_number else np.object_)
            else:
                size = output["parameters"]["binary_data_size"]
                flat = np.frombuffer(body, np.uint8, size, at)
                array = flat.view(datatype.dtype) if datatype and datatype.itemsize else flat
                at += size
            found[output["name"]] = array
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise MalformedAnswer(f"expected an answer with outputs, got {body[:80]!r}") from error
    if at != len(body):
        raise MalformedAnswer(f"the outputs end at byte {at} of a body of {len(body)}")
    return found


def json_values(body: bytes) -> dict[str, Array]:
    """Read all numbers of a JSON text, and apart from them all else, each in the order in which it stands there.

    Raises:
        MalformedAnswer: It is no JSON.
    """
    try:
        left = [msgspec.json.decode(body)]
    except msgspec.DecodeError as error:
        raise MalformedAnswer(f"expected JSON, got {body[:80]!r}") from error
    numbers: list[float] = []
    others: list[object] = []
    while left:
        value = left.pop()
        if type(value) in (int, float):
            numbers.append(value)
        elif isinstance(value, dict):
            left += [part for pair in reversed(value.items()) for part in reversed(pair)]
        elif isinstance(value, list):
            left += reversed(value)
        else:
            others.append(value)
    return {"numbers": np.array(numbers, np.float64), "others": np.array(others, np.object_)}


def agree(given: Mapping[str, Array], right: Mapping[str, Array]) -> bool:
    """Say whether two answers hold the same outputs: floats within the tolerance, all else exactly."""
    if given.keys() != right.keys():
        return False
    for name, expected in right.items():
        array = given[name]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            return False
        if expected.dtype.kind != "f":
            if not np.array_equal(array, expected):
                return False
            continue
        scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
        if not np.allclose(array, expected, RELATIVE_TOLERANCE, scale * ABSOLUTE_TOLERANCE, equal_nan=True):
            return False
    return True
