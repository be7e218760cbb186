"""Request heads: parsed once, strictly, and remembered by their bytes.

The same client sends the same head again and again, so parsing is a dictionary look-up for all but the first. Lines
that differ each time, those of tracing, are cut out before a second look-up. What is not perfectly plain HTTP/1.1
framing is refused here, before anybody can read it in two ways.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httptools

from batchserve.errors import BadFraming, HeadTooLarge
from batchserve.frontend.routes import PROBES, find_route, is_plain_name
from batchserve.frontend.timing import is_asked
from batchserve.frontend.trace_headers import MOST_CUT, cut_trace, is_cut

if TYPE_CHECKING:
    from batchserve.core.trace import Trace
    from batchserve.frontend.routes import Route
    from batchserve.frontend.trace_headers import Cuts

__all__ = ["Head", "HeadCache", "check_beginning", "client_name", "parse_head"]

MAX_HEADERS = 128
"""Header lines in one head; the aiohttp application's own limit."""

MOST_CACHED = 1024
"""Heads remembered; when there are more, all are forgotten: clients whose heads differ each time gain nothing."""

LONGEST_CACHED = 2048
"""Bytes of the longest head that is remembered, so that the cache never holds more than 2 MiB of keys."""

LONGEST_CLIENT = 256
"""Characters that tell clients apart, so that what is kept of them is bounded."""

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # within a line: everything but a tab
_REQUEST_LINE = re.compile(rb"[A-Za-z-]+ [\x21-\x7e\x80-\xff]+ HTTP/[0-9]\.[0-9]")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_FOLDED = (b" ", b"\t")
_MANY_DIGITS = 10


@dataclass(slots=True)
class Head:
    """One request's head, as far as it decides who answers and where the request ends. Nobody changes it.

    Attributes:
        route: The endpoint it means, if it is answered here: inference, or one of `PROBES`; None if aiohttp does.
        length: Bytes of the body; 0 if there is none; -1 if it is chunked.
        is_keep_alive: True if an HTTP/1.1 client keeps the connection; of others aiohttp decides.
        header_length: Value of `Inference-Header-Content-Length`, None if absent.
        accept_encoding: Value of `Accept-Encoding`, None if absent.
        wants_timing: True if the answer shall say where its time went.
        path: The path as sent, for the access log.
        client: Who sent it, see `client_name`.
        trace: What the request is called; None for most.
        cuts: Lines of tracing that it has and the remembered one has not.
        remembered: The head without these lines; None if this is it.
        is_plain: True if it adds nothing to the head of the answer, but for what `accept_encoding` may.
    """

    route: Route | None
    length: int
    is_keep_alive: bool
    header_length: str | None
    accept_encoding: str | None
    wants_timing: bool
    path: str
    client: str = ""
    trace: Trace | None = None
    cuts: Cuts = ()
    remembered: Head | None = None
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_plain", self.is_keep_alive and not self.wants_timing)

    @property
    def json_bytes(self) -> int:
        """The value of `Inference-Header-Content-Length` as a number if it is a short and plain one, else 0."""
        text = self.header_length
        return int(text) if text is not None and len(text) < _MANY_DIGITS and text.isascii() and text.isdigit() else 0

    def called(self, trace: Trace | None, cuts: Cuts) -> Head:
        """Return the head of a request that differs from this one by its lines of tracing alone."""
        return Head(
            self.route,
            self.length,
            self.is_keep_alive,
            self.header_length,
            self.accept_encoding,
            self.wants_timing,
            self.path,
            self.client,
            trace,
            cuts,
            self,
        )


class HeadCache:
    """Heads seen before, by their bytes. Event loop only.

    Args:
        client_header: Name of the header that names the client; "" if none does.
    """

    def __init__(self, client_header: str = "") -> None:
        self._client_header = client_header.lower().encode()
        self._is_cut_needed = is_cut(client_header)
        self._heads: dict[bytes, Head] = {}

    def find(self, raw: bytes) -> Head:
        """Return the parsed head of `raw`, which ends with its empty line.

        Raises:
            BadFraming: It is not HTTP/1.0 or 1.1, or its framing could be read in two ways.
            HeadTooLarge: It has too many lines.
        """
        head = self._heads.get(raw)
        return self._find_without_trace(raw) if head is None else head

    def _find_without_trace(self, raw: bytes) -> Head:
        rest, trace, cuts = cut_trace(raw)
        if cuts and self._is_cut_needed:  # who the client is stands in one of them
            return parse_head(raw, self._client_header).called(trace, ())
        head = self._heads.get(rest) if cuts else None
        if head is None:
            head = parse_head(raw, self._client_header)
            if len(rest) <= LONGEST_CACHED and rest.count(b"\r\n") < MAX_HEADERS - MOST_CUT:
                if len(self._heads) >= MOST_CACHED:
                    self._heads.clear()
                self._heads[rest] = head
        return head.called(trace, cuts) if cuts else head


