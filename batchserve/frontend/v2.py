"""The v2 inference codec: a body in, Request out; Response in, a body out (protocol.md sections 3 to 6).

Pure functions without any HTTP library's types: whoever has read a body calls `decode`, on the event loop or, for large
JSON, on a helper thread; `encode` likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchserve.core.request import Request
from batchserve.core.shapes import shape_key
from batchserve.errors import InvalidRequest
from batchserve.frontend.answer import Answer, encode
from batchserve.frontend.envelope import LARGE_BYTES, parse
from batchserve.frontend.inputs import own_length, raw_input, read_inputs
from batchserve.frontend.model_info import ModelInfo
from batchserve.frontend.parameters import NO_OPTIONS, request_options
from batchserve.frontend.plans import LONGEST_JSON
from batchserve.frontend.requested import Asked, requested_outputs
from batchserve.frontend.wording import count_of, quoted

if TYPE_CHECKING:
    from batchserve.frontend.tensor_binary import Buffer

__all__ = ["Answer", "Asked", "ModelInfo", "decode", "encode"]

_MOST_DIGITS = 18  # of a header length; longer ones are beyond any body, and Python refuses to convert thousands


def decode(model: ModelInfo, body: Buffer, header_length: str | None, arrival_s: float) -> tuple[Request, Asked]:
    """Read an inference request. Pure; any thread.

    Args:
        model: The model and version it is for.
        body: The body, decompressed. The request's arrays may be views of it, so it must not change afterwards.
        header_length: Value of `Inference-Header-Content-Length`, None if absent.
        arrival_s: Monotonic time at which its last byte had been read.

    Returns:
        The request, checked to the last element, and how to answer it.

    Raises:
        InvalidRequest: Any of the 400 rows of protocol.md section 8 that concern a body.
        RegionNotFound: It refers to shared memory.
    """
    if header_length is None:
        header = body
    else:
        start = _json_length(model, header_length, len(body))
        if start == 0:
            return _decode_raw(model, body, arrival_s)
        if start <= LONGEST_JSON:
            known = body[:start] if type(body) is bytes else bytes(body[:start])
            plan = model.plans.find(known, len(body))
            if plan is not None:
                return plan.apply(body, arrival_s), plan.asked
            request, asked = _decode_json(model, body, known, arrival_s)
            model.plans.learn(known, body, request, asked)
            return request, asked
        header = body[:start] if start <= LARGE_BYTES else memoryview(body)[:start]
    return _decode_json(model, body, header, arrival_s)


def _decode_json(model: ModelInfo, body: Buffer, header: Buffer, arrival_s: float) -> tuple[Request, Asked]:
    """Read a body that begins with the JSON `header`."""
    start = len(header)
    envelope = parse(model.label, header)
    parameters = envelope.parameters
    options = request_options(f"request to {model.label}", parameters) if parameters else NO_OPTIONS
    outputs, binary, mask = requested_outputs(model, envelope.outputs, options.binary_outputs)
    arrays, rows, held_bytes = read_inputs(model, envelope.inputs, body, start)
    identifier = envelope.id or ""
    pad = model.signature.pad
    request = Request(
        inputs=tuple(arrays),
        rows=rows,
        key=shape_key(arrays, is_batching=model.signature.max_batch_size > 0, pad=pad),
        output_mask=mask,
        arrival_s=arrival_s,
        timeout_s=options.timeout_s if model.allow_timeout_override else None,
        priority=min(options.priority, model.priority_levels),
        size_bytes=held_bytes,
        id=identifier,
        parameters=options.rest,
        length=0 if pad is None else own_length(model, pad, arrays),
    )
    return request, Asked(identifier, outputs, binary)


def _decode_raw(model: ModelInfo, body: Buffer, arrival_s: float) -> tuple[Request, Asked]:
    array, held_bytes = raw_input(model, body)
    outputs, binary, mask = requested_outputs(model, None, True)
    request = Request(
        inputs=(array,),
        rows=1,
        key=shape_key((array,), is_batching=model.signature.max_batch_size > 0),
        output_mask=mask,
        arrival_s=arrival_s,
        size_bytes=held_bytes,
        parameters=NO_OPTIONS.rest,
    )
    return request, Asked("", outputs, binary)


def _json_length(model: ModelInfo, value: str, body_bytes: int) -> int:
    if not (value.isascii() and value.isdigit()):
        raise InvalidRequest(
            f"request to {model.label}: Inference-Header-Content-Length is {quoted(value)}; expected the length of the "
            f"JSON in bytes, as a plain decimal number"
        )
    length = int(value) if len(value) <= _MOST_DIGITS else int(value.lstrip("0")[: _MOST_DIGITS + 1] or "0")
    if length > body_bytes:
        raise InvalidRequest(
            f"request to {model.label}: Inference-Header-Content-Length is {quoted(value)}, but the body has "
            f"{count_of(body_bytes, 'byte')} (decompressed); expected at most that"
        )
    return length
