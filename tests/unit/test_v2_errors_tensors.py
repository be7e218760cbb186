"""Every 400 for the tensors of a v2 request (protocol.md section 8), with the words that name what was wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.v2_codec import ADDONE, NO_PHASES, PAIR, asking, assert_invalid, body_of, echo, good, model_info, refusal

from batchserve.core.request import Response
from batchserve.errors import InvalidRequest
from batchserve.frontend.v2 import ModelInfo, decode, encode

Row = tuple[ModelInfo, Any, list[str]]


def pair(a: Any = None, b: Any = None) -> dict[str, Any]:
    inputs = [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]} | (a or {}),
        {"name": "b", "datatype": "INT64", "shape": [1, 1], "data": [1]} | (b or {}),
    ]
    return {"inputs": inputs, "outputs": [{"name": "sum"}]}


def typed(datatype: str, *data: Any, words: list[str]) -> Row:
    return echo(datatype, (-1, -1)), good(datatype=datatype, shape=[1, len(data)], data=list(data)), words


OFF = model_info([("x", "FP32", (-1, 3))], [("y", "FP32", (-1, 3))], name="addone", split_large=False)
SHORT_QUEUE = model_info([("x", "FP32", (-1, 3))], [("y", "FP32", (-1, 3))], name="addone", max_queue_size=2)
WHOLE = model_info([("x", "INT32", (2, -1))], [("y", "INT32", (2, -1))], 0, name="whole")
WORDS = echo("BYTES", (-1, 2))
HALF = echo("FP16", (-1, 2))

TENSORS: dict[str, Row] = {
    "unknown input": (ADDONE, good(name="z"), ["input 'z' of model 'addone': there is no such input; expected 'x'"]),
    "extra input": (
        ADDONE,
        {"inputs": good()["inputs"] + good(name="extra")["inputs"]},
        ["input 'extra' of model 'addone': there is no such input"],
    ),
    "missing input": (
        PAIR,
        {"inputs": pair()["inputs"][:1], "outputs": [{"name": "sum"}]},
        ["request to model 'pair': inputs lacks 'b'; expected 'a', 'b', found 'a'"],
    ),
    "duplicate input": (ADDONE, {"inputs": good()["inputs"] * 2}, ["input 'x' of model 'addone': given twice"]),
    "unknown output": (
        ADDONE,
        asking({"name": "z"}),
        ["output 'z' of model 'addone': there is no such output; expected one of 'y'"],
    ),
    "unknown datatype": (
        ADDONE,
        good(datatype="FLOAT"),
        ["input 'x' of model 'addone': there is no datatype 'FLOAT'; expected FP32"],
    ),
    "datatype in lower case": (ADDONE, good(datatype="fp32"), ["there is no datatype 'fp32'; expected FP32"]),
    "another datatype": (
        ADDONE,
        good(datatype="FP64"),
        ["input 'x' of model 'addone': datatype FP64 does not match the model's; expected FP32"],
    ),
    "BF16": (ADDONE, good(datatype="BF16"), ["datatype BF16 does not match the model's; expected FP32"]),
    "rank too low": (
        ADDONE,
        good(shape=[3]),
        ["input 'x' of model 'addone': shape [3] does not match", "rank 1"],
    ),
    "rank too high": (
        ADDONE,
        good(shape=[1, 3, 1]),
        ["shape [1,3,1] does not match [-1,3]", "rank 3 where the model has 2"],
    ),
    "rank zero": (ADDONE, good(shape=[]), ["shape [] does not match [-1,3]", "rank 0"]),
    "thousands of dimensions": (ADDONE, good(shape=[1] * 5000), ["1,1,…] does not match [-1,3]", "rank 5000"]),
    "wrong dimension": (ADDONE, good(shape=[1, 4]), ["input 'x' of model 'addone': shape [1,4] does not match [-1,3]"]),
    "whole shape": (
        WHOLE,
        good(datatype="INT32", shape=[3, 1]),
        ["input 'x' of model 'whole': shape [3,1] does not match [2,-1] (-1 stands for any size from 1)"],
    ),
    "negative dimension": (ADDONE, good(shape=[-1, 3]), ["shape [-1,3] does not match [-1,3]", "a dimension is -1"]),
    "two negative dimensions": (
        echo("FP32", (-1, -1)),
        good(shape=[-1, -3]),
        ["shape [-1,-3] does not match [-1,-1]", "each must be at least 1"],
    ),
    "zero rows": (ADDONE, good(shape=[0, 3], data=[]), ["shape [0,3] does not match [-1,3]", "a dimension is 0"]),
    "zero dimension": (
        echo("FP32", (-1, -1)),
        good(shape=[1, 0], data=[]),
        ["shape [1,0] does not match [-1,-1]", "a dimension is 0, and each must be at least 1"],
    ),
    "dimension of 65 bits": (ADDONE, good(shape=[2**64, 3]), ["[18446744073709551616,3]", "does not fit 64 bits"]),
    "dimension of 4000 digits": (
        ADDONE,
        good(shape=[10**4000, 3]),
        ["[an integer beyond 128 bits,3]", "does not fit 64 bits"],
    ),
    "product beyond 64 bits": (
        WHOLE,
        good(datatype="INT32", shape=[2, 2**63 - 1], data=[1]),
        ["data has 1 element; its shape [2,9223372036854775807] holds 18446744073709551614"],
    ),
    "unequal batches": (
        PAIR,
        pair(b={"shape": [2, 1], "data": [1, 2]}),
        ["input 'b' of model 'pair': 2 rows, but the input before has 1; expected the same first dimension"],
    ),
    "rows without split": (
        OFF,
        good(shape=[5, 3], data=[0] * 15),
        ["input 'x' of model 'addone': 5 rows are more than max_batch_size = 4, as split_large is off; send at most 4"],
    ),
    "rows beyond the queue": (
        ADDONE,
        good(shape=[17, 3], data=[0] * 51),
        ["17 rows are more than max_queue_size = 16", "send at most 16 in one request"],
    ),
    "rows beyond a queue shorter than a batch": (
        SHORT_QUEUE,
        good(shape=[5, 3], data=[0] * 15),
        ["5 rows are more than max_batch_size = 4, and the queue holds 2; send at most 4"],
    ),
    "too few elements": (
        ADDONE,
        good(data=[1, 2]),
        ["input 'x' of model 'addone': data has 2 elements; its shape [1,3] holds 3"],
    ),
    "too many elements": (ADDONE, good(data=[1, 2, 3, 4]), ["data has 4 elements; its shape [1,3] holds 3"]),
    "no elements": (ADDONE, good(data=[]), ["data has 0 elements; its shape [1,3] holds 3"]),
    "ragged": (ADDONE, good(shape=[2, 3], data=[[1, 2, 3], [4, 5]]), ["data has 5 elements; its shape [2,3] holds 6"]),
    "empty arrays inside": (ADDONE, good(data=[[], [], []]), ["data has 0 elements; its shape [1,3] holds 3"]),
    "nested 101 deep": (
        ADDONE,
        good(data=json.loads("[" * 101 + "1,2,3" + "]" * 101)),
        ["input 'x' of model 'addone': data is nested too deeply; expected at most 100"],
    ),
    "nested deep late": (
        ADDONE,
        good(data=[1, 2, json.loads("[" * 100 + "3" + "]" * 100)]),
        ["input 'x' of model 'addone': data is nested too deeply"],
    ),
    "data beyond the stack": (
        ADDONE,
        json.dumps(good(data="?")).encode().replace(b'"?"', b"[" * 900 + b"1" + b"]" * 900),
        ["nested too deeply"],
    ),
    "FP16 in JSON": (
        HALF,
        good(datatype="FP16", shape=[1, 2], data=[1, 2]) | {"parameters": {"binary_data_output": True}},
        ["input 'x' of model 'echo': FP16 cannot be given in JSON data; send it as binary data"],
    ),
    "FP16 answered in JSON": (
        HALF,
        good(datatype="FP16", shape=[1, 2], data=[1, 2]),
        ["output 'y' of model 'echo': FP16 cannot be written in JSON", '"binary_data": true'],
    ),
    "FP16 asked for in JSON": (
        PAIR,
        pair() | {"outputs": [{"name": "half", "parameters": {"binary_data": False}}]},
        ["output 'half' of model 'pair': FP16 cannot be written in JSON"],
    ),
    "FP16 among all outputs": (PAIR, {"inputs": pair()["inputs"]}, ["output 'half' of model 'pair'"]),
}

ELEMENTS: dict[str, Row] = {
    "float for an integer": typed("INT32", 1, 2.5, words=["element 1 of data is a number with a fraction"]),
    "bool for an integer": typed(
        "INT32",
        1,
        True,
        words=["element 1 of data is a boolean; expected an integer from -2147483648 to 2147483647"],
    ),
    "string for an integer": typed("INT64", "1", words=["element 0 of data is a string; expected an integer"]),
    "null for an integer": typed(
        "UINT8", 1, 2, None, words=["element 2 of data is null; expected an integer from 0 to 255"]
    ),
    "object for an integer": typed("UINT8", {}, words=["element 0 of data is an object"]),
    "256 for UINT8": typed(
        "UINT8", 256, words=["element 0 of data is out of range; expected an integer from 0 to 255"]
    ),
    "-1 for UINT8": typed("UINT8", -1, words=["element 0 of data is out of range"]),
    "65536 for UINT16": typed("UINT16", 65536, words=["out of range", "0 to 65535, as the datatype is UINT16"]),
    "2**32 for UINT32": typed("UINT32", 2**32, words=["out of range", "0 to 4294967295"]),
    "2**64 for UINT64": typed("UINT64", 2**64, words=["out of range", "0 to 18446744073709551615"]),
    "-1 for UINT64": typed("UINT64", -1, words=["out of range"]),
    "128 for INT8": typed("INT8", 127, 128, words=["element 1 of data is out of range", "-128 to 127"]),
    "-129 for INT8": typed("INT8", -129, words=["out of range"]),
    "2**15 for INT16": typed("INT16", 2**15, words=["out of range"]),
    "2**31 for INT32": typed("INT32", 2**31, words=["out of range"]),
    "2**63 for INT64": typed("INT64", 2**63, words=["out of range", "-9223372036854775808 to 9223372036854775807"]),
    "-2**63-1 for INT64": typed("INT64", -(2**63) - 1, words=["out of range"]),
    "1000 digits for INT64": typed("INT64", 10**1000, words=["element 0 of data is out of range"]),
    "float beyond exact integers": typed("INT64", 1e18, words=["element 0 of data is a float beyond 2**53"]),
    "NaN for an integer": typed("INT32", float("nan"), words=["with a fraction, or not finite"]),
    "bool for a float": typed("FP32", 1.5, False, words=["element 1 of data is a boolean; expected a number"]),
    "string for a float": typed("FP64", "NaN", words=["element 0 of data is a string; expected a number"]),
    "null for a float": typed(
        "FP32", None, words=["element 0 of data is null; expected a number, as the datatype is FP32"]
    ),
    "1 for a bool": typed("BOOL", True, 1, words=["element 1 of data is a number; expected true or false"]),
    "string for a bool": typed("BOOL", "true", words=["element 0 of data is a string; expected true or false"]),
    "number for BYTES": typed("BYTES", "a", 1, words=["element 1 of data is a number; expected a string"]),
    "null for BYTES": typed("BYTES", None, words=["element 0 of data is null; expected a string"]),
    "half a surrogate for BYTES": typed(
        "BYTES", "a", "\ud83d", words=["element 1 of data is text with half of a surrogate"]
    ),
}


GROUPS = (("tensors", TENSORS), ("elements", ELEMENTS))

TABLE = {f"{group}: {name}": row for group, rows in GROUPS for name, row in rows.items()}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_bad_tensor_is_400_and_says_what_was_wrong(row: Row) -> None:
    model, document, words = row
    assert_invalid(model, body_of(document), None, words)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row[1] != b""])
def test_bad_tensor_is_the_same_400_with_a_header_length_and_from_a_buffer(name: str) -> None:
    model, document, words = TABLE[name]
    body = body_of(document)
    assert_invalid(model, memoryview(bytearray(body)), str(len(body)), words)


@pytest.mark.parametrize(
    ("value", "position"),
    [("ok", None), ("\udcff", 1), (b"\xff\xfe", 1), (b"fine", None)],
    ids=["text", "surrogate", "bytes", "UTF-8 bytes"],
)
def test_output_that_is_not_text_is_400_in_json_and_names_the_output(value: str | bytes, position: int | None) -> None:
    _, asked = decode(WORDS, body_of(good(datatype="BYTES", shape=[1, 2], data=["a", "b"])), None, 0.0)
    response = Response((np.array([["a", value]], object),), NO_PHASES, 1)
    if position is None:
        encode(WORDS, asked, response)
        return
    with pytest.raises(InvalidRequest) as caught:
        encode(WORDS, asked, response)
    assert f"output 'y' of model 'echo': element {position} of the result is not valid UTF-8" in str(caught.value)
    assert '"binary_data": true' in str(caught.value)


def test_message_never_holds_contents_of_a_tensor_nor_more_than_a_glimpse_of_a_name() -> None:
    secret = "5413376512"
    for data in ([1, secret, 3], secret, [1, 2, [3, secret]], {secret: secret}):
        assert secret not in str(refusal(ADDONE, body_of(good(data=data))))
    model, document, _ = typed("INT8", int(secret), words=[])
    assert secret not in str(refusal(model, body_of(document)))
    assert len(str(refusal(ADDONE, body_of(good(name="n" * 100_000))))) < 300
