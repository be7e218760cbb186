"""Every 400 for binary data, and the 404 of shared memory (protocol.md sections 5, 8 and 12), with their words."""

from __future__ import annotations

from typing import Any

import pytest
from support.v2_codec import (
    ADDONE,
    PAIR,
    asking,
    assert_invalid,
    body_of,
    bytes_tensor,
    echo,
    good,
    good_binary,
    model_info,
    refusal,
    with_tail,
)

from batchserve.errors import InvalidRequest, RegionNotFound, RequestError
from batchserve.frontend.v2 import ModelInfo

WHOLE = model_info([("x", "INT32", (2, -1))], [("y", "INT32", (2, -1))], 0, name="whole")
FREE = model_info([("x", "FP32", (-1, -1, -1))], [("y", "FP32", (-1, 3))], name="free")
WORDS = echo("BYTES", (-1, 2))
HALF = echo("FP16", (-1, 2))
HEADER = "Inference-Header-Content-Length"
GOOD_TAIL = bytes(12)


def words(size: int) -> dict[str, Any]:
    """Give a request for two strings in binary form."""
    return good_binary(datatype="BYTES", shape=[1, 2], parameters={"binary_data_size": size})


TAILS: dict[str, tuple[ModelInfo, bytes, str | None, list[str]]] = {
    "header length not a number": (
        ADDONE,
        b"{}",
        "abc",
        ["request to model 'addone'", f"{HEADER} is 'abc'", "plain decimal"],
    ),
    "header length empty": (ADDONE, b"{}", "", [f"{HEADER} is ''"]),
    "header length negative": (ADDONE, b"{}", "-1", [f"{HEADER} is '-1'"]),
    "header length signed": (ADDONE, b"{}", "+2", [f"{HEADER} is '+2'"]),
    "header length with a fraction": (ADDONE, b"{}", "2.0", [f"{HEADER} is '2.0'"]),
    "header length with a tail": (ADDONE, b"{}", "2abc", [f"{HEADER} is '2abc'"]),
    "header length spaced": (ADDONE, b"{}", "1 2", [f"{HEADER} is '1 2'"]),
    "header length in other digits": (ADDONE, b"{}", "٢", [f"{HEADER} is '٢'"]),
    "header length superscript": (ADDONE, b"{}", "²", [f"{HEADER} is"]),
    "header length hexadecimal": (ADDONE, b"{}", "0x2", [f"{HEADER} is '0x2'"]),
    "header length beyond the body": (
        ADDONE,
        b"{}",
        "3",
        [f"{HEADER} is '3', but the body has 2 bytes (decompressed)"],
    ),
    "header length of 5000 digits": (ADDONE, b"{}", "9" * 5000, ["but the body has 2 bytes"]),
    "header length in the middle of the JSON": (ADDONE, body_of(good()), "20", ["not valid JSON"]),
    "header length forgotten": (
        ADDONE,
        with_tail(good_binary(parameters={"binary_data_size": 12}), b"\xff" * 12)[0],
        None,
        ["not valid UTF-8", HEADER],
    ),
    "header length forgotten, tail is text": (
        ADDONE,
        with_tail(good_binary(parameters={"binary_data_size": 12}), b"a" * 12)[0],
        None,
        ["not valid JSON: Extra data", HEADER],
    ),
    "no tail": (
        ADDONE,
        body_of(good_binary(parameters={"binary_data_size": 12})),
        None,
        ["input 'x' of model 'addone': binary_data_size is 12, but 0 bytes of the body are left"],
    ),
    "tail cut short": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": 12}), bytes(11)),
        ["input 'x' of model 'addone': binary_data_size is 12, but 11 bytes of the body are left"],
    ),
    "tail too long": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": 12}), bytes(13)),
        ["request to model 'addone': 1 byte of the body are left over", "add up to the rest of the body"],
    ),
    "tail without binary inputs": (ADDONE, *with_tail(good(), b"abc"), ["3 bytes of the body are left over"]),
    "size below the shape": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": 8}), bytes(8)),
        ["input 'x' of model 'addone': 8 bytes of binary data; shape [1,3] of FP32 takes 12"],
    ),
    "size above the shape": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": 16}), bytes(16)),
        ["16 bytes of binary data; shape [1,3] of FP32 takes 12"],
    ),
    "size zero": (
        ADDONE,
        body_of(good_binary(parameters={"binary_data_size": 0})),
        None,
        ["0 bytes of binary data; shape [1,3]"],
    ),
    "size negative": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": -12}), GOOD_TAIL),
        ["input 'x' of model 'addone': parameter binary_data_size is the number -12; expected an integer of at least"],
    ),
    "size minus one of BOOL": (
        echo("BOOL", (-1, 1)),
        body_of(good_binary(datatype="BOOL", shape=[1, 1], parameters={"binary_data_size": -1})),
        None,
        ["parameter binary_data_size is the number -1"],
    ),
    "size zero of BOOL": (
        echo("BOOL", (-1, 1)),
        body_of(good_binary(datatype="BOOL", shape=[1, 1], parameters={"binary_data_size": 0})),
        None,
        ["0 bytes of binary data; shape [1,1] of BOOL takes 1"],
    ),
    "size a float": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": 12.0}), GOOD_TAIL),
        ["parameter binary_data_size is the number 12.0; expected an integer"],
    ),
    "size a string": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": "12"}), GOOD_TAIL),
        ["parameter binary_data_size is the string '12'"],
    ),
    "size a boolean": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": True}), GOOD_TAIL),
        ["parameter binary_data_size is true"],
    ),
    "size of 4000 digits": (
        ADDONE,
        *with_tail(good_binary(parameters={"binary_data_size": 10**4000}), GOOD_TAIL),
        ["binary_data_size is an integer beyond 128 bits, but 12 bytes of the body are left"],
    ),
    "huge shape, small tail": (
        echo("FP32", (-1, -1)),
        *with_tail(good_binary(shape=[1, 2**62], parameters={"binary_data_size": 12}), GOOD_TAIL),
        ["12 bytes of binary data; shape [1,4611686018427387904] of FP32 takes 18446744073709551616"],
    ),
    "BYTES of no bytes": (
        WORDS,
        body_of(words(0)),
        None,
        ["input 'x' of model 'echo': 0 bytes of binary data cannot hold the 2 elements of shape [1,2]"],
    ),
    "BYTES without room for the lengths": (
        echo("BYTES", (-1, -1)),
        *with_tail(good_binary(datatype="BYTES", shape=[1, 2**62], parameters={"binary_data_size": 12}), GOOD_TAIL),
        ["12 bytes of binary data cannot hold the 4611686018427387904 elements"],
    ),
    "BYTES length past the end": (
        WORDS,
        *with_tail(
            words(10),
            bytes_tensor(b"hi") + b"\xff\xff\xff\xff",
        ),
        ["input 'x' of model 'echo': element 1 runs past the end of its 10 bytes of binary data", "4-byte"],
    ),
    "BYTES cut inside a length": (
        WORDS,
        *with_tail(
            words(8),
            bytes_tensor(b"h") + b"\x00\x00\x00",
        ),
        ["element 1 runs past the end"],
    ),
    "BYTES with too few elements": (
        WORDS,
        *with_tail(words(8), bytes_tensor(b"four")),
        ["its 8 bytes of binary data hold 1 element; shape [1,2] holds 2 elements"],
    ),
    "BYTES with too many elements": (
        WORDS,
        *with_tail(
            words(12),
            bytes_tensor(b"", b"", b""),
        ),
        ["its 12 bytes of binary data hold 2 elements and 4 bytes more; shape [1,2] holds 2 elements"],
    ),
    "BYTES not UTF-8": (
        WORDS,
        *with_tail(
            words(10),
            bytes_tensor(b"a", b"\xff"),
        ),
        ["input 'x' of model 'echo': element 1 is not valid UTF-8"],
    ),
    "raw: two inputs": (
        PAIR,
        bytes(8),
        "0",
        ["request to model 'pair': Inference-Header-Content-Length is 0", "2 inputs"],
    ),
    "raw: empty": (ADDONE, b"", "0", ["it has 0 bytes; expected 12 for shape [1,3] of FP32"]),
    "raw: too short": (ADDONE, bytes(11), "0", ["it has 11 bytes; expected 12 for shape [1,3] of FP32"]),
    "raw: two rows": (ADDONE, bytes(24), "0", ["it has 24 bytes; expected 12 for shape [1,3] of FP32"]),
    "raw: not a multiple": (
        WHOLE,
        bytes(12),
        "00",
        ["it has 12 bytes; expected a multiple of 8 for shape [2,-1] of INT32"],
    ),
    "raw: two free dimensions": (FREE, bytes(8), "0", ["2 free dimensions besides the batch", "send a JSON header"]),
    "raw: several strings": (WORDS, bytes_tensor(b"a", b"b"), "0", ["BYTES of 2 elements and only a single one"]),
    "raw: bad string": (echo("BYTES", (-1, 1)), b"\x05\x00\x00\x00abc", "0", ["element 0 runs past the end"]),
    "raw: FP16 of the wrong size": (HALF, bytes(3), "0", ["it has 3 bytes; expected 4 for shape [1,2] of FP16"]),
    "raw: a model with an empty dimension": (echo("FP32", (-1, 0)), bytes(4), "0", ["it has 4 bytes; expected 0"]),
}


