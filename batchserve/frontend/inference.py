"""One inference request over HTTP: read, decode, queue, encode, answer (protocol.md sections 4 to 8)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakKeyDictionary

from aiohttp import hdrs, web

from batchserve.core.trace import Trace
from batchserve.errors import InvalidRequest, Refused, RequestError
from batchserve.frontend.body import Hold, MemoryBudget, read_content
from batchserve.frontend.compression import choose_encoding, compress
from batchserve.frontend.heads import client_name
from batchserve.frontend.responses import body_response
from batchserve.frontend.timing import ASK_HEADER, is_asked, timing_headers
from batchserve.frontend.v2 import ModelInfo, decode, encode

if TYPE_CHECKING:
    from batchserve.core.limits import Limits
    from batchserve.core.request import Request, Response
    from batchserve.engine.model import Model
    from batchserve.frontend.compression import Encoding
    from batchserve.frontend.routes import Route
    from batchserve.frontend.services import Services
    from batchserve.frontend.tensor_binary import Buffer
    from batchserve.frontend.v2 import Answer, Asked

__all__ = ["TRACE", "Inference", "Written"]

TRACE: web.RequestKey[Trace | None] = web.RequestKey("trace", Trace | None)  # type: ignore[arg-type]
"""Where aiohttp's request keeps what it is called: a `Trace` or None."""

HEADER_LENGTH = "Inference-Header-Content-Length"

HEAVY_BYTES = 64 << 10
"""JSON above this is read and written on a helper thread: about half a millisecond of work."""

HEAVY_COMPRESSION_BYTES = 16 << 10
"""Answers above this are compressed on a helper thread."""

_JSON_NUMBER_BYTES = 8
_STRING_BYTES = 8
_MOST_DIGITS = 18

T = TypeVar("T")

Written = tuple["Answer", "Encoding | None", "list[bytes | memoryview]"]
"""An answer, the coding it was compressed with, and what is to be sent."""


