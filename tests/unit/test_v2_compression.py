"""Compressed bodies (protocol.md section 7)."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from batchserve.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding
from batchserve.frontend.compression import choose_encoding, compress, inflate, parse_content_encoding

TEXT = b'{"inputs": []}' * 1000
LIMIT = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("Identity", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        (" gzip ", "gzip"),
        ("deflate", "deflate"),
        ("DEFLATE", "deflate"),
    ],
)
def test_known_content_encodings_are_read_in_any_case(value: str | None, encoding: str | None) -> None:
    assert parse_content_encoding(value) == encoding


@pytest.mark.parametrize(
    "value", ["br", "zstd", "compress", "x-gzip", "gzip, deflate", "gzip,gzip", "identity, gzip", "gzip;q=1", "*"]
)
def test_other_content_encodings_and_lists_are_415(value: str) -> None:
    with pytest.raises(UnsupportedEncoding) as caught:
        parse_content_encoding(value)
    assert caught.value.status == 415
    assert f"Content-Encoding '{value}' is not supported; expected one of gzip, deflate and identity" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        (gzip.compress(TEXT), "gzip", TEXT),
        (gzip.compress(TEXT) + gzip.compress(b"more"), "gzip", TEXT + b"more"),
        (gzip.compress(b"") + gzip.compress(b"") + gzip.compress(b"x"), "gzip", b"x"),
        (b"".join(gzip.compress(bytes([i])) for i in range(200)) * 40, "gzip", bytes(range(200)) * 40),
        (gzip.compress(b""), "gzip", b""),
        (zlib.compress(TEXT), "deflate", TEXT),
        (zlib.compress(TEXT, 0), "deflate", TEXT),
        (raw_deflate(TEXT), "deflate", TEXT),
    ],
    ids=[
        "gzip",
        "two members",
        "empty members",
        "many members",
        "gzip of nothing",
        "zlib",
        "zlib stored",
        "raw deflate",
    ],
)
def test_whole_streams_are_inflated(data: bytes, encoding: str, expected: bytes) -> None:
    assert inflate(data, encoding, LIMIT) == expected
    assert inflate(memoryview(bytearray(data)), encoding, len(expected)) == expected


GZIP = gzip.compress(TEXT)
ZLIB = zlib.compress(TEXT)


@pytest.mark.parametrize(
    ("data", "encoding", "part"),
    [
        (b"", "gzip", "the body is empty, but Content-Encoding is gzip"),
        (b"", "deflate", "the body is empty, but Content-Encoding is deflate"),
        (b"{}", "gzip", "it is corrupt, or not gzip at all"),
        (ZLIB, "gzip", "it is corrupt, or not gzip at all"),
        (GZIP, "deflate", "it is corrupt, or not deflate at all"),
        (GZIP[:-1], "gzip", "it ends before its end mark"),
        (GZIP[:-8], "gzip", "it ends before its end mark"),
        (GZIP[:5], "gzip", "it ends before its end mark"),
        (ZLIB[:-4], "deflate", "it ends before its end mark"),
        (ZLIB[:1], "deflate", "it ends before its end mark"),
        (raw_deflate(TEXT)[:-1], "deflate", "it ends before its end mark"),
        (GZIP[:-8] + bytes(8), "gzip", "it is corrupt"),
        (GZIP[:30] + bytes([GZIP[30] ^ 255]) + GZIP[31:], "gzip", "corrupt"),
        (GZIP + b"garbage", "gzip", "followed by bytes that are not another gzip member"),
        (GZIP + bytes(3), "gzip", "not a whole gzip stream"),
        (GZIP + GZIP[:20], "gzip", "it ends before its end mark"),
        (ZLIB + b"x", "deflate", "1 bytes follow its end"),
        (gzip.compress(b"") * 10_001, "gzip", "more than 10000 members"),
    ],
)
def test_corrupt_streams_are_400(data: bytes, encoding: str, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        inflate(data, encoding, LIMIT)
    assert caught.value.status == 400
    assert part in str(caught.value)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_inflating_stops_at_the_limit(encoding: str) -> None:
    data = compress([TEXT], encoding)
    assert len(inflate(data, encoding, len(TEXT))) == len(TEXT)
    with pytest.raises(BodyTooLarge) as caught:
        inflate(data, encoding, len(TEXT) - 1)
    assert caught.value.status == 413
    assert caught.value.closes_connection
    assert f"inflates to more than server.max_body_size = {len(TEXT) - 1} bytes" in str(caught.value)


def test_limit_counts_all_members_together() -> None:
    with pytest.raises(BodyTooLarge):
        inflate(gzip.compress(bytes(600)) * 2, "gzip", 1000)


def test_bomb_costs_no_more_memory_than_the_limit() -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(256)) + stream.flush()
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            inflate(bomb, "gzip", 4 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20, "256 MiB would come out of it"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_parts_are_one_stream(encoding: str) -> None:
    parts = [b'{"a":1}', memoryview(bytes(1000)), b"", b"tail"]
    data = compress(parts, encoding)
    assert (gzip.decompress if encoding == "gzip" else zlib.decompress)(data) == b"".join(parts)
    assert compress(parts, encoding) == data, "no time stamp in it"


JSON_HEADERS = {
    None: None,
    "": None,
    "gzip": "gzip",
    "GZIP": "gzip",
    "deflate": "deflate",
    "gzip, deflate": "gzip",
    "deflate, gzip": "gzip",
    "gzip, deflate, br": "gzip",
    "deflate;q=1, gzip;q=0.5": "deflate",
    "deflate;q=0.501, gzip;q=0.5": "deflate",
    "gzip;q=0": None,
    "gzip;q=0.000": None,
    "gzip;q=0, deflate": "deflate",
    "gzip;q=0, *": "deflate",
    "gzip;q=0, deflate;q=0": None,
    "identity": None,
    "identity, gzip": "gzip",
    "identity;q=1, gzip;q=0.9": None,
    "identity;q=0.5, gzip;q=0.9": "gzip",
    "identity;q=0": None,
    "identity;q=0, gzip;q=0.1": "gzip",
    "*": "gzip",
    "*;q=0": None,
    "*;q=0.1": "gzip",
    "deflate, *;q=0": "deflate",
    "*;q=0.5, gzip;q=0.3": "deflate",
    "br": None,
    "br, zstd": None,
    "gzip ; q=1.0": "gzip",
    "\tgzip\t;\tQ=0.8 ": "gzip",
    # Malformed items are skipped.
    "gzip;q=2": None,
    "gzip;q=-1": None,
    "gzip;q=": None,
    "gzip;q=0.1234": None,
    "gzip;q=abc, deflate": "deflate",
    "gzip;level=9": None,
    "gzip;q=1;x=1": None,
    "gz ip": None,
    ";q=1": None,
    ",,gzip,,": "gzip",
    "gzip;q=nan": None,
    "gzip;q=1e0": None,
    # The lowest weight of a coding that is named twice counts.
    "gzip, gzip;q=0": None,
    "gzip;q=0, gzip": None,
    "x" * 100_000 + ", gzip": "gzip",
    ";" * 10_000: None,
}


@pytest.mark.parametrize(("header", "encoding"), JSON_HEADERS.items(), ids=range(len(JSON_HEADERS)))
def test_json_answer_is_compressed_as_the_header_prefers(header: str | None, encoding: str | None) -> None:
    assert choose_encoding(header, is_binary=False, size=5000, min_size=4096, enabled=True) == encoding


BINARY_HEADERS = {
    "gzip": "gzip",
    "deflate": "deflate",
    "Deflate": "deflate",
    "gzip;q=0.5": "gzip",
    "gzip, gz ip": "gzip",
    "gzip;q=0": None,
    "gzip, deflate": None,
    "gzip, deflate, br": None,
    "gzip, br": None,
    "gzip, identity": None,
    "gzip, *;q=0": None,
    "*": None,
    "identity": None,
    "br": None,
    "": None,
    None: None,
}


@pytest.mark.parametrize(("header", "encoding"), BINARY_HEADERS.items())
def test_binary_answer_is_compressed_only_for_a_header_that_names_one_coding(
    header: str | None, encoding: str | None
) -> None:
    assert choose_encoding(header, is_binary=True, size=5000, min_size=4096, enabled=True) == encoding


@pytest.mark.parametrize("is_binary", [True, False])
def test_small_answers_and_switched_off_compression_are_left_alone(is_binary: bool) -> None:
    assert choose_encoding("gzip", is_binary=is_binary, size=4095, min_size=4096, enabled=True) is None
    assert choose_encoding("gzip", is_binary=is_binary, size=4096, min_size=4096, enabled=True) == "gzip"
    assert choose_encoding("gzip", is_binary=is_binary, size=1 << 20, min_size=0, enabled=False) is None
