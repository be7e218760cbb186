"""Request bodies: read by hand, within their limits of size, memory and time."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from aiohttp import hdrs, web

from batchserve.errors import BodyTooLarge, MemoryFull, SlowRequest
from batchserve.frontend.compression import inflate, parse_content_encoding
from batchserve.frontend.guard import Connection

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from aiohttp.streams import StreamReader

    from batchserve.config import ServerConfig

__all__ = ["Hold", "MemoryBudget", "declared_size", "read_content", "settle_unread"]

DRAIN_BYTES = 64 << 10
"""An unread rest of a body up to this size is read away so that the connection stays usable; a larger one closes it."""

SMALL_COMPRESSED_BYTES = 1 << 10
"""Compressed bodies up to this are inflated on the event loop: a thousand times that at most, in a millisecond."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class MemoryBudget:
    """Bytes of request bodies that all requests together hold. Event loop only.

    Invariant: `held_bytes` is the sum of what the open holds have taken, and never above `limit_bytes`.

    Args:
        limit_bytes: `server.max_inflight_bytes`.

    Attributes:
        held_bytes: What is held now.
        taken_bytes: What was ever taken.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.taken_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Hold more; whoever asks has looked that there is room."""
        self.held_bytes += size_bytes
        self.taken_bytes += size_bytes


class Hold:
    """One request's part of the budget: grows while its body comes, is given back when it ends.

    A context manager: leaving it gives everything back.

    Attributes:
        complete_s: Monotonic time at which the body's last byte had been read.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self.complete_s = 0.0
        self._budget = budget
        self._size_bytes = 0

    def grow_to(self, size_bytes: int) -> None:
        """Take what is missing to `size_bytes`; a smaller size changes nothing.

        Raises:
            MemoryFull: The budget does not have it. What was taken before stays taken.
        """
        missing = size_bytes - self._size_bytes
        if missing <= 0:
            return
        budget = self._budget
        if budget.held_bytes + missing > budget.limit_bytes:
            raise MemoryFull(
                f"no room for a body of {size_bytes} bytes: {budget.held_bytes} of server.max_inflight_bytes = "
                f"{budget.limit_bytes} are held by other requests; retry later"
            )
        budget.take(missing)
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.held_bytes -= self._size_bytes
        self._size_bytes = 0


def declared_size(request: web.BaseRequest) -> int | None:
    """Return the body's size as `Content-Length` has it, 0 if there is no body, None if it is chunked."""
    length = request.headers.get(hdrs.CONTENT_LENGTH)
    if length is not None:
        return int(length)  # the parser has refused everything but a decimal number
    return None if hdrs.TRANSFER_ENCODING in request.headers else 0


async def read_content(
    request: web.BaseRequest, config: ServerConfig, hold: Hold, pool: Executor
) -> bytes | bytearray | memoryview:
    """Read a whole body and undo its compression.

    Args:
        request: The request; nothing of its body has been read.
        config: The limits.
        hold: Grows to the body's size as sent, then to what it inflates to. Notes when the last byte had come.
        pool: Where larger bodies are inflated.

    Returns:
        The body. Nobody writes to it afterwards.

    Raises:
        UnsupportedEncoding: Its `Content-Encoding` is not one that is read.
        BodyTooLarge: Its declared, actual or inflated size is over `max_body_size`.
        MemoryFull: All bodies together would be over `max_inflight_bytes`.
        SlowRequest: It did not arrive within `body_timeout`.
        InvalidRequest: Its chunks are malformed, or its compression is corrupt.
    """
    encoding = parse_content_encoding(", ".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())))
    body = await _read(request, config, hold)
    hold.complete_s = time.monotonic()
    if encoding is None:
        return body
    if len(body) <= SMALL_COMPRESSED_BYTES:
        content = inflate(body, encoding, config.max_body_size_bytes)
    else:
        work = partial(inflate, body, encoding, config.max_body_size_bytes)
        content = await asyncio.get_running_loop().run_in_executor(pool, work)
    hold.grow_to(len(body) + len(content))
    return content


async def _read(request: web.BaseRequest, config: ServerConfig, hold: Hold) -> bytes | memoryview:
    """Read a body as it was sent.

    What the head alone decides is decided before a byte is read: a client that sent `Expect: 100-continue` is told to
    go on only then.
    """
    declared = declared_size(request)
    if declared is not None:
        _check_size(declared, config)
        hold.grow_to(declared)
    content = request.content
    if content.is_eof():  # all of it came along with the head
        body = content.read_nowait()
        _check_size(len(body), config)
        hold.grow_to(len(body))
        return body
    _send_continue(request)
    if declared is not None:
        content.set_read_chunk_size(declared)  # its memory is taken, so the stream need not pause the socket
    try:
        async with asyncio.timeout(config.body_timeout_s):
            if declared is None:
                return await _read_chunked(content, config, hold)
            return await _read_declared(content, declared)
    except TimeoutError:
        of = "" if declared is None else f" of {declared}"
        raise SlowRequest(
            f"{content.total_bytes}{of} bytes of the body arrived within {config.body_timeout_s:g} s; "
            "send it faster or in smaller requests, or raise server.body_timeout"
        ) from None


async def _read_declared(content: StreamReader, size_bytes: int) -> bytes | memoryview:
    """Read a body of known size, copying each piece once as it comes, so that no large copy is left for the end."""
    first = await content.readany()
    if len(first) == size_bytes:
        return first
    body = np.empty(size_bytes, np.uint8).data  # not zeroed: pages are taken as the bytes come
    at, piece = 0, first
    while piece:
        body[at : at + len(piece)] = piece
        at += len(piece)
        piece = await content.readany()
    assert at == size_bytes, "the parser ends a body at its declared size"
    return body


async def _read_chunked(content: StreamReader, config: ServerConfig, hold: Hold) -> bytes:
    pieces: list[bytes] = []
    size_bytes = 0
    while piece := await content.readany():
        size_bytes += len(piece)
        _check_size(size_bytes, config)
        hold.grow_to(size_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def _check_size(size_bytes: int, config: ServerConfig) -> None:
    if size_bytes > config.max_body_size_bytes:
        raise BodyTooLarge(
            f"the body has {size_bytes} bytes or more; expected at most server.max_body_size = "
            f"{config.max_body_size_bytes}; send fewer rows in a request"
        )


def _expects_continue(request: web.BaseRequest) -> bool:
    expect = request.headers.get(hdrs.EXPECT)
    return expect is not None and expect.strip().lower() == "100-continue" and request.version >= (1, 1)


def _send_continue(request: web.BaseRequest) -> None:
    if _expects_continue(request) and not request.content.total_bytes and request.transport is not None:
        request.transport.write(_CONTINUE)


def settle_unread(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Decide what becomes of a body that was not read to its end, before its answer is sent.

    A short rest is read away by aiohttp after the answer. For a long one the answer announces the end of the
    connection; so it does for a body that the client holds back until it is told to go on, which may now come or not.
    """
    content = request.content
    if content.is_eof():
        return
    if _expects_continue(request) and not content.total_bytes:
        response.force_close()
        if isinstance(request.protocol, Connection):
            request.protocol.close_without_lingering()
        return
    declared = declared_size(request)
    if declared is None or declared - content.total_bytes > DRAIN_BYTES:
        response.force_close()
