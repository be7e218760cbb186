"""Answers as aiohttp sends them: JSON, errors in the one form of protocol.md section 8, and bodies of several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from aiohttp import hdrs, web

from batchserve import __version__
from batchserve.errors import MethodNotAllowed, RequestError
from batchserve.frontend.trace_headers import REQUEST_ID, new_request_id

__all__ = ["JSON", "SERVER", "PartsResponse", "body_response", "error_response", "json_response"]

JSON = "application/json"
SERVER = f"batchserve/{__version__}"

JOIN_BYTES = 64 << 10
"""Smaller bodies are joined and leave in one write with their head; larger ones are written part by part."""

SLICE_BYTES = 256 << 10
"""A transport copies what the socket does not take at once: never more than this of a large part."""


def json_response(value: object, status: int = 200) -> web.Response:
    """Answer with a JSON value.

    Args:
        value: What orjson can write; text in it is valid Unicode.
        status: HTTP status.
    """
    return web.Response(body=orjson.dumps(value), status=status, headers={hdrs.CONTENT_TYPE: JSON, hdrs.SERVER: SERVER})


def error_response(
    error: RequestError, members: Mapping[str, object] | None = None, request_id: str = ""
) -> web.Response:
    """Answer with an error: its text under `error`, and the headers it asks for.

    Args:
        error: What ended the request.
        members: Further members of the body.
        request_id: What the request is called; "" gives it a name.
    """
    # Names in a text come from the client's path, where aiohttp keeps bytes that are not UTF-8 as lone surrogates.
    text = str(error).encode("utf-8", "replace").decode() or error.reason
    response = json_response({**(members or {}), "error": text}, error.status)
    response.headers[REQUEST_ID] = request_id or new_request_id()
    if error.retry_after_s is not None:
        response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
    if isinstance(error, MethodNotAllowed):
        response.headers[hdrs.ALLOW] = ", ".join(error.allow)
    if error.closes_connection:
        response.force_close()
    return response


class PartsResponse(web.StreamResponse):
    """A body that is written part by part, so that large outputs are never joined.

    aiohttp calls `prepare` and `write_eof`; the parts leave in the latter.

    Args:
        parts: Bytes of the body in order. They are only read, and kept until they are sent.
        headers: Response headers, without `Content-Length`.
    """

    def __init__(self, parts: Sequence[memoryview], headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        self._parts: Sequence[memoryview] = parts
        self.content_length = sum(part.nbytes for part in parts)

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the parts, waiting for the client where it reads slowly, and end the body."""
        parts, self._parts = self._parts, ()
        for part in parts:
            for start in range(0, part.nbytes, SLICE_BYTES):
                await self.write(part[start : start + SLICE_BYTES])
        await super().write_eof(data)


def body_response(parts: Sequence[bytes | memoryview], headers: Mapping[str, str]) -> web.StreamResponse:
    """Answer 200 with a body of parts: joined if small, one after the other if large.

    Args:
        parts: Bytes of the body in order.
        headers: Response headers, without `Content-Length`.
    """
    size_bytes = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
    if size_bytes <= JOIN_BYTES:
        body = parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)
        return web.Response(body=body, headers={**headers, hdrs.SERVER: SERVER})
    return PartsResponse([_flat(part) for part in parts], {**headers, hdrs.SERVER: SERVER})


def _flat(part: bytes | memoryview) -> memoryview:
    view = memoryview(part)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
