"""Models and bodies for the tests of the v2 codec."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from batchserve.core.request import Phases, Request, Response
from batchserve.core.tensors import DATATYPES, Array, ModelSignature, TensorSpec
from batchserve.errors import InvalidRequest, RequestError
from batchserve.frontend.v2 import Asked, ModelInfo, decode, encode

Spec = tuple[str, str, tuple[int, ...]]

NO_PHASES = Phases(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def model_info(
    inputs: list[Spec], outputs: list[Spec], max_batch_size: int = 4, name: str = "m", **options: Any
) -> ModelInfo:
    """Make a model from (name, datatype, full wire shape) of its inputs and outputs."""
    specs = [[TensorSpec(n, DATATYPES[datatype], shape) for n, datatype, shape in side] for side in (inputs, outputs)]
    signature = ModelSignature(tuple(specs[0]), tuple(specs[1]), max_batch_size)
    return ModelInfo(name, "1", signature, **{"max_queue_size": 16, **options})


ADDONE = model_info([("x", "FP32", (-1, 3))], [("y", "FP32", (-1, 3))], name="addone")
PAIR = model_info(
    [("a", "FP32", (-1, 2)), ("b", "INT64", (-1, -1))],
    [("sum", "FP32", (-1,)), ("words", "BYTES", (-1, 2)), ("half", "FP16", (-1, 2))],
    name="pair",
)


def echo(datatype: str, shape: tuple[int, ...], max_batch_size: int = 8) -> ModelInfo:
    """Make a model with one input `x` and one output `y` of the same kind."""
    return model_info([("x", datatype, shape)], [("y", datatype, shape)], max_batch_size, name="echo")


def bytes_tensor(*elements: bytes) -> bytes:
    """Write elements in the binary form of BYTES, without the code under test."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def with_tail(document: dict[str, Any], *tails: bytes) -> tuple[bytes, str]:
    """Make a body of JSON and binary data, and its header length."""
    header = json.dumps(document).encode()
    return header + b"".join(tails), str(len(header))


def answer_of(model: ModelInfo, body: bytes, *outputs: Array, header_length: str | None = None) -> tuple[Any, bytes]:
    """Decode a request, answer it with `outputs`, and parse the answer with the standard library.

    Returns:
        The answer's JSON and its binary tail.
    """
    _, asked = decode(model, body, header_length, 0.0)
    answer = encode(model, asked, Response(outputs, NO_PHASES, 1))
    whole = b"".join(answer.parts)
    assert answer.size_bytes == len(whole)
    length = len(whole) if answer.json_length is None else answer.json_length
    assert answer.content_type == ("application/json" if answer.json_length is None else "application/octet-stream")
    return json.loads(whole[:length]), whole[length:]


def random_array(datatype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Make an array of any datatype, with every value its type can hold being possible."""
    rng = np.random.default_rng(seed)
    if datatype == "BYTES":
        count = int(np.prod(shape, dtype=int))
        array = np.empty(count, object)
        array[:] = ["é" * int(n) for n in rng.integers(0, 5, count)]
        return array.reshape(shape)
    dtype = DATATYPES[datatype].dtype
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    return np.frombuffer(rng.bytes(int(np.prod(shape, dtype=int)) * dtype.itemsize), dtype).reshape(shape)


def good(**members: Any) -> dict[str, Any]:
    """Give a request for `addone` that is right but for the members of its input named here; `...` leaves one out."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} | members
    return {"inputs": [{key: value for key, value in item.items() if value is not ...}]}


def good_binary(**members: Any) -> dict[str, Any]:
    """Give such a request without JSON data."""
    return good(data=..., **members)


def asking(*outputs: Any) -> dict[str, Any]:
    """Give a request for `addone` with these `outputs`."""
    return good() | {"outputs": list(outputs)}


def body_of(document: Any) -> bytes:
    """Write a document as JSON; bytes stay as they are."""
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def read(document: Any, model: ModelInfo = ADDONE) -> tuple[Request, Asked]:
    """Decode a JSON request that arrived at 12.5 s."""
    return decode(model, body_of(document), None, 12.5)


def refusal(model: ModelInfo, body: bytes | memoryview, header_length: str | None = None) -> RequestError:
    """Decode a request that must be refused; check that its message can be sent and is short."""
    with pytest.raises(RequestError) as caught:
        decode(model, body, header_length, 0.0)
    message = str(caught.value)
    json.dumps(message).encode("ascii")
    message.encode("utf-8")
    assert len(message) < 1000, "a message stays short whatever came in"
    return caught.value


def assert_invalid(model: ModelInfo, body: bytes | memoryview, header_length: str | None, words: list[str]) -> None:
    """Check that a request is a 400 whose message holds each of `words`."""
    error = refusal(model, body, header_length)
    assert type(error) is InvalidRequest
    assert error.status == 400
    for part in words:
        assert part in str(error)
