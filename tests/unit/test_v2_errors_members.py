"""Every 400 for the JSON of a v2 request (protocol.md section 8), with the words that name what was wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.v2_codec import ADDONE, asking, assert_invalid, body_of, good, model_info, refusal

from batchserve.frontend.v2 import ModelInfo

Row = tuple[ModelInfo, Any, list[str]]


def with_parameter(name: str, value: Any) -> dict[str, Any]:
    return good() | {"parameters": {name: value}}


SYNTAX: dict[str, Row] = {
    "empty body": (ADDONE, b"", ["request to model 'addone': the body is empty", "expected a JSON object"]),
    "not JSON": (
        ADDONE,
        b"inputs=1",
        ["request to model 'addone'", "not valid JSON: Expecting value at line 1, column 1"],
    ),
    "cut short": (ADDONE, b'{"inputs": [', ["request to model 'addone'", "not valid JSON", "column 13"]),
    "two documents": (ADDONE, b"{}{}", ["not valid JSON: Extra data at line 1, column 3"]),
    "byte order mark": (ADDONE, b"\xef\xbb\xbf{}", ["not valid JSON"]),
    "UTF-16": (ADDONE, json.dumps(good()).encode("utf-16-le"), ["not valid JSON"]),
    "not UTF-8": (ADDONE, b'{"id": "\xff"}', ["request to model 'addone': the JSON is not valid UTF-8 at byte 8"]),
    "not UTF-8 where nobody looks": (
        ADDONE,
        json.dumps(good() | {"unknown": "?"}).encode().replace(b"?", b"\xc0\x80"),
        ["the JSON is not valid UTF-8 at byte"],
    ),
    "nested without end": (ADDONE, b'{"inputs":' + b"[" * 200_000, ["the JSON is nested too deeply", "at most 100"]),
    "nested without end, closed": (
        ADDONE,
        b'{"inputs":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        ["the JSON is nested too deeply"],
    ),
    "an array": (ADDONE, [1], ["request to model 'addone': the JSON is an array; expected an object"]),
    "null": (ADDONE, None, ["the JSON is null; expected an object"]),
    "a string": (ADDONE, "inputs", ["the JSON is the string 'inputs'; expected an object"]),
}

MEMBERS: dict[str, Row] = {
    "no inputs": (ADDONE, {"outputs": []}, ["request to model 'addone': there is no \"inputs\""]),
    "inputs null": (ADDONE, {"inputs": None}, ["request to model 'addone': inputs is null; expected an array"]),
    "inputs an object": (ADDONE, {"inputs": {}}, ["inputs is an object; expected an array"]),
    "inputs empty": (ADDONE, {"inputs": []}, ["request to model 'addone': inputs lacks 'x'", "found none"]),
    "input a string": (ADDONE, {"inputs": ["x"]}, ["inputs[0] of the request to model 'addone' is the string 'x'"]),
    "input null": (
        ADDONE,
        {"inputs": [None]},
        ["inputs[0] of the request to model 'addone' is null; expected an object"],
    ),
    "name missing": (ADDONE, good(name=...), ["inputs[0] of the request to model 'addone': there is no \"name\""]),
    "name null": (ADDONE, good(name=None), ["inputs[0]", "name is null; expected a string"]),
    "name a number": (ADDONE, good(name=3), ["inputs[0]", "name is the number 3; expected a string"]),
    "name half a surrogate": (ADDONE, good(name="\ud800"), ["name has half of a surrogate pair at character 0"]),
    "datatype missing": (ADDONE, good(datatype=...), ["input 'x' of model 'addone': there is no \"datatype\""]),
    "datatype a number": (ADDONE, good(datatype=1.5), ["input 'x' of model 'addone': datatype is the number 1.5"]),
    "datatype a boolean": (
        ADDONE,
        good(datatype=True),
        ["input 'x' of model 'addone': datatype is true; expected a string"],
    ),
    "shape missing": (ADDONE, good(shape=...), ["input 'x' of model 'addone': there is no \"shape\""]),
    "shape null": (ADDONE, good(shape=None), ["input 'x' of model 'addone': shape is null; expected an array"]),
    "shape a number": (
        ADDONE,
        good(shape=3),
        ["input 'x' of model 'addone': shape is the number 3; expected an"],
    ),
    "shape of floats": (ADDONE, good(shape=[1, 3.0]), ["input 'x' of model 'addone': shape[1] is the number 3.0"]),
    "shape of strings": (ADDONE, good(shape=["1", 3]), ["shape[0] is the string '1'; expected a positive integer"]),
    "shape of booleans": (ADDONE, good(shape=[True, 3]), ["shape[0] is true; expected a positive integer"]),
    "shape with null": (ADDONE, good(shape=[None, 3]), ["shape[0] is null"]),
    "shape nested": (ADDONE, good(shape=[[1, 3]]), ["shape[0] is an array"]),
    "no content": (
        ADDONE,
        good(data=...),
        ["input 'x' of model 'addone': it has no content", "binary_data_size"],
    ),
    "data null": (ADDONE, good(data=None), ["input 'x' of model 'addone': it has no content"]),
    "data null, parameters empty": (ADDONE, good(data=None, parameters={"a": 1}), ["it has no content"]),
    "data a number": (ADDONE, good(data=1.5), ["input 'x' of model 'addone': data is not an array but a number"]),
    "data true": (ADDONE, good(data=True), ["data is not an array but a boolean; expected an array"]),
    "data a string": (ADDONE, good(data="123"), ["data is not an array but a string"]),
    "data an object": (ADDONE, good(data={"a": 1}), ["data is not an array but an object"]),
    "data a scalar beside NaN": (
        ADDONE,
        b'{"id": NaN, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1,3], "data": 1}]}',
        ["data is not an array but a number"],
    ),
    "data and binary": (
        ADDONE,
        good(parameters={"binary_data_size": 12}),
        ["input 'x' of model 'addone': data and binary_data_size exclude each other"],
    ),
    "id a number": (ADDONE, good() | {"id": 17}, ["request to model 'addone': id is the number 17; expected a string"]),
    "id an array": (ADDONE, good() | {"id": []}, ["id is an array; expected a string"]),
    "id half a surrogate": (ADDONE, good() | {"id": "a\udfff"}, ["id has half of a surrogate pair at character 1"]),
    "outputs an object": (ADDONE, good() | {"outputs": {}}, ["request to model 'addone': outputs is an object"]),
    "output a string": (ADDONE, asking("y"), ["outputs[0] of the request to model 'addone' is the string 'y'"]),
    "output without name": (ADDONE, asking({}), ["outputs[0] of the request to model 'addone': there is no \"name\""]),
    "output name null": (ADDONE, asking({"name": None}), ["outputs[0]", "name is null; expected a string"]),
    "parameters an array": (ADDONE, good() | {"parameters": []}, ["request to model 'addone': parameters is an array"]),
    "input parameters a string": (
        ADDONE,
        good(parameters="a"),
        ["input 'x' of model 'addone': parameters is the string 'a'"],
    ),
    "output parameters a number": (
        ADDONE,
        asking({"name": "y", "parameters": 1}),
        ["output 'y' of model 'addone': parameters is the number 1"],
    ),
}

PARAMETERS: dict[str, Row] = {
    "an array": (ADDONE, with_parameter("a", [1]), ["request to model 'addone': parameter 'a' is an array"]),
    "an object": (
        ADDONE,
        with_parameter("a", {}),
        ["parameter 'a' is an object; expected a string, number or boolean"],
    ),
    "headers an array": (ADDONE, with_parameter("headers", []), ["parameter 'headers' is an array"]),
    "an array on an input": (
        ADDONE,
        good(parameters={"a": [1]}),
        ["input 'x' of model 'addone': parameter 'a' is an array"],
    ),
    "an array on an output": (
        ADDONE,
        asking({"name": "y", "parameters": {"a": []}}),
        ["output 'y' of model 'addone': parameter 'a' is an array"],
    ),
    "half a surrogate": (ADDONE, with_parameter("a", "\ud800"), ["parameter 'a' has half of a surrogate pair"]),
    "half a surrogate as name": (
        ADDONE,
        with_parameter("\ud800", 1),
        ["the name of a parameter has half of a surrogate"],
    ),
    "timeout a string": (
        ADDONE,
        with_parameter("timeout", "5"),
        ["parameter timeout is the string '5'", "microseconds"],
    ),
    "timeout a float": (ADDONE, with_parameter("timeout", 5.0), ["parameter timeout is the number 5.0"]),
    "timeout a boolean": (ADDONE, with_parameter("timeout", True), ["parameter timeout is true; expected an integer"]),
    "timeout negative": (ADDONE, with_parameter("timeout", -1), ["parameter timeout is the number -1", "at least 0"]),
    "priority a string": (
        ADDONE,
        with_parameter("priority", "1"),
        ["request to model 'addone': parameter priority is"],
    ),
    "priority negative": (ADDONE, with_parameter("priority", -2), ["parameter priority is the number -2"]),
    "priority a boolean": (ADDONE, with_parameter("priority", False), ["parameter priority is false"]),
    "binary_data_output 1": (
        ADDONE,
        with_parameter("binary_data_output", 1),
        ["parameter binary_data_output is the number 1; expected true or false"],
    ),
    "sequence_id a float": (ADDONE, with_parameter("sequence_id", 1.5), ["parameter sequence_id is the number 1.5"]),
    "sequence_id a boolean": (ADDONE, with_parameter("sequence_id", True), ["parameter sequence_id is true"]),
    "sequence_start 1": (ADDONE, with_parameter("sequence_start", 1), ["parameter sequence_start is the number 1"]),
    "sequence_end a string": (
        ADDONE,
        with_parameter("sequence_end", "no"),
        ["parameter sequence_end is the string 'no'"],
    ),
    "reserved": (ADDONE, with_parameter("triton_x", 1), ["parameter 'triton_x' is reserved"]),
    "reserved for gRPC streams": (
        ADDONE,
        with_parameter("triton_enable_empty_final_response", True),
        ["parameter 'triton_enable_empty_final_response' is reserved"],
    ),
    "binary_data a number": (
        ADDONE,
        asking({"name": "y", "parameters": {"binary_data": 1}}),
        ["output 'y' of model 'addone': parameter binary_data is the number 1; expected true or false"],
    ),
    "classification": (
        ADDONE,
        asking({"name": "y", "parameters": {"classification": 2}}),
        ["output 'y' of model 'addone': classification is not available"],
    ),
    "classification negative": (
        ADDONE,
        asking({"name": "y", "parameters": {"classification": -1}}),
        ["parameter classification is the number -1; expected an integer of at least 0"],
    ),
    "classification a boolean": (
        ADDONE,
        asking({"name": "y", "parameters": {"classification": True, "binary_data": False}}),
        ["parameter classification is true"],
    ),
}

GROUPS = (("syntax", SYNTAX), ("members", MEMBERS), ("parameters", PARAMETERS))

TABLE = {f"{group}: {name}": row for group, rows in GROUPS for name, row in rows.items()}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_bad_json_is_400_and_says_what_was_wrong(row: Row) -> None:
    model, document, words = row
    assert_invalid(model, body_of(document), None, words)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row[1] != b""])
def test_bad_json_is_the_same_400_with_a_header_length_and_from_a_buffer(name: str) -> None:
    model, document, words = TABLE[name]
    body = body_of(document)
    assert_invalid(model, memoryview(bytearray(body)), str(len(body)), words)


def test_model_with_a_strange_name_is_quoted() -> None:
    model = model_info([("x\n", "FP32", (-1, 3))], [("y", "FP32", (-1, 3))], name="a'b\udcff")
    message = str(refusal(model, b"{}"))
    message.encode()
    assert r"udcff" in message
    assert r"'x\n'" in str(refusal(model, body_of(good())))