class Inference:
    """The infer endpoint: what both ways to it share, and aiohttp's way. Event loop only, but for `write`.

    Invariant: a request that named a model which serves is counted exactly once by it: here if it never reached the
    queue, by the engine if it did. Not counted are requests whose client left before their last byte was read.

    Args:
        services: Configuration and helper threads.
        budget: Memory for bodies.
        find_model: Looks up what a path names; raises RequestError.
    """

    def __init__(self, services: Services, budget: MemoryBudget, find_model: Callable[[Route], Model]) -> None:
        self._config = services.config
        self._pool = services.pool
        self._budget = budget
        self._tracer = services.tracer
        self._find_model = find_model
        self._last: tuple[Limits | None, ModelInfo | None] = (None, None)  # quicker to ask than the dictionary
        self._infos: WeakKeyDictionary[Model, tuple[Limits, ModelInfo]] = WeakKeyDictionary()

    async def answer(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        """Answer an inference request. If it is cancelled here, the request leaves its queue.

        Raises:
            RequestError: What section 8 of protocol.md has for it.
        """
        tracer = self._tracer
        if tracer is None:
            return await self._answer(request, route)
        start_s, status, version = time.monotonic(), 499, ""
        trace = request[TRACE] = tracer.sample(request[TRACE])
        try:
            version = str(self._find_model(route).version)
            response = await self._answer(request, route)
            status = response.status
        except RequestError as error:
            status = error.status
            raise
        except Exception:
            status = 500
            raise
        else:
            return response
        finally:
            if trace is not None and trace.span_id:
                tracer.request_ended(trace, route.target, version, status, start_s)

    async def _answer(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        model = self._find_model(route)
        with Hold(self._budget) as hold:
            try:
                body = await read_content(request, self._config, hold, self._pool)
                arrival_s = hold.complete_s
                info, inference, asked = await self._decode(model, body, _header(request, HEADER_LENGTH), arrival_s)
            except Refused as error:
                model.count_refused(error.reason)
                raise
            except RequestError:
                model.count_invalid()
                raise
            current = self._find_model(route)
            if current is not model:  # reloaded while the body came: the request belongs to what serves now
                model = current
                info, inference, asked = await self._decode_again(model, body, request, arrival_s)
            inference.client = client_name(_header(request, self._config.client_header))
            inference.trace = request[TRACE]
            response = await model.infer(inference)
        return await self._respond(request, info, asked, response)

    async def _decode_again(
        self, model: Model, body: Buffer, request: web.BaseRequest, arrival_s: float
    ) -> tuple[ModelInfo, Request, Asked]:
        try:
            return await self._decode(model, body, _header(request, HEADER_LENGTH), arrival_s)
        except InvalidRequest:
            model.count_invalid()
            raise

    async def _decode(
        self, model: Model, body: Buffer, header_length: str | None, arrival_s: float
    ) -> tuple[ModelInfo, Request, Asked]:
        info = self.info(model)
        if self.is_heavy(info, body, header_length):
            return info, *await self._off_loop(lambda: self.read(info, body, header_length, arrival_s))
        return info, *self.read(info, body, header_length, arrival_s)

    def info(self, model: Model) -> ModelInfo:
        """Return what the codec needs of a model version, made anew when its limits have changed."""
        last, known = self._last
        limits = model.limits  # each version has an object of its own, and another one after each change
        if limits is last:
            return cast("ModelInfo", known)
        made_for, info = self._infos.get(model, (None, None))
        if info is None or made_for is not limits:
            info = ModelInfo(
                name=model.name,
                version=str(model.version),
                signature=model.signature,
                max_queue_size=limits.max_queue_size,
                split_large=limits.split_large,
                allow_timeout_override=limits.allow_timeout_override,
                priority_levels=limits.priority_levels,
            )
            self._infos[model] = (limits, info)
        self._last = (limits, info)
        return info

    async def _respond(
        self, request: web.BaseRequest, info: ModelInfo, asked: Asked, response: Response
    ) -> web.StreamResponse:
        accepted = _header(request, hdrs.ACCEPT_ENCODING)
        if self.is_heavy_answer(asked, response, accepted):
            written = await self._off_loop(lambda: self.write(info, asked, response, accepted))
        else:
            written = self.write(info, asked, response, accepted)
        answer, coding, parts = written
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: answer.content_type}
        if answer.json_length is not None:
            headers[HEADER_LENGTH] = str(answer.json_length)
        if coding is not None:
            headers[hdrs.CONTENT_ENCODING] = coding
        if self._config.server_timing or is_asked(_header(request, ASK_HEADER)):
            headers |= timing_headers(response)
        return body_response(parts, headers)

    def read(self, info: ModelInfo, body: Buffer, header_length: str | None, arrival_s: float) -> tuple[Request, Asked]:
        """Decode a request. Any thread.

        Raises:
            RequestError: What is wrong with it.
        """
        return decode(info, body, header_length, arrival_s)

    def is_heavy(self, info: ModelInfo, body: Buffer, header_length: str | None) -> bool:
        """Say whether decoding takes longer than the event loop can spare: large JSON, or many strings to cut out."""
        if len(body) <= HEAVY_BYTES:
            return False
        if header_length is None or any(spec.datatype.kind == "bytes" for spec in info.signature.inputs):
            return True
        is_length = header_length.isascii() and header_length.isdigit() and len(header_length) <= _MOST_DIGITS
        return not is_length or int(header_length) > HEAVY_BYTES

    def is_heavy_answer(self, asked: Asked, response: Response, accepted: str | None) -> bool:
        """Say whether writing an answer takes longer than the event loop can spare."""
        if _encoding_work(asked, response) > HEAVY_BYTES:
            return True
        if accepted is None:
            return False
        size = sum(array.nbytes for array in response.outputs)
        return size > HEAVY_COMPRESSION_BYTES and self._choose(accepted, size, is_binary=any(asked.binary)) is not None

    def write(self, info: ModelInfo, asked: Asked, response: Response, accepted: str | None) -> Written:
        """Encode an answer, and compress it if the client and the configuration want that. Any thread.

        Raises:
            InvalidRequest: An output cannot be written in the form that was asked for.
        """
        answer = encode(info, asked, response)
        if accepted is None:
            return answer, None, answer.parts
        coding = self._choose(accepted, answer.size_bytes, is_binary=answer.json_length is not None)
        return answer, coding, answer.parts if coding is None else [compress(answer.parts, coding)]

    def _choose(self, accepted: str, size: int, *, is_binary: bool) -> Encoding | None:
        return choose_encoding(
            accepted,
            is_binary=is_binary,
            size=size,
            min_size=self._config.compression_min_size_bytes,
            enabled=self._config.compression,
        )

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _header(request: web.BaseRequest, name: str) -> str | None:
    """Return a header's value; of a repeated one all values, as HTTP joins them."""
    value = request.headers.get(name)
    if value is None:
        return None
    values = request.headers.getall(name)
    return value if len(values) == 1 else ", ".join(values)


def _encoding_work(asked: Asked, response: Response) -> int:
    """Estimate the bytes that encoding has to write element by element; binary numbers are not written at all."""
    work = 0
    for is_binary, array in zip(asked.binary, response.outputs, strict=True):
        if array.dtype.hasobject:
            work += array.size * _STRING_BYTES
            if work <= HEAVY_BYTES:
                work += sum(map(len, array.ravel().tolist()))
        elif not is_binary:
            work += array.size * _JSON_NUMBER_BYTES
    return work
