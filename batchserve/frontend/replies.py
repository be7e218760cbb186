"""Answers as bytes, for connections that write them without aiohttp: heads from templates, errors in their one form."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

from batchserve.errors import MethodNotAllowed
from batchserve.frontend.responses import SERVER
from batchserve.frontend.trace_headers import new_request_id, request_id_line

if TYPE_CHECKING:
    from batchserve.core.tensors import Array
    from batchserve.errors import RequestError
    from batchserve.frontend.templates import Template

__all__ = ["error_reply", "json_reply", "ok_head", "plain_reply"]

_OK_BINARY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
    b"Content-Length: %d\r\n%b%b\r\n"
)
_OK_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b\r\n"
_OK_LINE = b"HTTP/1.1 200 OK\r\n"
_CLOSE = b"Connection: close\r\n"
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class _Date:
    """The `Date` and `Server` headers, made once a second."""

    second = -1
    lines = b""


def _common() -> bytes:
    second = int(time.time())
    if second != _Date.second:
        _Date.lines = f"Date: {formatdate(second, usegmt=True)}\r\nServer: {SERVER}\r\n".encode()
        _Date.second = second
    return _Date.lines


def ok_head(size_bytes: int, json_length: int | None, extra: bytes = b"", *, is_closing: bool) -> bytes:
    """Write the head of a successful inference answer.

    Args:
        size_bytes: Length of the body as it is sent.
        json_length: Bytes of its JSON, uncompressed; None if no tensor is binary.
        extra: Further header lines, each with its CRLF.
        is_closing: True if the connection ends after this answer.
    """
    if is_closing:
        extra += _CLOSE
    if json_length is None:
        return _OK_JSON % (size_bytes, _common(), extra)
    return _OK_BINARY % (json_length, size_bytes, _common(), extra)


def plain_reply(template: Template, outputs: tuple[Array, ...], request_id: str = "") -> bytes:
    """Write a whole answer with nothing special about it: head, JSON and tensors.

    Args:
        template: The one that fits; its head is brought up to date.
        outputs: Numbers of its shapes.
        request_id: What the request is called; "" for most.
    """
    second = int(time.time())
    if template.second != second:
        template.begin = ok_head(template.body_bytes, len(template.json), is_closing=False) + template.json
        template.second = second
    begin = template.begin
    if request_id:
        begin = b"%b%b%b" % (_OK_LINE, request_id_line(request_id), begin[len(_OK_LINE) :])
    if len(outputs) == 1:
        return begin + outputs[0].tobytes()
    return b"".join([begin, *[array.tobytes() for array in outputs]])


def error_reply(error: RequestError, request_id: str = "", *, is_closing: bool) -> bytes:
    """Write a whole error answer (protocol.md section 8), as `responses.error_response` does with aiohttp.

    Args:
        error: What ended the request.
        request_id: What the request is called; "" gives it a name.
        is_closing: True if the connection ends after this answer.
    """
    text = str(error).encode("utf-8", "replace").decode() or error.reason
    body = orjson.dumps({"error": text})
    lines = []
    if error.retry_after_s is not None:
        lines.append(f"Retry-After: {error.retry_after_s}\r\n")
    if isinstance(error, MethodNotAllowed):
        lines.append(f"Allow: {', '.join(error.allow)}\r\n")
    extra = "".join(lines).encode() + request_id_line(request_id or new_request_id())
    return _json_reply(error.status, body, extra, is_closing=is_closing)


def json_reply(status: int, value: object, request_id: str = "", *, is_closing: bool) -> bytes:
    """Write a whole answer with a JSON body; one to a request that is called something says so."""
    extra = request_id_line(request_id) if request_id else b""
    return _json_reply(status, orjson.dumps(value), extra, is_closing=is_closing)


def _json_reply(status: int, body: bytes, extra: bytes, *, is_closing: bool) -> bytes:
    return b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b%b\r\n%b" % (
        status,
        _PHRASES.get(status, b""),
        len(body),
        extra,
        _common(),
        _CLOSE if is_closing else b"",
        body,
    )
