"""What the v2 decoder accepts, and what it makes of it."""

from __future__ import annotations

import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from support.v2_codec import ADDONE, PAIR, bytes_tensor, echo, good, model_info, read, with_tail

from batchserve.frontend import envelope
from batchserve.frontend.v2 import Asked, ModelInfo, decode

WHOLE = model_info([("x", "INT32", (2, -1))], [("y", "INT32", (2, -1))], 0, name="whole")
SCALAR = model_info([("x", "FP32", ())], [("y", "FP32", ())], 0, name="scalar")


def test_json_request_becomes_arrays_rows_and_key() -> None:
    request, asked = read(good(shape=[2, 3], data=[[1, 2, 3], [4, 5, 6.5]]) | {"id": "r-17"})
    (array,) = request.inputs
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2, 3], [4, 5, 6.5]]
    assert array.flags.c_contiguous
    assert (request.rows, request.key, request.output_mask) == (2, ((3,),), 1)
    assert (request.id, request.arrival_s, request.timeout_s, request.priority) == ("r-17", 12.5, None, 0)
    assert request.parameters == {}
    assert request.size_bytes == 24
    assert asked == Asked("r-17", (0,), (False,))


def test_inputs_come_in_the_models_order_and_json_and_binary_mix() -> None:
    document = {
        "inputs": [
            {"name": "b", "datatype": "INT64", "shape": [2, 1], "parameters": {"binary_data_size": 16}},
            {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
        ],
        "outputs": [{"name": "sum"}],
    }
    body, length = with_tail(document, np.array([7, -8]).tobytes())
    request, _ = decode(PAIR, body, length, 0.0)
    assert [array.tolist() for array in request.inputs] == [[[1, 2], [3, 4]], [[7], [-8]]]
    assert request.key == ((2,), (1,))
    assert request.rows == 2
    assert request.size_bytes == len(body) + 16


def test_two_binary_inputs_are_taken_from_the_tail_in_the_requests_order() -> None:
    document = {
        "inputs": [
            {"name": "b", "datatype": "INT64", "shape": [1, 2], "parameters": {"binary_data_size": 16}},
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
        ],
        "outputs": [{"name": "sum"}],
    }
    body, length = with_tail(document, np.array([7, -8]).tobytes(), np.array([1.5, 2], np.float32).tobytes())
    request, _ = decode(PAIR, body, length, 0.0)
    assert [array.tolist() for array in request.inputs] == [[[1.5, 2]], [[7, -8]]]
    assert request.size_bytes == len(body)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_binary_numbers_are_a_view_of_the_body(kind: type) -> None:
    document = good(data=..., parameters={"binary_data_size": 12})
    body, length = with_tail(document, np.array([1, 2, 3], np.float32).tobytes())
    held = bytearray(body)
    view = held if kind is bytearray else kind(held)
    request, _ = decode(ADDONE, view, length, 0.0)
    assert request.inputs[0].tolist() == [[1, 2, 3]]
    assert request.inputs[0].flags.writeable is (kind is not bytes)
    if kind is not bytes:
        struct.pack_into("<f", held, len(body) - 4, 9.0)
        assert request.inputs[0].tolist() == [[1, 2, 9]]


def test_request_is_plain_data_that_can_cross_a_process_boundary() -> None:
    request, asked = read(good())
    again, asked_again = pickle.loads(pickle.dumps((request, asked)))
    assert again.inputs[0].tolist() == request.inputs[0].tolist()
    assert (again.key, again.parameters, asked_again) == (request.key, request.parameters, asked)


def test_null_optional_members_are_absent() -> None:
    document = {
        "id": None,
        "parameters": None,
        "outputs": None,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3], "parameters": None}],
    }
    request, asked = read(document)
    assert request.id == ""
    assert asked == Asked("", (0,), (False,))
    nulls = {"timeout": None, "priority": None, "binary_data_output": None, "mine": None, "triton_x": None}
    request, asked = read(
        good(parameters={"binary_data_size": None, "shared_memory_region": None}) | {"parameters": nulls}
    )
    assert request.parameters == {}
    outputs = [{"name": "y", "parameters": {"binary_data": None, "classification": None, "shared_memory_region": None}}]
    assert read(good() | {"outputs": outputs})[1].binary == (False,)


@pytest.mark.parametrize("spelling", [b'"data": null,', b'"data" :  null  ,', b'"data": NaN, "data": null,'])
def test_null_data_beside_binary_data_is_absent(spelling: bytes) -> None:
    head = (
        b'{"inputs": [{%b "name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}]}'
    )
    header = head % spelling
    request, _ = decode(ADDONE, header + bytes(12), str(len(header)), 0.0)
    assert request.inputs[0].tolist() == [[0, 0, 0]]


