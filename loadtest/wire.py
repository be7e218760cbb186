"""Whole HTTP requests of the Open Inference Protocol, binary or JSON, and what their answers hold.

Written out here, not taken from batchserve, so that a benchmark also notices when the server speaks wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["WireError", "get_request", "infer_request", "json_outputs", "json_request", "outputs", "read_head"]

Array = npt.NDArray[Any]

_NAMES = {"float32": "FP32", "int64": "INT64"}
_TYPES = {"FP32": "<f4", "INT64": "<i8"}


class WireError(Exception):
    """An answer is not what the protocol says; the text says where."""


def infer_request(model: str, tensors: Mapping[str, Array], host: str) -> bytes:
    """Write a request for all outputs in binary, head and body.

    Args:
        model: The model's name.
        tensors: Its inputs by name, `dtype[rows, ...]`, float32 or int64.
        host: For the `Host` header.

    Returns:
        Bytes to be sent as they are, over a connection that is kept open.
    """
    inputs, tails = [], []
    for name, array in tensors.items():
        tails.append(np.ascontiguousarray(array).tobytes())
        inputs.append(
            {
                "name": name,
                "datatype": _NAMES[array.dtype.name],
                "shape": array.shape,
                "parameters": {"binary_data_size": len(tails[-1])},
            }
        )
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    body = header + b"".join(tails)
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def json_request(model: str, tensors: Mapping[str, Array], host: str) -> bytes:
    """Write a request in JSON throughout, its numbers with all digits of a double, as `tolist` gives them.

    Args and result are those of `infer_request`.
    """
    inputs = [
        {"name": name, "datatype": _NAMES[array.dtype.name], "shape": array.shape, "data": array.ravel().tolist()}
        for name, array in tensors.items()
    ]
    body = json.dumps({"inputs": inputs}, separators=(",", ":")).encode()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get_request(path: str, host: str) -> bytes:
    """Write a GET, over a connection that is kept open."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Read an answer's status and headers.

    Args:
        head: Everything up to and with the empty line.

    Returns:
        The status, and the headers by lower-case name.

    Raises:
        WireError: It is no HTTP head with a length.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or words[0] not in ("HTTP/1.1", "HTTP/1.0") or not words[1].isdigit():
        raise WireError(f"expected an HTTP status line, got {first[:80]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if not headers.get("content-length", "").isdigit():
        raise WireError(f"expected an answer with a Content-Length, got {sorted(name for name in headers if name)}")
    return int(words[1]), headers


def outputs(answer: bytes) -> dict[str, Array]:
    """Read the outputs of a whole answer.

    Args:
        answer: Head and body.

    Returns:
        Arrays by output name: views of `answer`.

    Raises:
        WireError: The status is not 200, or an output is not binary, or the sizes do not add up.
    """
    end, headers = _success(answer)
    length = headers.get("inference-header-content-length")
    if length is None:
        raise WireError("expected binary outputs, got an answer that is JSON throughout")
    place = end + int(length)
    arrays: dict[str, Array] = {}
    for output in json.loads(answer[end:place])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        flat = np.frombuffer(answer[place : place + size], _TYPES[output["datatype"]])
        arrays[output["name"]] = flat.reshape(output["shape"])
        place += size
    if place != len(answer):
        raise WireError(f"the outputs end at byte {place} of an answer of {len(answer)}")
    return arrays


def json_outputs(answer: bytes) -> dict[str, Array]:
    """Read the outputs of a whole answer that is JSON throughout.

    Args:
        answer: Head and body.

    Returns:
        Arrays by output name.

    Raises:
        WireError: The status is not 200, or an output has no `data`.
    """
    end, _ = _success(answer)
    arrays: dict[str, Array] = {}
    for output in json.loads(answer[end:])["outputs"]:
        if "data" not in output:
            raise WireError(f"expected an answer that is JSON throughout, but {output['name']!r} has no data")
        arrays[output["name"]] = np.array(output["data"], _TYPES[output["datatype"]]).reshape(output["shape"])
    return arrays


def _success(answer: bytes) -> tuple[int, dict[str, str]]:
    """Read the head of a whole answer: where its body begins, and its headers by lower-case name.

    Raises:
        WireError: The status is not 200.
    """
    end = answer.index(b"\r\n\r\n") + 4
    status, headers = read_head(answer[:end])
    if status != 200:
        raise WireError(f"status {status}: {answer[end : end + 300].decode('utf-8', 'replace')}")
    return end, headers
