"""Request heads and chunked bodies: one way of reading them, or none."""

from __future__ import annotations

import contextlib

import pytest
from support.broken_streams import BROKEN_CHUNKS, BROKEN_HEADS, head

from batchserve.errors import BadFraming, HeadTooLarge
from batchserve.frontend.chunks import ChunkScanner
from batchserve.frontend.heads import LONGEST_CACHED, LONGEST_CLIENT, MOST_CACHED, HeadCache, parse_head
from batchserve.frontend.routes import PROBES


def test_plain_inference_request_is_hot() -> None:
    parsed = parse_head(head(b"Content-Length: 12", b"inference-header-content-length: 7", b"Accept-Encoding: gzip"))
    assert parsed.route is not None
    assert (parsed.route.target, parsed.route.version) == ("m", "")
    assert (parsed.length, parsed.header_length, parsed.accept_encoding) == (12, "7", "gzip")
    assert parsed.is_keep_alive


@pytest.mark.parametrize("path", [b"/", b"/v2/health/ready", b"/v2/models/m", b"/v2/models/m/versions/2/ready"])
def test_probe_without_a_body_is_hot(path: bytes) -> None:
    parsed = parse_head(head(request=b"GET " + path + b" HTTP/1.1"))
    assert parsed.route is not None
    assert parsed.route.name in PROBES


def test_version_and_percent_encoding_of_the_path_are_read() -> None:
    parsed = parse_head(head(b"Content-Length: 1", request=b"POST /v2/models/a%20b/versions/3/infer?x=1 HTTP/1.1"))
    assert parsed.route is not None
    assert (parsed.route.target, parsed.route.version) == ("a b", "3")


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([b"X-Client-Id: team a "], "team a"),
        ([b"x-CLIENT-id:\tteam-a"], "team-a"),
        ([b"X-Client-Id: a", b"X-Client-Id: b"], "a, b"),
        ([b"X-Client-Id: "], ""),
        ([b"X-Client: a"], ""),
        ([b"X-Client-Id: " + "käse".encode()], "käse"),
        ([b"X-Client-Id: " + b"a" * 300], "a" * LONGEST_CLIENT),
    ],
)
def test_client_is_named_by_the_configured_header(lines: list[bytes], client: str) -> None:
    heads = HeadCache("X-Client-ID")
    raw = head(b"Content-Length: 1", *lines)
    assert heads.find(raw).client == client
    assert heads.find(raw) is heads.find(raw)
    assert HeadCache().find(raw).client == ""


def test_close_is_noted() -> None:
    assert not parse_head(head(b"Content-Length: 1", b"Connection: close")).is_keep_alive


@pytest.mark.parametrize(
    "raw",
    [
        head(request=b"HEAD /v2/health/live HTTP/1.1"),
        head(request=b"GET /v2/health/live HTTP/1.0"),
        head(request=b"GET /v2/health/live/ HTTP/1.1"),
        head(b"Content-Length: 1", request=b"GET /v2/health/live HTTP/1.1"),
        head(request=b"GET /metrics HTTP/1.1"),
        head(request=b"GET /v2/models/stats HTTP/1.1"),
        head(b"Content-Length: 0"),
        head(),
        head(b"Transfer-Encoding: chunked"),
        head(b"Content-Length: 3", b"Content-Encoding: gzip"),
        head(b"Content-Length: 3", b"Expect: 100-continue"),
        head(b"Content-Length: 3", b"Connection: upgrade", b"Upgrade: h2c"),
        head(b"Content-Length: 3", request=b"POST /v2/models/m/infer HTTP/1.0"),
        head(b"Content-Length: 3", request=b"POST /v2/models/m/infer/ HTTP/1.1"),
        head(b"Content-Length: 3", request=b"POST /v2/models/%2e%2e/infer HTTP/1.1"),
        head(b"Content-Length: 3", request=b"PUT /v2/models/m/infer HTTP/1.1"),
    ],
)
def test_anything_out_of_the_ordinary_goes_to_aiohttp(raw: bytes) -> None:
    assert parse_head(raw).route is None


def test_chunked_body_has_no_length() -> None:
    assert parse_head(head(b"Transfer-Encoding: Chunked")).length == -1


@pytest.mark.parametrize("raw", BROKEN_HEADS)
def test_head_that_could_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    with pytest.raises(BadFraming) as caught:
        parse_head(raw)
    assert caught.value.status == 400
    assert caught.value.closes_connection


def test_too_many_headers_are_refused() -> None:
    with pytest.raises(HeadTooLarge):
        parse_head(head(*(b"X-%d: 1" % i for i in range(200))))


def test_every_head_cut_or_damaged_anywhere_is_read_or_refused() -> None:
    """No byte of damage makes anything but an answer or a refusal."""
    raw = head(b"Content-Length: 12", b"inference-header-content-length: 7")
    for at in range(len(raw) - 4):
        for byte in (0, 9, 10, 13, 32, 58, 127, 255):
            damaged = raw[:at] + bytes([byte]) + raw[at + 1 :]
            if b"\r\n\r\n" in damaged[:-4]:
                continue
            with contextlib.suppress(BadFraming):
                assert parse_head(damaged).length in range(-1, 1000)


def test_cache_is_bounded_and_holds_no_long_heads() -> None:
    cache = HeadCache()
    first = cache.find(head(b"Content-Length: 1"))
    assert cache.find(head(b"Content-Length: 1")) is first
    for number in range(3 * MOST_CACHED):
        cache.find(head(b"Content-Length: 1", b"X-Request-Id: %d" % number))
    assert len(cache._heads) <= MOST_CACHED
    cache.find(head(b"X: " + b"a" * LONGEST_CACHED))
    assert all(len(raw) <= LONGEST_CACHED for raw in cache._heads)


# --- chunks -----------------------------------------------------------------------------------------------------------

BODY = b"3\r\nabc\r\n1A;name=value\r\n" + b"x" * 26 + b"\r\n0\r\nTrailer: yes\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_end_of_a_chunked_body_is_found_however_it_arrives(step: int) -> None:
    scanner, data, taken = ChunkScanner(), BODY + b"GET / HTTP/1.1\r\n", 0
    while not scanner.is_done:
        piece = data[taken : taken + step]
        used = scanner.feed(piece)
        assert used == len(piece) or scanner.is_done
        taken += used
    assert taken == len(BODY)


@pytest.mark.parametrize("body", BROKEN_CHUNKS)
def test_malformed_chunks_are_refused(body: bytes) -> None:
    with pytest.raises(BadFraming, match="malformed"):
        ChunkScanner().feed(body)
    with pytest.raises(BadFraming, match="malformed"):
        feed_bytewise(body)


def feed_bytewise(body: bytes) -> None:
    scanner = ChunkScanner()
    for at in range(len(body)):
        scanner.feed(body[at : at + 1])
