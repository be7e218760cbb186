"""The bytes of a v2 answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.v2_codec import ADDONE, NO_PHASES, PAIR, answer_of, bytes_tensor, echo, model_info

from batchserve.core.request import Response
from batchserve.core.tensors import Array
from batchserve.frontend.v2 import Answer, Asked, ModelInfo, encode


def answer(model: ModelInfo, asked: Asked, *outputs: Array) -> Answer:
    return encode(model, asked, Response(outputs, NO_PHASES, 1))


def joined(parts: list[bytes | memoryview]) -> bytes:
    return b"".join(parts)


def test_json_answer_has_the_documented_members_in_order() -> None:
    got = answer(ADDONE, Asked("r-17", (0,), (False,)), np.array([[2, 3, 4], [5, 6, 7.5]], np.float32))
    assert joined(got.parts) == (
        b'{"id":"r-17","model_name":"addone","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[2,3],'
        b'"data":[2.0,3.0,4.0,5.0,6.0,7.5]}]}'
    )
    assert (got.json_length, got.content_type) == (None, "application/json")
    assert got.size_bytes == len(joined(got.parts))


def test_binary_answer_has_json_then_tail() -> None:
    array = np.array([[2, 3, 4]], np.float32)
    got = answer(ADDONE, Asked("", (0,), (True,)), array)
    header = (
        b'{"model_name":"addone","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,3],'
        b'"parameters":{"binary_data_size":12}}]}'
    )
    assert got.parts == [header, array.tobytes()]
    assert (got.json_length, got.content_type) == (len(header), "application/octet-stream")
    assert got.size_bytes == len(header) + 12


def test_mixed_answer_keeps_json_and_tails_in_the_models_order() -> None:
    total, words = np.array([1, 2], np.float32), np.array([["a", ""], ["ü", "d"]], object)
    half = np.array([[1, 2], [3, 4]], np.float16)
    got = answer(PAIR, Asked("", (0, 1, 2), (True, False, True)), total, words, half)
    whole = joined(got.parts)
    document = json.loads(whole[: got.json_length])
    assert [output["name"] for output in document["outputs"]] == ["sum", "words", "half"]
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert document["outputs"][1] == {
        "name": "words",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["a", "", "ü", "d"],
    }
    assert document["outputs"][2]["parameters"] == {"binary_data_size": 8}
    assert whole[got.json_length :] == total.tobytes() + half.tobytes()


def test_only_the_outputs_asked_for_are_answered() -> None:
    got = answer(PAIR, Asked("", (1,), (False,)), np.array([["a", "b"]], object))
    assert [output["name"] for output in json.loads(joined(got.parts))["outputs"]] == ["words"]


@pytest.mark.parametrize("identifier", ["r", '"\\\n\x00\x7f', "ü日\U0001f600", "\ud800", "a" * 5000])
def test_id_is_echoed_exactly(identifier: str) -> None:
    got = answer(ADDONE, Asked(identifier, (0,), (False,)), np.zeros((1, 3), np.float32))
    assert json.loads(joined(got.parts))["id"] == identifier


def test_output_of_no_bytes_still_has_its_size() -> None:
    for datatype, array in (("FP32", np.zeros((0, 2), np.float32)), ("BYTES", np.empty((0, 2), object))):
        model = echo(datatype, (-1, 2))
        got = answer(model, Asked("", (0,), (True,)), array)
        whole = joined(got.parts)
        assert got.json_length == len(whole)
        (output,) = json.loads(whole)["outputs"]
        assert (output["shape"], output["parameters"]) == ([0, 2], {"binary_data_size": 0})
        (output,) = json.loads(joined(answer(model, Asked("", (0,), (False,)), array).parts))["outputs"]
        assert output["data"] == []


def test_json_data_is_flat_also_for_scalars_and_strided_outputs() -> None:
    strided = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    for array, flat in (
        (strided, [0, 2, 4, 6, 8, 10]),
        (np.array(3, np.float32), [3]),
        (np.arange(8.0).reshape(2, 2, 2), None),
    ):
        model = echo("FP64" if array.dtype == np.float64 else "FP32", array.shape, 0)
        (output,) = json.loads(joined(answer(model, Asked("", (0,), (False,)), array).parts))["outputs"]
        assert output["shape"] == list(array.shape)
        assert output["data"] == (flat or list(range(8)))
        got = answer(model, Asked("", (0,), (True,)), array)
        assert joined(got.parts)[got.json_length :] == np.ascontiguousarray(array).tobytes()


def test_non_finite_floats_are_tokens_and_the_rest_keeps_its_digits() -> None:
    for dtype, datatype in ((np.float32, "FP32"), (np.float64, "FP64")):
        array = np.array([[np.nan, 0.1, np.inf], [-np.inf, -0.0, -np.nan]], dtype)
        got = joined(answer(echo(datatype, (-1, 3)), Asked("", (0,), (False,)), array).parts)
        assert b'"data":[NaN,0.1,Infinity,-Infinity,-0.0,NaN]' in got
    alone = np.array([[np.nan]], np.float32)
    assert b'"data":[NaN]}' in joined(answer(echo("FP32", (-1, 1)), Asked("", (0,), (False,)), alone).parts)


@pytest.mark.parametrize(
    ("datatype", "values", "text"),
    [
        ("INT64", [-(2**63), 2**63 - 1], b"[-9223372036854775808,9223372036854775807]"),
        ("UINT64", [0, 2**64 - 1], b"[0,18446744073709551615]"),
        ("UINT8", [0, 255], b"[0,255]"),
        ("BOOL", [True, False], b"[true,false]"),
        ("FP32", [16777216.0, 0.1], b"[16777216.0,0.1]"),
    ],
)
def test_values_are_written_exactly(datatype: str, values: list[Any], text: bytes) -> None:
    model = echo(datatype, (-1, 2))
    array = np.array([values], model.outputs[0].datatype.dtype)
    assert b'"data":' + text in joined(answer(model, Asked("", (0,), (False,)), array).parts)


def test_strings_are_escaped_in_json_and_prefixed_in_binary() -> None:
    model = echo("BYTES", (-1, 3))
    array = np.array([['"\\\n\x00', "ü日\U0001f600", b"raw"]], object)
    (output,) = json.loads(joined(answer(model, Asked("", (0,), (False,)), array).parts))["outputs"]
    assert output["data"] == ['"\\\n\x00', "ü日\U0001f600", "raw"]
    got = answer(model, Asked("", (0,), (True,)), array)
    assert got.parts[1] == bytes_tensor(b'"\\\n\x00', "ü日\U0001f600".encode(), b"raw")


def test_binary_strings_need_not_be_unicode() -> None:
    array = np.array([["a\udcff", "\ud83d", b"\xff\x00"]], object)
    got = answer(echo("BYTES", (-1, 3)), Asked("", (0,), (True,)), array)
    assert got.parts[1] == bytes_tensor(b"a\xff", b"\xed\xa0\xbd", b"\xff\x00")


def test_small_binary_outputs_are_copied_and_large_ones_are_not() -> None:
    batch = np.zeros((64, 4096), np.float32)
    small, large = batch[:1, :10], batch[1:9]
    got = answer(echo("FP32", (-1, -1)), Asked("", (0,), (True,)), small)
    assert isinstance(got.parts[1], bytes)
    got = answer(echo("FP32", (-1, -1)), Asked("", (0,), (True,)), large)
    assert isinstance(got.parts[1], memoryview)
    assert np.shares_memory(np.frombuffer(got.parts[1], np.uint8), batch)
    assert len(got.parts[1]) == large.nbytes


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BOOL", "INT8", "UINT64"])
def test_large_read_only_output_of_every_kind_can_be_sent(datatype: str) -> None:
    model = echo(datatype, (-1, 40_000))
    array = np.ones((1, 40_000), model.outputs[0].datatype.dtype)
    array.flags.writeable = False
    got = answer(model, Asked("", (0,), (True,)), array)
    assert bytes(got.parts[1]) == array.tobytes()


def test_large_json_is_sent_in_parts_and_still_counts() -> None:
    array = np.arange(50_000, dtype=np.float32).reshape(1, -1)
    got = answer(echo("FP32", (-1, -1)), Asked("", (0,), (False,)), array)
    assert len(got.parts) > 1
    assert got.size_bytes == len(joined(got.parts))
    assert json.loads(joined(got.parts))["outputs"][0]["data"] == array[0].tolist()


def test_names_that_need_escapes_survive() -> None:
    model = model_info([("x", "FP32", (-1, 1))], [('y"%d\n', "FP32", (-1, 1))], name='m"ü%s')
    document, tail = answer_of(
        model,
        json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}).encode(),
        np.array([[2]], np.float32),
    )
    assert (document["model_name"], document["outputs"][0]["name"], tail) == ('m"ü%s', 'y"%d\n', b"")
