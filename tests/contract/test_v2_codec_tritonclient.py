"""tritonclient's own serialiser and parser on the other side of the v2 codec, without a server between."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.v2_codec import NO_PHASES, PAIR, echo, model_info, random_array
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from batchserve.core.request import Request, Response
from batchserve.core.tensors import DATATYPES, Array
from batchserve.errors import InvalidRequest, RegionNotFound
from batchserve.frontend.compression import compress, inflate
from batchserve.frontend.v2 import Answer, Asked, ModelInfo, decode, encode

BOTH = [True, False]
DATATYPES_AND_FORMS = [(name, binary) for name, kind in DATATYPES.items() for binary in BOTH if kind.is_json or binary]


def tensor(name: str, datatype: str, array: Array, binary: bool) -> InferInput:
    wanted = InferInput(name, list(array.shape), datatype)
    wanted.set_data_from_numpy(array, binary_data=binary)
    return wanted


def received(model: ModelInfo, inputs: list[InferInput], **options: Any) -> tuple[Request, Asked]:
    """Serialise a request as tritonclient does, and decode it."""
    body, json_length = InferenceServerClient.generate_request_body(inputs, **options)
    return decode(model, body, None if json_length is None else str(json_length), 0.0)


def parsed(model: ModelInfo, asked: Asked, *outputs: Array) -> tuple[InferResult, Answer]:
    """Encode an answer, and parse it as tritonclient does."""
    answer = encode(model, asked, Response(outputs, NO_PHASES, 1))
    return InferResult.from_response_body(b"".join(answer.parts), header_length=answer.json_length), answer


def values(array: Array) -> Any:
    """Make arrays comparable: tritonclient hands BYTES out as bytes when binary, as str when JSON."""
    if array.dtype.hasobject:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    return array.ravel().tolist()


def sane_array(datatype: str, shape: tuple[int, ...]) -> Array:
    """Make an array without NaN, which equals nothing."""
    array = random_array(datatype, shape, 5)
    return np.nan_to_num(array) if array.dtype.kind == "f" else array


@pytest.mark.parametrize(("datatype", "binary"), DATATYPES_AND_FORMS)
def test_request_of_every_datatype_is_understood(datatype: str, binary: bool) -> None:
    array = sane_array(datatype, (2, 3))
    request, asked = received(echo(datatype, (-1, 3)), [tensor("x", datatype, array, binary)], request_id="r-1")
    assert request.inputs[0].dtype == DATATYPES[datatype].dtype
    assert values(request.inputs[0]) == values(array)
    assert (request.rows, request.id) == (2, "r-1")
    assert asked.binary == (True,), "without outputs it asks for binary_data_output"


@pytest.mark.parametrize(("datatype", "binary"), DATATYPES_AND_FORMS)
def test_answer_of_every_datatype_is_understood(datatype: str, binary: bool) -> None:
    model = echo(datatype, (-1, 3))
    array = sane_array(datatype, (2, 3))
    wanted = [InferRequestedOutput("y", binary_data=binary)]
    _, asked = received(model, [tensor("x", datatype, array, True)], outputs=wanted, request_id="r-1")
    result, answer = parsed(model, asked, array)
    assert (answer.json_length is not None) is binary
    found = result.as_numpy("y")
    assert found.shape == (2, 3)
    assert found.dtype == DATATYPES[datatype].dtype
    assert values(found) == values(array)
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("a_binary", BOTH)
@pytest.mark.parametrize("b_binary", BOTH)
@pytest.mark.parametrize("forms", [(False, True, True), (True, False, True), (False, False, True)])
def test_mixed_forms_both_ways(a_binary: bool, b_binary: bool, forms: tuple[bool, bool, bool]) -> None:
    a, b = np.array([[1, 2.5], [3, 4]], np.float32), np.array([[7], [-8]], np.int64)
    wanted = [
        InferRequestedOutput(name, binary_data=form) for name, form in zip(["sum", "words", "half"], forms, strict=True)
    ]
    inputs = [tensor("b", "INT64", b, b_binary), tensor("a", "FP32", a, a_binary)]
    request, asked = received(PAIR, inputs, outputs=wanted[::-1])
    assert [values(array) for array in request.inputs] == [values(a), values(b)]
    assert asked.binary == forms
    outputs = (
        np.array([1, 2], np.float32),
        np.array([["a", "ü"], ["", "d"]], object),
        np.array([[1, 2], [3, 4]], np.float16),
    )
    result, _ = parsed(PAIR, asked, *outputs)
    for name, expected in zip(["sum", "words", "half"], outputs, strict=True):
        assert values(result.as_numpy(name)) == values(expected)
        assert result.as_numpy(name).shape == expected.shape


def test_options_of_the_client_arrive() -> None:
    model = model_info([("x", "FP32", (-1, 1))], [("y", "FP32", (-1, 1))], priority_levels=3)
    request, _ = received(
        model,
        [tensor("x", "FP32", np.ones((1, 1), np.float32), True)],
        priority=2,
        timeout=1500,
        sequence_id=7,
        sequence_start=True,
        sequence_end=False,
        parameters={"mine": "yes", "flag": True, "number": 3},
    )
    assert (request.priority, request.timeout_s) == (2, 0.0015)
    assert request.parameters == {"mine": "yes", "flag": True, "number": 3}


def test_empty_output_is_understood() -> None:
    model = echo("FP32", (-1, -1))
    _, asked = received(model, [tensor("x", "FP32", np.ones((1, 1), np.float32), True)])
    result, _ = parsed(model, asked, np.zeros((1, 0), np.float32))
    assert result.as_numpy("y").shape == (1, 0)


@pytest.mark.parametrize("array", [np.array([np.nan, np.inf, -np.inf, 0.1, -0.0], np.float32).reshape(1, 5)])
def test_tokens_for_non_finite_numbers_are_understood_both_ways(array: Array) -> None:
    model = echo("FP32", (-1, 5))
    request, asked = received(
        model, [tensor("x", "FP32", array, False)], outputs=[InferRequestedOutput("y", binary_data=False)]
    )
    np.testing.assert_array_equal(request.inputs[0], array)
    result, answer = parsed(model, asked, array)
    assert b"NaN" in b"".join(answer.parts)
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_shared_memory_is_an_unknown_region() -> None:
    wanted = InferInput("x", [1, 1], "FP32")
    wanted.set_shared_memory("region", 4, offset=8)
    with pytest.raises(RegionNotFound, match="'region' is not registered"):
        received(echo("FP32", (-1, 1)), [wanted])
    output = InferRequestedOutput("y", binary_data=True)
    output.set_shared_memory("region", 4)
    with pytest.raises(RegionNotFound):
        received(echo("FP32", (-1, 1)), [tensor("x", "FP32", np.ones((1, 1), np.float32), True)], outputs=[output])


def test_classification_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="classification is not available"):
        received(
            echo("FP32", (-1, 1)),
            [tensor("x", "FP32", np.ones((1, 1), np.float32), True)],
            outputs=[InferRequestedOutput("y", class_count=2)],
        )


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_answer_is_understood(encoding: str) -> None:
    model = echo("FP32", (-1, 3))
    array = sane_array("FP32", (2, 3))
    _, asked = received(model, [tensor("x", "FP32", array, True)])
    answer = encode(model, asked, Response((array,), NO_PHASES, 1))
    body = compress(answer.parts, encoding)
    assert inflate(body, encoding, 1 << 20) == b"".join(answer.parts)
    result = InferResult.from_response_body(body, header_length=answer.json_length, content_encoding=encoding)
    assert values(result.as_numpy("y")) == values(array)


@given(st.lists(st.text(), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_any_text_goes_both_ways(texts: list[str], binary_in: bool, binary_out: bool) -> None:
    model = echo("BYTES", (-1, -1))
    array = np.empty((1, len(texts)), object)
    array[0] = texts
    wanted = [InferRequestedOutput("y", binary_data=binary_out)]
    request, asked = received(model, [tensor("x", "BYTES", array, binary_in)], outputs=wanted)
    assert values(request.inputs[0]) == texts
    result, answer = parsed(model, asked, request.inputs[0])
    if binary_out:
        assert values(result.as_numpy("y")) == texts
    else:
        # as_numpy puts the strings of a JSON answer into a fixed-width array, which drops trailing NULs.
        document = json.loads(b"".join(answer.parts))
        assert document["outputs"][0]["data"] == result.get_output("y")["data"] == texts
