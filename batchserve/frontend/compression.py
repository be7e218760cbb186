"""Compressed bodies: which coding, inflating within a limit, compressing (protocol.md section 7).

Pure functions. Above some tens of kilobytes `inflate` and `compress` belong on a helper thread: zlib lets other threads
run meanwhile.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Literal

from batchserve.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding
from batchserve.frontend.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Encoding", "choose_encoding", "compress", "inflate", "parse_content_encoding"]

Encoding = Literal["gzip", "deflate"]

_STEP_BYTES = 64 << 10  # of input at a time; zlib copies what it has not consumed
_MOST_MEMBERS = 10_000  # of a gzip body: each costs about a microsecond, however empty it is
_LEVEL = 1
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

_CODING = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_ITEM = re.compile(rf"[ \t]*({_CODING})[ \t]*(?:;[ \t]*[qQ]=(0(?:\.[0-9]{{0,3}})?|1(?:\.0{{0,3}})?)[ \t]*)?")


def parse_content_encoding(value: str | None) -> Encoding | None:
    """Read a request's `Content-Encoding`.

    Returns:
        The coding to undo; None for `identity`, an empty value or none at all.

    Raises:
        UnsupportedEncoding: Anything else, lists of codings included.
    """
    if value is None:
        return None
    coding = value.strip().lower()
    if coding == "gzip":
        return "gzip"
    if coding == "deflate":
        return "deflate"
    if coding in ("", "identity"):
        return None
    raise UnsupportedEncoding(
        f"Content-Encoding {quoted(value)} is not supported; expected one of gzip, deflate and identity"
    )


def inflate(data: bytes | bytearray | memoryview, encoding: Encoding, limit: int) -> bytes:
    """Undo a body's compression, never holding more than the limit and one step.

    A gzip body may have several members. A deflate body is a zlib stream, or a raw deflate stream, as some clients send
    it.

    Args:
        data: The whole compressed body.
        encoding: Its coding.
        limit: Bytes that it may have inflated.

    Raises:
        BodyTooLarge: It has more.
        InvalidRequest: It is empty, corrupt, cut short, or followed by something else.
    """
    view = memoryview(data)
    if not view:
        raise InvalidRequest(f"the body is empty, but Content-Encoding is {encoding}; expected a {encoding} stream")
    bits = _WINDOW_BITS[encoding]
    if encoding == "deflate" and not _has_zlib_header(view):
        bits = -zlib.MAX_WBITS
    pieces: list[bytes] = []
    size = 0
    at = 0
    members = 0
    while at < len(view):
        if members and encoding == "deflate":
            raise _corrupt(encoding, f"{len(view) - at} bytes follow its end")
        if members == _MOST_MEMBERS:
            raise _corrupt(encoding, f"it has more than {_MOST_MEMBERS} members")
        members += 1
        try:
            at, size = _inflate_member(view, at, bits, pieces, size, limit)
        except zlib.error:
            why = "corrupt" if members == 1 else "followed by bytes that are not another gzip member, or corrupt"
            raise _corrupt(encoding, f"it is {why}, or not {encoding} at all") from None
        if at < 0:
            raise _corrupt(encoding, "it ends before its end mark")
    return b"".join(pieces)


def _inflate_member(
    view: memoryview, at: int, bits: int, pieces: list[bytes], size: int, limit: int
) -> tuple[int, int]:
    """Inflate one stream from `at` on into `pieces`; return where it ends (-1 if it does not) and the new size."""
    stream = zlib.decompressobj(bits)
    while at < len(view):
        chunk: bytes | memoryview = view[at : at + _STEP_BYTES]
        at += len(chunk)
        while chunk:
            piece = stream.decompress(chunk, limit - size + 1)
            size += len(piece)
            if size > limit:
                raise BodyTooLarge(
                    f"the body inflates to more than server.max_body_size = {limit} bytes; send less in one request"
                )
            pieces.append(piece)
            chunk = stream.unconsumed_tail
        if stream.eof:
            return at - len(stream.unused_data), size
    return -1, size


def _has_zlib_header(view: memoryview) -> bool:
    return len(view) >= 2 and view[0] & 0x0F == 8 and (view[0] << 8 | view[1]) % 31 == 0


def _corrupt(encoding: Encoding, why: str) -> InvalidRequest:
    return InvalidRequest(f"the body is not a whole {encoding} stream: {why}; expected what Content-Encoding says")


def choose_encoding(
    accept_encoding: str | None, *, is_binary: bool, size: int, min_size: int, enabled: bool
) -> Encoding | None:
    """Decide how to compress an answer.

    A client library that always says "gzip, deflate" has not asked for binary tensors to be squeezed: those are only
    compressed for a header that names exactly one coding.

    Args:
        accept_encoding: The request's `Accept-Encoding`, None if absent.
        is_binary: True if the body has binary tensors.
        size: Its bytes.
        min_size: The configured threshold.
        enabled: False if compression is switched off.

    Returns:
        The acceptable coding of the highest q-value, gzip before deflate before identity among equals; None for
        identity, also where the client forbids everything. Malformed items are skipped; of items for the same
        coding the lowest q-value counts, as 0 forbids.
    """
    if not accept_encoding or not enabled or size < min_size:
        return None
    weights: dict[str, float] = {}
    for item in accept_encoding.split(","):
        match = _ITEM.fullmatch(item)
        if match:
            coding = match[1].lower()
            weight = 1.0 if match[2] is None else float(match[2])
            weights[coding] = min(weight, weights.get(coding, weight))
    if is_binary and weights.keys() not in ({"gzip"}, {"deflate"}):
        return None
    others = weights.get("*", 0.0)
    gzip = weights.get("gzip", others)
    deflate = weights.get("deflate", others)
    best = max(gzip, deflate)
    if best == 0.0 or weights.get("identity", others) > best:
        return None
    return "gzip" if gzip >= deflate else "deflate"


def compress(parts: Iterable[bytes | memoryview], encoding: Encoding) -> bytes:
    """Compress an answer's parts into one body: gzip, or for deflate a zlib stream.

    Level 1: a megabyte of FP32 in JSON shrinks to 46 % in 17 ms; level 6 takes 111 ms for 42 % (zlib 1.2, one core).
    """
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    pieces = [stream.compress(part) for part in parts]
    pieces.append(stream.flush())
    return b"".join(pieces)
