"""What goes through the v2 codec comes out the same, in every datatype, form, shape and nesting."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from support.v2_codec import NO_PHASES, bytes_tensor, model_info, random_array

from batchserve.core.request import Response
from batchserve.core.tensors import DATATYPES, Array
from batchserve.frontend import envelope
from batchserve.frontend.tensor_json_output import numbers_json
from batchserve.frontend.v2 import Answer, Asked, decode, encode

Tensor = tuple[str, Array, bool, int]  # datatype, values, binary?, nesting

IDS = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5)


@st.composite
def tensors(draw: st.DrawFn, rows: int) -> Tensor:
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = (rows, *draw(st.lists(st.integers(1, 4), max_size=3)))
    array = random_array(datatype, shape, draw(st.integers(0, 2**32)))
    is_binary = draw(st.booleans()) or not DATATYPES[datatype].is_json
    return datatype, array, is_binary, draw(st.integers(0, 12))


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[Tensor], bool, list[int], str]:
    rows = draw(st.integers(1, 3))
    given_tensors = draw(st.lists(tensors(rows), min_size=1, max_size=4))
    order = draw(st.permutations(range(len(given_tensors))))
    return given_tensors, draw(st.booleans()), order, draw(IDS)


def nested(array: Array, nesting: int) -> Any:
    """Nest an array's elements: 0 flat, 1 naturally, otherwise in some other way."""
    if nesting == 1:
        return array.tolist()
    flat = array.reshape(-1).tolist()
    if nesting == 0:
        return flat
    cut = len(flat) // nesting
    return [[flat[:cut]], *flat[cut : cut + 1], [], [[[flat[cut + 1 :]]]]]


def in_binary(array: Array) -> bytes:
    if array.dtype.hasobject:
        return bytes_tensor(*(item.encode() for item in array.ravel()))
    return array.tobytes()


def request_body(
    given_tensors: list[Tensor], order: list[int], outputs: list[Any] | None, identifier: str
) -> tuple[bytes, str]:
    inputs, tails = [], []
    for index in order:
        datatype, array, is_binary, nesting = given_tensors[index]
        item: dict[str, Any] = {"name": f"x{index}", "datatype": datatype, "shape": list(array.shape)}
        if is_binary:
            tails.append(in_binary(array))
            item["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            item["data"] = nested(array, nesting)
        inputs.append(item)
    document = {"id": identifier, "inputs": inputs} | ({"outputs": outputs} if outputs else {})
    header = json.dumps(document).encode()
    return header + b"".join(tails), str(len(header))


def parse_answer(answer: Answer) -> tuple[dict[str, Any], list[Array]]:
    """Read an answer as a simple client would: the standard library's JSON, then the tails by their sizes."""
    whole = b"".join(answer.parts)
    assert len(whole) == answer.size_bytes
    at = len(whole) if answer.json_length is None else answer.json_length
    document = json.loads(whole[:at])
    arrays = []
    for output in document["outputs"]:
        dtype = DATATYPES[output["datatype"]].dtype
        values: Any
        if "data" in output:
            values = np.array(output["data"], dtype) if not dtype.hasobject else output["data"]
        else:
            tail = whole[at : at + output["parameters"]["binary_data_size"]]
            at += len(tail)
            if dtype.hasobject:
                values, start = [], 0
                while start < len(tail):
                    (length,) = struct.unpack_from("<I", tail, start)
                    values.append(tail[start + 4 : start + 4 + length].decode())
                    start += 4 + length
            else:
                values = np.frombuffer(tail, dtype)
        array = np.empty(len(values), dtype)
        array[:] = values
        arrays.append(array.reshape(output["shape"]))
    assert at == len(whole), "the sizes in binary_data_size consume the tail exactly"
    return document, arrays


def assert_same(found: Array, expected: Array, *, through_json: bool) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.kind == "f" and through_json:
        np.testing.assert_array_equal(found, expected)  # any NaN is as good as another
        numbers = ~np.isnan(expected)
        assert np.array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))
    elif expected.dtype.hasobject:
        assert found.tolist() == expected.tolist()
    else:
        assert found.tobytes() == expected.tobytes()


