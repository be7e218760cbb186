"""The elements that the v2 decoder accepts, in every datatype, spelling and nesting."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from support.v2_codec import ADDONE, bytes_tensor, echo, good, read, with_tail

from batchserve.core.tensors import DATATYPES
from batchserve.frontend.v2 import ModelInfo, decode


def read_input(model: ModelInfo, datatype: str, shape: list[int], data: str) -> np.ndarray:
    """Decode one input whose data is the given JSON text."""
    head = json.dumps({"name": "x", "datatype": datatype, "shape": shape})[:-1]
    request, _ = read(b'{"inputs": [%b, "data": %b}]}' % (head.encode(), data.encode()), model)
    return request.inputs[0]


@pytest.mark.parametrize(
    "data",
    [
        "[1,2,3,4,5,6]",
        "[[1,2,3],[4,5,6]]",
        "[ [1, 2] ,\n[3,4],[5,6] ]",
        "[[[[1],[2]],3],[4,[5,6]]]",
        "[1,[2,3,4,5,6]]",
        "[[],1,2,3,4,[5,6]]",
    ],
)
def test_any_nesting_with_the_right_number_of_elements_is_accepted(data: str) -> None:
    assert read_input(ADDONE, "FP32", [2, 3], data).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("depth", [1, 2, 3, 9, 100])
def test_nesting_up_to_100_is_accepted(depth: int) -> None:
    data = "[" * depth + "1,2,3" + "]" * depth
    assert read_input(ADDONE, "FP32", [1, 3], data).tolist() == [[1, 2, 3]]


def test_numbers_of_every_spelling_are_read_as_floats() -> None:
    model = echo("FP64", (-1, -1))
    data = "[1, -0.0, 1e3, 1E-3, 123456789012345678901234567890, 0.1, 2.5e-324, 1.7976931348623157e308]"
    array = read_input(model, "FP64", [1, 8], data)
    assert array.tolist() == [[1.0, -0.0, 1000.0, 0.001, 1.2345678901234568e29, 0.1, 5e-324, 1.7976931348623157e308]]
    assert np.signbit(array[0, 1])


def test_not_a_number_tokens_and_numbers_beyond_the_type_are_accepted() -> None:
    huge = "1" + "0" * 5000
    data = f"[NaN, Infinity, -Infinity, 1e39, -1e39, 1e400, -1e400, 1{'0' * 400}, -{huge}, 1, 0.5]"
    inf = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = read_input(echo("FP32", (-1, -1)), "FP32", [1, 11], data)
    expected = np.array([[np.nan, inf, -inf, inf, -inf, inf, -inf, inf, -inf, 1, 0.5]], np.float32)
    np.testing.assert_array_equal(array, expected)
    assert read_input(echo("FP64", (-1, -1)), "FP64", [1, 3], f"[{huge}, 1e400, 2]").tolist() == [[inf, inf, 2]]
    assert read_input(echo("FP32", (-1, -1)), "FP32", [1, 1], "[1e39]").tolist() == [[inf]]


def test_a_float_without_a_fraction_is_an_integer() -> None:
    assert read_input(echo("INT16", (-1, -1)), "INT16", [1, 4], "[2.0, -0.0, 1e3, 7]").tolist() == [[2, 0, 1000, 7]]


@pytest.mark.parametrize("name", [name for name, datatype in DATATYPES.items() if datatype.kind == "int"])
@pytest.mark.parametrize("extra", ["", ", 1.0"], ids=["quick", "tolerant"])
def test_both_ends_of_every_integer_type_are_accepted(name: str, extra: str) -> None:
    info = np.iinfo(DATATYPES[name].dtype)
    array = read_input(echo(name, (-1, -1)), name, [1, 2 + bool(extra)], f"[{info.min}, {info.max}{extra}]")
    assert array.dtype == DATATYPES[name].dtype
    assert array.tolist()[0][:2] == [info.min, info.max]


def test_strings_become_objects_and_their_memory_is_counted() -> None:
    model = echo("BYTES", (-1, 3))
    request, _ = read(good(datatype="BYTES", data=["", "é日\U0001f600", "\x00"]), model)
    (array,) = request.inputs
    assert array.dtype == object
    assert array.tolist() == [["", "é日\U0001f600", "\x00"]]
    assert request.size_bytes > 3 * 8 + len("é日\U0001f600") * 4


def test_binary_strings_become_objects() -> None:
    elements = [b"", "é日\U0001f600".encode(), b"\x00\x01"]
    tail = bytes_tensor(*elements)
    for kind in (bytes, bytearray, memoryview):
        body, length = with_tail(good(datatype="BYTES", data=..., parameters={"binary_data_size": len(tail)}), tail)
        request, _ = decode(echo("BYTES", (-1, 3)), kind(body), length, 0.0)
        assert request.inputs[0].tolist() == [[element.decode() for element in elements]]
        assert all(type(element) is str for element in request.inputs[0].ravel())


def test_binary_booleans_are_normalised_and_not_a_view() -> None:
    body, length = with_tail(good(datatype="BOOL", data=..., parameters={"binary_data_size": 3}), b"\x00\x02\xff")
    request, _ = decode(echo("BOOL", (-1, 3)), body, length, 0.0)
    assert request.inputs[0].dtype == np.bool_
    assert request.inputs[0].view(np.uint8).tolist() == [[0, 1, 1]]
    assert request.size_bytes == 3


def test_half_precision_goes_both_ways_in_binary() -> None:
    document = good(datatype="FP16", data=..., parameters={"binary_data_size": 6}) | {
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}]
    }
    body, length = with_tail(document, np.array([1, 2.5, 3], np.float16).tobytes())
    request, _ = decode(echo("FP16", (-1, 3)), body, length, 0.0)
    assert request.inputs[0].dtype == np.float16
    assert request.inputs[0].tolist() == [[1, 2.5, 3]]