def test_unknown_members_are_ignored_whatever_they_hold() -> None:
    deep: Any = {"a": [{"b": "ü"}, 1e5, None, True]}
    document = good(extra=deep) | {"model_name": "addone", "extra": deep, "outputs": [{"name": "y", "extra": deep}]}
    assert read(document)[0].rows == 1


def test_an_object_named_headers_is_ignored_everywhere() -> None:
    parameters = {"headers": {"Ce-Id": "1", "nested": {"a": [1]}}, "content_type": "np"}
    document = good(parameters=parameters) | {
        "parameters": parameters,
        "outputs": [{"name": "y", "parameters": parameters | {"binary_data": True}}],
    }
    request, asked = read(document)
    assert request.parameters == {"content_type": "np"}
    assert asked.binary == (True,)


def test_parameters_that_the_server_does_not_know_stay_with_the_request() -> None:
    parameters = {
        "a": "text",
        "b": 2,
        "c": 2.5,
        "d": True,
        "timeout": 0,
        "priority": 0,
        "sequence_id": "s",
        "sequence_start": True,
        "sequence_end": False,
        "binary_data_output": False,
    }
    request, _ = read(good() | {"parameters": parameters})
    assert request.parameters == {"a": "text", "b": 2, "c": 2.5, "d": True}
    assert type(request.parameters["d"]) is bool


@pytest.mark.parametrize(
    ("timeout", "allowed", "timeout_s"),
    [(1500, True, 0.0015), (0, True, None), (1, True, 1e-6), (10**6, False, None), (0, False, None)],
)
def test_timeout_is_microseconds_and_zero_means_the_models_own(
    timeout: int, allowed: bool, timeout_s: float | None
) -> None:
    model = model_info([("x", "FP32", (-1, 3))], [("y", "FP32", (-1, 3))], allow_timeout_override=allowed)
    assert read(good() | {"parameters": {"timeout": timeout}}, model)[0].timeout_s == timeout_s


def test_timeout_of_any_length_is_a_finite_number_of_seconds() -> None:
    timeout_s = read(good() | {"parameters": {"timeout": 10**400}})[0].timeout_s
    assert timeout_s is not None
    assert 1e11 < timeout_s < 1e300


@pytest.mark.parametrize(("levels", "given", "got"), [(1, 0, 0), (1, 7, 1), (3, 2, 2), (3, 3, 3), (3, 10**30, 3)])
def test_priority_is_clamped_to_the_least_urgent_level(levels: int, given: int, got: int) -> None:
    model = model_info([("x", "FP32", (-1, 3))], [("y", "FP32", (-1, 3))], priority_levels=levels)
    assert read(good() | {"parameters": {"priority": given}}, model)[0].priority == got


@pytest.mark.parametrize("outputs", [None, [], ...])
def test_no_outputs_named_means_all(outputs: Any) -> None:
    body, length = with_tail(
        {
            "inputs": [
                {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
                {"name": "b", "datatype": "INT64", "shape": [1, 1], "data": [1]},
            ],
            "parameters": {"binary_data_output": True},
        }
        | ({} if outputs is ... else {"outputs": outputs}),
        bytes(8),
    )
    request, asked = decode(PAIR, body, length, 0.0)
    assert request.output_mask == 0b111
    assert asked == Asked("", (0, 1, 2), (True, True, True))


def test_outputs_are_answered_once_in_the_models_order_each_in_its_form() -> None:
    document = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
            {"name": "b", "datatype": "INT64", "shape": [1, 1], "data": [1]},
        ],
        "parameters": {"binary_data_output": True},
        "outputs": [
            {"name": "half"},
            {"name": "sum", "parameters": {"binary_data": False}},
            {"name": "half", "parameters": {"binary_data": False}},
            {"name": "sum"},
        ],
    }
    request, asked = read(document, PAIR)
    assert request.output_mask == 0b101
    assert asked == Asked("", (0, 2), (False, True))


def test_classification_zero_is_not_asked_for() -> None:
    outputs = [{"name": "y", "parameters": {"classification": 0, "binary_data": True}}]
    assert read(good() | {"outputs": outputs})[1].binary == (True,)


@pytest.mark.parametrize(
    "identifier", ["", "r", "ü", "日本", "\U0001f600", '"\\\n\x00\x7f', " ", "a" * 10_000, "\ufeff"]
)
def test_id_is_kept_exactly(identifier: str) -> None:
    for escaped in (True, False):
        body = json.dumps(good() | {"id": identifier}, ensure_ascii=escaped).encode()
        request, asked = read(body)
        assert request.id == asked.id == identifier