@given(requests(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_every_tensor_comes_out_as_it_went_in(
    request_parts: tuple[list[Tensor], bool, list[int], str], forms: list[bool]
) -> None:
    """Client's values → body → Request, and the same values → Response → body → client's values."""
    given_tensors, is_batching, order, identifier = request_parts
    specs = [(f"x{i}", kind, (-1,) * array.ndim) for i, (kind, array, _, _) in enumerate(given_tensors)]
    model = model_info(specs, [(name.replace("x", "y"), *rest) for name, *rest in specs], 4 if is_batching else 0)
    binary = [form or not DATATYPES[kind].is_json for form, (kind, *_) in zip(forms, given_tensors, strict=False)]
    outputs = [{"name": f"y{i}", "parameters": {"binary_data": form}} for i, form in enumerate(binary)]
    body, length = request_body(given_tensors, order, outputs[::-1], identifier)

    request, asked = decode(model, body, length, 1.0)

    assert request.id == identifier
    assert request.rows == (len(given_tensors[0][1]) if is_batching else 1)
    assert request.key == tuple(array.shape[1:] if is_batching else array.shape for _, array, _, _ in given_tensors)
    owned = 0
    for found, (kind, expected, is_binary, _) in zip(request.inputs, given_tensors, strict=True):
        assert_same(found, expected, through_json=not is_binary)
        assert found.flags.c_contiguous
        owned += 0 if is_binary and kind not in ("BOOL", "BYTES") else found.nbytes
    has_view = any(is_binary and kind not in ("BOOL", "BYTES") for kind, _, is_binary, _ in given_tensors)
    has_text = any(kind == "BYTES" for kind, *_ in given_tensors)
    expected_bytes = owned + (len(body) if has_view else 0)
    assert request.size_bytes > expected_bytes if has_text else request.size_bytes == expected_bytes

    assert asked == Asked(identifier, tuple(range(len(outputs))), tuple(binary))
    response = Response(tuple(array for _, array, _, _ in given_tensors), NO_PHASES, 1)
    document, arrays = parse_answer(encode(model, asked, response))
    assert list(document) == ["id"] * bool(identifier) + ["model_name", "model_version", "outputs"]
    assert document.get("id", "") == identifier
    for found, (_, expected, _, _), form in zip(arrays, given_tensors, binary, strict=True):
        assert_same(found, expected, through_json=not form)


def through_json_and_back(values: Array) -> Array:
    return np.array(json.loads(numbers_json(values)), np.float64).astype(values.dtype)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200))
@example(
    [0, 1, 0x80000000, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000]
)
def test_any_fp32_bit_pattern_survives_json_in_both_directions(patterns: list[int]) -> None:
    values = np.array(patterns, np.uint32).view(np.float32)
    assert_same(through_json_and_back(values), values, through_json=True)
    model = model_info([("x", "FP32", (-1, -1))], [("y", "FP32", (-1, -1))])
    head = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,%d],"data":' % len(values)
    request, _ = decode(model, head + numbers_json(values) + b"}]}", None, 0.0)
    assert_same(request.inputs[0][0], values, through_json=True)


def test_fp32_bit_patterns_of_every_exponent_survive_json() -> None:
    """Both signs, all 256 exponents, mantissas at and around the powers of two, and a million at random."""
    steps = 1 << np.arange(23)
    mantissas = np.unique(np.concatenate([[0], steps, steps - 1, steps + 1, (1 << 23) - steps])) & 0x7FFFFF
    heads = np.arange(512, dtype=np.uint32) << 23
    corners = (heads[:, None] | mantissas.astype(np.uint32)[None, :]).ravel()
    anywhere = np.random.default_rng(2).integers(0, 2**32, 1_000_000, dtype=np.uint32)
    values = np.concatenate([corners, anywhere]).view(np.float32)
    with np.errstate(over="ignore"):
        found = through_json_and_back(values)
    is_number = ~np.isnan(values)
    assert np.array_equal(found[is_number].view(np.uint32), values[is_number].view(np.uint32))
    assert np.isnan(found[~is_number]).all()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50))
def test_any_fp64_bit_pattern_survives_json_in_both_directions(patterns: list[int]) -> None:
    values = np.array(patterns, np.uint64).view(np.float64)
    assert_same(through_json_and_back(values), values, through_json=True)
    model = model_info([("x", "FP64", (-1, -1))], [("y", "FP64", (-1, -1))])
    head = b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1,%d],"data":' % len(values)
    request, _ = decode(model, head + numbers_json(values) + b"}]}", None, 0.0)
    assert_same(request.inputs[0][0], values, through_json=True)


@given(
    identifier=st.none() | IDS,
    parameters=st.none() | st.dictionaries(st.text(max_size=5), SCALARS, max_size=3),
    data=st.lists(st.integers() | FINITE | st.text(max_size=3), max_size=4),
    outputs=st.none() | st.lists(st.text(max_size=3), max_size=3),
    escaped=st.booleans(),
)
def test_both_parsers_read_the_same(
    identifier: str | None, parameters: dict[str, Any] | None, data: list[Any], outputs: list[str] | None, escaped: bool
) -> None:
    document = {
        "id": identifier,
        "parameters": parameters,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, len(data)], "data": data, "parameters": parameters}],
        "outputs": None if outputs is None else [{"name": name, "parameters": parameters} for name in outputs],
    }
    header = json.dumps(document, ensure_ascii=escaped).encode()
    quick = envelope.parse("model 'm'", header)
    tolerant = envelope.parse_tolerantly("model 'm'", header)
    for item in quick.inputs:
        assert isinstance(item.data, msgspec.Raw), "the quick parser took it"
        item.data = json.loads(bytes(item.data))
    assert quick == tolerant
