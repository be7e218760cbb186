"""From a response to the bytes of a v2 inference answer (protocol.md sections 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from batchserve.frontend.model_info import json_string
from batchserve.frontend.templates import MOST_BYTES, Template, fitting
from batchserve.frontend.tensor_binary import elements_bytes, numbers_bytes
from batchserve.frontend.tensor_json_output import elements_json, numbers_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchserve.core.request import Response
    from batchserve.core.tensors import Array
    from batchserve.frontend.model_info import ModelInfo, OutputInfo
    from batchserve.frontend.requested import Asked

__all__ = ["Answer", "encode"]

_JOIN_BYTES = 64 << 10
_JSON = "application/json"
_OCTETS = "application/octet-stream"


@dataclass(slots=True)
class Answer:
    """The body of an answer.

    Attributes:
        parts: JSON, then binary tensors; to be sent one after the other. Large ones are views of the model's outputs.
        json_length: Value of `Inference-Header-Content-Length`; None for no such header: no tensor is binary.
        content_type: Value of `Content-Type`.
    """

    parts: list[bytes | memoryview]
    json_length: int | None
    content_type: str

    @property
    def size_bytes(self) -> int:
        """Length of the whole body, for `Content-Length`."""
        return sum(map(len, self.parts))


def encode(model: ModelInfo, asked: Asked, response: Response) -> Answer:
    """Write the answer to a request. Pure; any thread.

    Args:
        model: The version that ran.
        asked: What `decode` said about the request.
        response: Its outputs, in the order of `asked.outputs`.

    Raises:
        InvalidRequest: A BYTES output is asked for in JSON and is not UTF-8.
    """
    template = fitting(asked, response.outputs)
    if template is not None:
        return Answer([template.json, *map(_numbers, response.outputs)], len(template.json), _OCTETS)
    head = model.head
    pieces = [b'{"id":%b,%b' % (json_string(asked.id), head[1:]) if asked.id else head]
    tails: list[bytes | memoryview] = []
    comma = b""
    for index, is_binary, array in zip(asked.outputs, asked.binary, response.outputs, strict=True):
        output = model.outputs[index]
        shape = orjson.dumps(array.shape)
        if is_binary:
            tail = _binary(output, array)
            tails.append(tail)
            pieces.append(b'%b%b%b,"parameters":{"binary_data_size":%d}}' % (comma, output.head, shape, len(tail)))
        else:
            pieces += b'%b%b%b,"data":' % (comma, output.head, shape), *_json(output, array), b"}"
        comma = b","
    pieces.append(b"]}")
    length = sum(map(len, pieces))
    parts: list[bytes | memoryview] = [b"".join(pieces)] if length <= _JOIN_BYTES else [*_joined(pieces)]
    if not any(asked.binary):
        return Answer(parts, None, _JSON)
    answer = Answer(parts + tails, length, _OCTETS)
    if model.has_plain_outputs and all(asked.binary) and (size_bytes := answer.size_bytes) <= MOST_BYTES:
        asked.template = Template(tuple([array.shape for array in response.outputs]), bytes(parts[0]), size_bytes)
    return answer


def _joined(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Join what is short, so that a large answer leaves in parts of some `_JOIN_BYTES` each."""
    group: list[bytes] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= _JOIN_BYTES:
            yield b"".join(group)
            group, size = [], 0
    if group:
        yield b"".join(group)


def _binary(output: OutputInfo, array: Array) -> bytes | memoryview:
    if output.datatype.itemsize == 0:
        return elements_bytes(array.reshape(-1).tolist())
    return _numbers(array)


def _numbers(array: Array) -> bytes | memoryview:
    return numbers_bytes(np.ascontiguousarray(array))


def _json(output: OutputInfo, array: Array) -> list[bytes]:
    if output.datatype.itemsize == 0:
        return [elements_json(output.where, array.reshape(-1).tolist())]
    return numbers_parts(np.ascontiguousarray(array).reshape(-1))