class _Collector:
    """What httptools tells while it parses."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def parse_head(raw: bytes, client_header: bytes = b"") -> Head:
    """Parse a head; see `HeadCache.find`. `client_header` is in lower case."""
    _check_lines(raw)
    found = _Collector()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # nothing is upgraded to: aiohttp answers as if it had not been asked
    except (httptools.HttpParserError, ValueError) as error:
        raise _bad(_plain(error)) from None
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise _bad(f"its version is {version}")
    named: dict[bytes, bytes] = {}
    for name, value in found.headers:
        named[name] = named[name] + b", " + value if name in named else value
    if version == "1.1" and sum(name == b"host" for name, _ in found.headers) != 1:
        raise _bad("there is not exactly one Host header")
    length = _framing(found.headers, named, version)
    path = found.url.decode("latin-1").partition("?")[0]
    return Head(
        route=_hot_route(parser.get_method(), version, path, length, named),
        length=length,
        is_keep_alive=b"close" not in [token.strip() for token in named.get(b"connection", b"").lower().split(b",")],
        header_length=_text(named.get(b"inference-header-content-length")),
        accept_encoding=_text(named.get(b"accept-encoding")),
        wants_timing=is_asked(_text(named.get(b"x-server-timing"))),
        path=path,
        client=client_name(named.get(client_header, b"").decode("utf-8", "surrogateescape")),
    )


def client_name(value: str | None) -> str:
    """Name a client by its header's value, the same on both ways to the server; "" if it has none."""
    return value.strip()[:LONGEST_CLIENT] if value else ""


def check_beginning(data: bytes) -> None:
    """Refuse the beginning of what can never become a head, without waiting for its end."""
    if data[:2] == b"\x16\x03":
        raise BadFraming("this is HTTPS, which is not spoken here; expected an HTTP/1.1 request: use http://")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise _bad("there is a line feed without a carriage return before it")


def _check_lines(raw: bytes) -> None:
    """Refuse what parsers are known to disagree on: bare CR or LF, control characters, folded lines."""
    lines = raw[:-4].split(b"\r\n")
    if len(lines) > MAX_HEADERS + 1:
        raise HeadTooLarge(f"the request has more than {MAX_HEADERS} headers; send fewer")
    if not _REQUEST_LINE.fullmatch(lines[0]):
        raise _bad("the request line is not a method, a path and a version with one space between")
    for line in lines:
        if _CONTROL.search(line):
            raise _bad("there is a control character, or a CR or LF that ends no line, in the head")
        if line.startswith(_FOLDED):
            raise _bad("a header line begins with white space")


def _framing(headers: list[tuple[bytes, bytes]], named: dict[bytes, bytes], version: str) -> int:
    """Say how long the body is: one way of framing, said once, or none."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        raise _bad("the body's length is given more than once")
    if codings:
        if version == "1.0" or codings[0].strip().lower() != b"chunked":
            raise _bad("its Transfer-Encoding is not chunked, or not over HTTP/1.1")
        return -1
    if not lengths:
        return 0
    if not _LENGTH.fullmatch(lengths[0]):
        raise _bad("Content-Length is no plain decimal number")
    return int(lengths[0])


def _hot_route(method: bytes, version: str, path: str, length: int, named: dict[bytes, bytes]) -> Route | None:
    """Return the endpoint if nothing about the request is out of the ordinary."""
    if version != "1.1" or any(name in named for name in (b"expect", b"upgrade", b"content-encoding")):
        return None
    route = find_route(path) if path.isascii() else None
    if route is None:
        return None
    if method == b"POST" and length > 0 and route.name == "infer" and is_plain_name(route.target):
        return route
    if method == b"GET" and length == 0 and route.name in PROBES:
        is_for_a_browser = route.name == "alive" and b"html" in named.get(b"accept", b"").lower()
        return None if is_for_a_browser else route
    return None


def _bad(why: str) -> BadFraming:
    return BadFraming(f"not valid HTTP: {why}; expected an HTTP/1.1 request")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _plain(error: Exception) -> str:
    """Take the parser's words without the bytes it quotes."""
    return str(error).split(":", 1)[0].strip() or "it could not be read"
