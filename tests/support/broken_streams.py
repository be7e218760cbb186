"""Requests whose framing is broken or could be read in two ways: the one table of what must be refused."""

from __future__ import annotations

__all__ = ["BROKEN_CHUNKS", "BROKEN_HEADS", "INFER", "head"]

INFER = b"POST /v2/models/m/infer HTTP/1.1"


def head(*lines: bytes, request: bytes = INFER) -> bytes:
    return b"\r\n".join((request, b"Host: a", *lines)) + b"\r\n\r\n"


BROKEN_HEADS = [
    head(b"Content-Length: 3", b"Content-Length: 3"),
    head(b"Content-Length: 3", b"Content-Length: 4"),
    head(b"Content-Length: 3, 3"),
    head(b"Content-Length: +3"),
    head(b"Content-Length: -3"),
    head(b"Content-Length: 0x3"),
    head(b"Content-Length: 3 3"),
    head(b"Content-Length:"),
    head(b"Content-Length: 1" + b"0" * 30),
    head(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    head(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    head(b"Transfer-Encoding: chunked, chunked"),
    head(b"Transfer-Encoding: gzip, chunked"),
    head(b"Transfer-Encoding: identity"),
    head(b"Transfer-Encoding: xchunked"),
    head(b"Transfer-Encoding : chunked"),
    head(b"Transfer-Encoding: chunked", request=b"POST /v2/models/m/infer HTTP/1.0"),
    head(b"Content-Length : 3"),
    head(b" Content-Length: 3"),
    head(b"X: 1", b" folded", b"Content-Length: 3"),
    head(b"X: 1\n", b"Content-Length: 3"),
    head(b"X: 1\rY: 2", b"Content-Length: 3"),
    head(b"X: \x00", b"Content-Length: 3"),
    head(b"X: \x0b", b"Content-Length: 3"),
    head(b"X\x7f: 1", b"Content-Length: 3"),
    head(b"no colon", b"Content-Length: 3"),
    head(b": no name", b"Content-Length: 3"),
    head(b"X(Y): 1", b"Content-Length: 3"),
    head(request=b"POST  /v2/models/m/infer  HTTP/1.1"),
    head(request=b"POST /v2/models/m/infer"),
    head(request=b"POST /v2/models/m/infer HTTP/2.0"),
    head(request=b"POST /v2/models/m/infer HTTP/1.2"),
    head(request=b"POST /v2/models/m/infer HTTP/1.1 "),
    head(request=b"post /v2/models/m/infer HTTP/1.1"),
    head(request=b"BREW /v2/models/m/infer HTTP/1.1"),
    head(request=b"PRI * HTTP/2.0"),
    head(request=b"POST /v2/mod\x01els/m/infer HTTP/1.1"),
]
"""Whole heads. Lengths that contradict or repeat each other, codings, control characters, bare CR and LF, versions."""

BROKEN_CHUNKS = [
    b"3\nabc\r\n",
    b"3\r\nabcd\r\n",
    b"3\r\nab\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"0x3\r\nabc\r\n",
    b"+3\r\nabc\r\n",
    b"-1\r\n",
    b" 3\r\nabc\r\n",
    b"\r\n",
    b"g\r\n",
    b"1" + b"0" * 16 + b"\r\n",
    b"3;a\x00b\r\nabc\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n folded: 1\r\n\r\n",
    b"0\r\n" + b"A: " + b"x" * 5000 + b"\r\n\r\n",
    b"0\r\n" + (b"A: " + b"x" * 1000 + b"\r\n") * 20 + b"\r\n",
]
"""Bodies of a request whose head says `Transfer-Encoding: chunked`."""
