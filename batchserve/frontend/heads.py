"""Request heads: parsed once, strictly, and remembered by their bytes.

The same client sends the same head again and again, so parsing is a dictionary look-up for all but the first. What is
not perfectly plain HTTP/1.1 framing is refused here, before anybody can read it in two ways.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools

from batchserve.frontend.guard import BadFraming, HeadTooLarge
from batchserve.frontend.routes import find_route, is_plain_name

if TYPE_CHECKING:
    from batchserve.frontend.routes import Route

__all__ = ["Head", "HeadCache", "parse_head"]

MAX_HEADERS = 128
"""Header lines in one head; the aiohttp application's own limit."""

MOST_CACHED = 1024
"""Heads remembered; when there are more, all are forgotten: clients whose heads differ each time gain nothing."""

LONGEST_CACHED = 2048
"""Bytes of the longest head that is remembered, so that the cache never holds more than 2 MiB of keys."""

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # within a line: everything but a tab
_REQUEST_LINE = re.compile(rb"[A-Za-z-]+ [\x21-\x7e\x80-\xff]+ HTTP/[0-9]\.[0-9]")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_FOLDED = (b" ", b"\t")
_HOT_METHOD = b"POST"


@dataclass(frozen=True, slots=True)
class Head:
    """One request's head, as far as it decides who answers and where the request ends.

    Attributes:
        route: The inference endpoint it means, if the hot path may answer it; None if aiohttp does.
        length: Bytes of the body; 0 if there is none; -1 if it is chunked.
        is_keep_alive: True if the client keeps the connection.
        header_length: Value of `Inference-Header-Content-Length`, None if absent.
        accept_encoding: Value of `Accept-Encoding`, None if absent.
        path: The path as sent, for the access log.
    """

    route: Route | None
    length: int
    is_keep_alive: bool
    header_length: str | None
    accept_encoding: str | None
    path: str


class HeadCache:
    """Heads seen before, by their bytes. Event loop only."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def find(self, raw: bytes) -> Head:
        """Return the parsed head of `raw`, which ends with its empty line.

        Raises:
            BadFraming: It is not HTTP/1.0 or 1.1, or its framing could be read in two ways.
            HeadTooLarge: It has too many lines.
        """
        head = self._heads.get(raw)
        if head is None:
            head = parse_head(raw)
            if len(raw) <= LONGEST_CACHED:
                if len(self._heads) >= MOST_CACHED:
                    self._heads.clear()
                self._heads[raw] = head
        return head


class _Collector:
    """What httptools tells while it parses."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def parse_head(raw: bytes) -> Head:
    """Parse a head; see `HeadCache.find`."""
    _check_lines(raw)
    found = _Collector()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # nothing is upgraded to: aiohttp answers as if it had not been asked
    except (httptools.HttpParserError, ValueError) as error:
        raise BadFraming(f"not valid HTTP: {_plain(error)}; expected an HTTP/1.1 request") from None
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise BadFraming(f"not valid HTTP: version {version}; expected an HTTP/1.1 request")
    named: dict[bytes, bytes] = {}
    for name, value in found.headers:
        named[name] = named[name] + b", " + value if name in named else value
    length = _framing(found.headers, named, version)
    path = found.url.decode("latin-1").partition("?")[0]
    return Head(
        route=_hot_route(parser.get_method(), version, path, length, named),
        length=length,
        is_keep_alive=parser.should_keep_alive(),
        header_length=_text(named.get(b"inference-header-content-length")),
        accept_encoding=_text(named.get(b"accept-encoding")),
        path=path,
    )


def _check_lines(raw: bytes) -> None:
    """Refuse what parsers are known to disagree on: bare CR or LF, control characters, folded lines."""
    lines = raw[:-4].split(b"\r\n")
    if len(lines) > MAX_HEADERS + 1:
        raise HeadTooLarge(f"the request has more than {MAX_HEADERS} headers; send fewer")
    if not _REQUEST_LINE.fullmatch(lines[0]):
        raise BadFraming("not valid HTTP: expected a request line of method, path and HTTP/1.1, with one space between")
    for line in lines:
        if _CONTROL.search(line):
            raise BadFraming("not valid HTTP: a control character, or a CR or LF that ends no line, in the head")
        if line.startswith(_FOLDED):
            raise BadFraming("not valid HTTP: a header line begins with white space; send each header on one line")


def _framing(headers: list[tuple[bytes, bytes]], named: dict[bytes, bytes], version: str) -> int:
    """Say how long the body is: one way of framing, said once, or none."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        raise BadFraming(
            "not valid HTTP: the body's length is given more than once; expected one Content-Length or one "
            "Transfer-Encoding"
        )
    if codings:
        if version == "1.0" or codings[0].strip().lower() != b"chunked":
            raise BadFraming("not valid HTTP: this Transfer-Encoding is not read; expected chunked, over HTTP/1.1")
        return -1
    if not lengths:
        return 0
    if not _LENGTH.fullmatch(lengths[0]):
        raise BadFraming("not valid HTTP: Content-Length is no plain decimal number")
    return int(lengths[0])


def _hot_route(method: bytes, version: str, path: str, length: int, named: dict[bytes, bytes]) -> Route | None:
    """Return the inference endpoint if nothing about the request is out of the ordinary."""
    if method != _HOT_METHOD or version != "1.1" or length <= 0:
        return None
    if any(name in named for name in (b"expect", b"upgrade", b"content-encoding")):
        return None
    route = find_route(path)
    if route is None or route.name != "infer" or not is_plain_name(route.target):
        return None
    return route


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _plain(error: Exception) -> str:
    """Take the parser's words without the bytes it quotes."""
    return str(error).split(":", 1)[0].strip() or "it could not be read"