@pytest.mark.parametrize("row", TAILS.values(), ids=TAILS.keys())
def test_bad_binary_body_is_400_and_says_what_was_wrong(row: tuple[ModelInfo, bytes, str | None, list[str]]) -> None:
    assert_invalid(*row)


REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 12}
REGIONS: dict[str, tuple[Any, type[RequestError], list[str]]] = {
    "input": (
        good_binary(parameters=REGION),
        RegionNotFound,
        ["input 'x' of model 'addone': shared-memory region 'r' is not"],
    ),
    "input with offset": (good_binary(parameters=REGION | {"shared_memory_offset": 4}), RegionNotFound, ["region 'r'"]),
    "output": (
        asking({"name": "y", "parameters": REGION}),
        RegionNotFound,
        ["output 'y' of model 'addone': shared-memory region 'r' is not registered"],
    ),
    "output, not binary": (
        asking({"name": "y", "parameters": REGION | {"binary_data": False}}),
        RegionNotFound,
        ["region 'r'"],
    ),
    "input with data": (good(parameters=REGION), InvalidRequest, ["data and shared_memory_region exclude each other"]),
    "input with binary data": (
        good_binary(parameters=REGION | {"binary_data_size": 12}),
        InvalidRequest,
        ["binary_data_size and shared_memory_region exclude each other"],
    ),
    "output binary": (
        asking({"name": "y", "parameters": REGION | {"binary_data": True}}),
        InvalidRequest,
        ["output 'y' of model 'addone': shared_memory_region and binary_data exclude each other"],
    ),
    "region a number": (
        good_binary(parameters=REGION | {"shared_memory_region": 3}),
        InvalidRequest,
        ["is the number 3"],
    ),
    "no size": (
        good_binary(parameters={"shared_memory_region": "r"}),
        InvalidRequest,
        ["without shared_memory_byte_size"],
    ),
    "size a string": (
        good_binary(parameters=REGION | {"shared_memory_byte_size": "12"}),
        InvalidRequest,
        ["parameter shared_memory_byte_size is the string '12'"],
    ),
    "offset negative": (
        good_binary(parameters=REGION | {"shared_memory_offset": -1}),
        InvalidRequest,
        ["parameter shared_memory_offset is the number -1"],
    ),
}


@pytest.mark.parametrize("row", REGIONS.values(), ids=REGIONS.keys())
def test_shared_memory_is_an_unknown_region_or_a_bad_parameter(row: tuple[Any, type[RequestError], list[str]]) -> None:
    document, kind, parts = row
    error = refusal(ADDONE, body_of(document))
    assert type(error) is kind
    assert error.status == (404 if kind is RegionNotFound else 400)
    for part in parts:
        assert part in str(error)