def test_model_without_batch_axis_takes_the_whole_shape_as_one_row() -> None:
    request, _ = read(good(datatype="INT32", shape=[2, 5], data=list(range(10))), WHOLE)
    assert (request.rows, request.key) == (1, ((2, 5),))
    request, _ = read(good(shape=[], data=[3]), SCALAR)
    assert (request.rows, request.key, request.inputs[0].shape) == (1, ((),), ())
    assert float(request.inputs[0]) == 3.0
    body, length = with_tail(good(shape=[], data=..., parameters={"binary_data_size": 4}), struct.pack("<f", 2.5))
    assert float(decode(SCALAR, body, length, 0.0)[0].inputs[0]) == 2.5


def test_rows_may_be_split_up_to_the_queue_or_one_batch() -> None:
    for options, rows in (({}, 16), ({"split_large": False}, 4), ({"max_queue_size": 2}, 4)):
        model = model_info([("x", "FP32", (-1, 1))], [("y", "FP32", (-1, 1))], 4, **options)
        assert read(good(shape=[rows, 1], data=[0] * rows), model)[0].rows == rows


def test_header_length_of_the_whole_body_is_plain_json() -> None:
    body = json.dumps(good()).encode()
    for length in (str(len(body)), f"000{len(body)}", "0" * 5000 + str(len(body))):
        request, asked = decode(ADDONE, body, length, 0.0)
        assert request.inputs[0].tolist() == [[1, 2, 3]]
        assert asked.binary == (False,)


def test_raw_binary_request_is_one_row_answered_in_binary() -> None:
    body = np.array([1, 2, 3], np.float32).tobytes()
    request, asked = decode(ADDONE, body, "0", 3.0)
    assert request.inputs[0].tolist() == [[1, 2, 3]]
    assert (request.rows, request.key, request.output_mask, request.arrival_s) == (1, ((3,),), 1, 3.0)
    assert (request.id, request.size_bytes, request.parameters) == ("", 12, {})
    assert asked == Asked("", (0,), (True,))


def test_raw_binary_request_finds_one_free_dimension() -> None:
    assert decode(echo("INT16", (-1, -1, 2)), bytes(12), "0", 0.0)[0].inputs[0].shape == (1, 3, 2)
    assert decode(WHOLE, bytes(24), "00", 0.0)[0].inputs[0].shape == (2, 3)
    assert decode(SCALAR, bytes(4), "0", 0.0)[0].inputs[0].shape == ()


@pytest.mark.parametrize(
    "model", [echo("BYTES", (-1,)), echo("BYTES", (-1, 1)), echo("BYTES", (-1, -1)), echo("BYTES", (-1,), 0)]
)
def test_raw_binary_request_of_one_string(model: ModelInfo) -> None:
    request, _ = decode(model, bytes_tensor("hö".encode()), "0", 0.0)
    assert request.inputs[0].ravel().tolist() == ["hö"]
    assert request.size_bytes > 8


def test_raw_binary_boolean_is_normalised() -> None:
    request, _ = decode(echo("BOOL", (-1, 2)), b"\x07\x00", "0", 0.0)
    assert request.inputs[0].view(np.uint8).tolist() == [[1, 0]]
    assert request.size_bytes == 2


def test_last_of_duplicate_members_wins_in_both_parsers() -> None:
    body = b'{"id":"a","id":"b","inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[0],"data":[1,2,3]}]}'
    assert read(body)[0].id == "b"
    tolerant = envelope.parse_tolerantly("model 'm'", body)
    assert (tolerant.id, tolerant.inputs[0].data) == ("b", [1, 2, 3])


def test_common_requests_do_not_need_the_tolerant_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent fall back would cost five times the parsing."""

    def refuse(*_: object) -> None:
        raise AssertionError("the quick parser refused a common request")

    monkeypatch.setattr(envelope, "parse_tolerantly", refuse)
    monkeypatch.setattr("batchserve.frontend.tensor_json.load", refuse)
    parameters = {"timeout": 1, "priority": 2, "content_type": "np", "x": None, "f": 1.5, "b": False}
    for data in ([1, 2, 3], [[1.5, 2, 3]], [1e-3, -2, 3e20]):
        read(
            good(data=data, parameters={"content_type": "np"})
            | {"id": "ü", "parameters": parameters, "model_name": "m", "outputs": [{"name": "y", "parameters": {}}]}
        )
    read(good(datatype="BYTES", data=[["a", "ü", "\U0001f600"]]), echo("BYTES", (-1, 3)))
    read(good(datatype="BOOL", data=[[True, False, True]]), echo("BOOL", (-1, 3)))
    read(good(datatype="UINT64", data=[2**64 - 1, 0, 1]), echo("UINT64", (-1, 3)))
