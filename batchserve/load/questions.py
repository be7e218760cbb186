"""Requests whose right answers are known: each is asked once, alone, before the load begins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from batchserve.load.answers import MalformedAnswer, agree, json_values, outputs

if TYPE_CHECKING:
    from batchserve.core.tensors import Array, TensorSpec
    from batchserve.load.answers import Head
    from batchserve.load.scenario import Stream
    from batchserve.load.target import Target

__all__ = ["Question", "draw_arrays", "write_request"]

MOST_KNOWN = 64
"""Answers of one question that are remembered by their bytes. Rows that run among others differ in their last digits,
in a few ways; a server that puts an id of its own into each answer would fill any memory."""

CHECKED_THEN = 16
"""Once so many are remembered, one new answer in so many is compared; the others count as right if their size is."""


class Question:
    """One request, ready to be sent any number of times, and what is known of its answers.

    Args:
        stream: Index of the stream that it belongs to.
        plain: Head and body.
        timed: The same, asking for `Server-Timing`.
        rows: Rows it carries.
        is_raw: True if answers are no answers of the protocol.
        answer_dtype: Datatype of a raw answer; None if it is JSON. Unused otherwise.
    """

    __slots__ = ("_is_raw", "_known", "_raw_dtype", "_right", "_seen", "answer", "plain", "rows", "stream", "timed")

    def __init__(
        self,
        stream: int,
        plain: bytes,
        timed: bytes,
        rows: int = 1,
        *,
        is_raw: bool = False,
        answer_dtype: np.dtype[Any] | None = None,
    ) -> None:
        self.stream = stream
        self.plain = plain
        self.timed = timed
        self.rows = rows
        self.answer: bytes = b""
        """Head and body of the latest right answer: most are the same to the last byte."""
        self._is_raw = is_raw
        self._raw_dtype = answer_dtype
        self._right: dict[str, Array] | None = None
        self._known: set[bytes] = set()
        self._seen = 0

    def learn(self, head: Head, body: bytes) -> None:
        """Take an answer as the right one.

        Raises:
            MalformedAnswer: It is none with outputs.
        """
        self._right = self._read(head, body)
        self._known = {body}

    def is_right(self, head: Head, body: bytes) -> bool:
        """Say whether a successful answer is right; any is if none was learnt."""
        if self._right is None or body in self._known:
            return True
        self._seen += 1
        is_full = len(self._known) >= MOST_KNOWN
        if is_full and self._seen % CHECKED_THEN:
            return True
        try:
            is_right = agree(self._read(head, body), self._right)
        except MalformedAnswer:
            return False
        if is_right and not is_full:
            self._known.add(body)
        return is_right

    def _read(self, head: Head, body: bytes) -> dict[str, Array]:
        if not self._is_raw:
            return outputs(body, head.json_length)
        if (dtype := self._raw_dtype) is None:
            return json_values(body)
        if len(body) % dtype.itemsize:
            raise MalformedAnswer(f"{len(body)} bytes are no whole number of {dtype.name}")
        return {"": np.frombuffer(body, dtype)}


def draw_arrays(stream: Stream, specs: Sequence[TensorSpec], random: np.random.Generator) -> list[Array]:
    """Draw the inputs of one request.

    Args:
        stream: Says how many rows, how long, and of which values.
        specs: The model's inputs; a batching model shows -1 first.
        random: Draws.

    Returns:
        One array for each input. Every free dimension of a request has one and the same drawn length.
    """
    rows = int(random.integers(stream.rows[0], stream.rows[1] + 1))
    length = int(random.integers(stream.lengths[0], stream.lengths[1] + 1))
    arrays = []
    for index, spec in enumerate(specs):
        shape = [rows if axis == 0 else length for axis in range(len(spec.shape))]
        shape = [known if known >= 0 else free for known, free in zip(spec.shape, shape, strict=True)]
        if index < len(stream.dims):
            dims = list(stream.dims[index])
            shape = dims if len(dims) == len(spec.shape) else [rows, *dims]
        if spec.name in stream.shapes:
            shape = list(stream.shapes[spec.name])
        arrays.append(_values(stream, spec, shape, random))
    return arrays


def _values(stream: Stream, spec: TensorSpec, shape: Sequence[int], random: np.random.Generator) -> Array:
    """Draw values: normal floats, or evenly from the range that the stream names; integers are 0 and 1 by default."""
    kind, dtype = spec.datatype.kind, spec.datatype.dtype
    given = stream.values.get(spec.name)
    if kind == "float":
        drawn = random.standard_normal(shape) if given is None else random.uniform(*given, shape)
        return drawn.astype(dtype)
    if kind == "bytes":
        texts = np.empty(int(np.prod(shape)), np.object_)
        texts[:] = [f"text {number}" for number in random.integers(0, 1000, len(texts))]
        return texts.reshape(shape)
    low, high = (0, 1) if given is None or kind == "bool" else (int(given[0]), int(given[1]))
    return random.integers(low, high, shape, dtype=np.int64, endpoint=True).astype(dtype)


def write_request(
    stream: Stream, specs: Sequence[TensorSpec], arrays: Sequence[Array], target: Target, *, asks_timing: bool = False
) -> bytes:
    """Write a request, head and body, over a connection that is kept open."""
    headers = dict(stream.headers)
    if asks_timing:
        headers["X-Server-Timing"] = "1"
    if stream.form == "raw":
        body = _packed(arrays[0])
        if stream.raw_json:
            body = stream.raw_json.replace("DATA", ",".join(map(repr, arrays[0].ravel().tolist()))).encode()
        path = stream.path
    else:
        header, tails = _envelope(stream, specs, arrays)
        body = header + b"".join(tails)
        version = f"/versions/{stream.version}" if stream.version else ""
        path = f"/v2/models/{stream.model}{version}/infer"
        if tails:
            headers["Inference-Header-Content-Length"] = str(len(header))
    headers.setdefault(
        "Content-Type", "application/json" if stream.form == "json" or stream.raw_json else "application/octet-stream"
    )
    lines = [f"POST {target.prefix}{path} HTTP/1.1", f"Host: {target.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _envelope(stream: Stream, specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> tuple[bytes, list[bytes]]:
    """Write the JSON of a request, and the binary tensors behind it."""
    inputs, tails = [], []
    for spec, array in zip(specs, arrays, strict=True):
        entry: dict[str, object] = {"name": spec.name, "datatype": spec.datatype.name, "shape": list(array.shape)}
        if stream.form == "binary":
            tails.append(_packed(array))
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        inputs.append(entry)
    parameters: dict[str, object] = {"binary_data_output": True} if stream.form == "binary" else {}
    if stream.priority:
        parameters["priority"] = stream.priority
    if stream.timeout_s is not None:
        parameters["timeout"] = round(stream.timeout_s * 1e6)
    whole: Mapping[str, object] = {"inputs": inputs} | ({"parameters": parameters} if parameters else {})
    return json.dumps(whole, separators=(",", ":")).encode(), tails


def _packed(array: Array) -> bytes:
    """Write a tensor as it travels: little-endian, and each text behind its length."""
    if array.dtype != np.object_:
        return array.tobytes()
    texts = [str(text).encode() for text in array.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
