"""Large JSON through the v2 codec: what is accepted and refused, what it costs in memory, and how answers are cut."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from support.json_pieces import BAD, GOOD, JSON_TYPES, PARSERS, assert_same, outcome, same_bits, sizes, whole
from support.v2_codec import ADDONE, NO_PHASES, echo, model_info, refusal

from batchserve.core.request import Response
from batchserve.core.tensors import DATATYPES, Array
from batchserve.errors import InvalidRequest
from batchserve.frontend import envelope, number_parsers
from batchserve.frontend.number_text import PIECE_BYTES
from batchserve.frontend.tensor_json_output import numbers_parts
from batchserve.frontend.v2 import Asked, ModelInfo, decode, encode

PLACES = ["{}", "1,{}", "{},1", "1,{},1", "[1],[{}]", "[[1,{}],[1]]", "[[1,1],[{}]],[[1]]"]


def body_for(datatype: str, count: int, data: str) -> bytes:
    """Write a request whose data is the given text; its id is not ASCII."""
    item = f'{{"name":"x","datatype":"{datatype}","shape":[1,{count}],"data":{data}}}'
    return f'{{"id":"ü","inputs":[{item}]}}'.encode()


def error_of(body: bytes, model: ModelInfo, **options: Any) -> str:
    with sizes(**options):
        error = refusal(model, body)
    assert type(error) is InvalidRequest
    return str(error)


@pytest.mark.parametrize("simd", PARSERS)
@pytest.mark.parametrize("datatype", JSON_TYPES)
def test_every_spelling_in_every_place_has_the_same_fate_as_in_small_json(datatype: str, simd: bool) -> None:
    one = "true" if datatype == "BOOL" else "1"
    model = echo(datatype, (-1, -1))
    for word in GOOD + BAD:
        for place in PLACES:
            data = f"[{place.replace('1', one).format(word)}]"
            body = body_for(datatype, data.count(",") + 1, data)
            with whole():
                expected = outcome(model, body)
            for piece in (1, 4, 12, 200):
                with sizes(piece=piece, small=max(piece // 2, 1), simd=simd):
                    assert_same(outcome(model, body), expected)


@pytest.mark.parametrize("simd", PARSERS)
@pytest.mark.parametrize("form", ["flat", "nested", "spaced"])
@pytest.mark.parametrize("name", ["FP32", "FP64", "UINT8", "INT8", "INT64", "UINT64", "BOOL"])
def test_large_arrays_go_the_quick_way(name: str, form: str, simd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes of a server: set aside before anything is parsed, and no piece falls back."""
    array = plain_array(name)
    item = {"name": "x", "datatype": name, "shape": array.shape, "parameters": {"a": 1}}
    data = json.dumps(array.ravel().tolist() if form == "flat" else array.tolist())
    data = data if form == "spaced" else data.replace(" ", "")
    body = (json.dumps({"id": "ü", "inputs": [item]})[:-3] + f', "data": {data}}}]}}').encode()
    assert len(body) > 3 * envelope.LARGE_BYTES
    parse = envelope._parse_whole

    def parse_little(model: str, header: bytes) -> envelope.Envelope:
        assert len(header) < 1000, "the array was parsed with its envelope"
        return parse(model, header)

    monkeypatch.setattr(envelope, "_parse_whole", parse_little)
    monkeypatch.setattr("batchserve.frontend.tensor_json.load", refuse)
    if not simd:
        monkeypatch.setattr(number_parsers, "simdjson", None)
    model = model_info([("x", name, (-1, 3, 70, 220))], [("y", name, (-1,))])
    (found,) = decode(model, body, None, 0.0)[0].inputs
    assert found.dtype == array.dtype
    assert same_bits(found, array)


def refuse(*_: object) -> None:
    raise AssertionError("the quick parsers refused a common array")


def plain_array(name: str) -> Array:
    """Draw values that clients send, of a type's whole range."""
    random = np.random.default_rng(1)
    shape = (2, 3, 70, 220)
    dtype = DATATYPES[name].dtype
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    info = np.iinfo(dtype)
    return random.integers(info.min, info.max, shape, dtype, endpoint=True)


def test_not_a_number_in_a_large_array_slows_down_only_its_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(-1, 1, 100_000, dtype=np.float32)
    values[[0, 50_000, 99_999]] = [np.nan, np.inf, -np.inf]
    body = body_for("FP32", len(values), json.dumps(values.tolist()))
    read: list[int] = []
    load = envelope.load

    def note(text: str) -> object:
        read.append(len(text))
        return load(text)

    monkeypatch.setattr("batchserve.frontend.tensor_json.load", note)
    monkeypatch.setattr(envelope, "load", refuse)
    (found,) = decode(echo("FP32", (-1, -1)), body, None, 0.0)[0].inputs
    assert same_bits(found[0], values)
    assert len(body) > 12 * PIECE_BYTES
    assert 2 * PIECE_BYTES < sum(read) < 3.2 * PIECE_BYTES, "three pieces of the whole"
    assert max(read) < 10_000, "in small steps"


def test_messages_name_the_element_and_the_place_in_the_body() -> None:
    numbers = ",".join(map(str, range(100)))
    model = echo("UINT8", (-1, -1))
    where = "input 'x' of model 'echo': "
    assert error_of(body_for("UINT8", 101, f"[{numbers},300]"), model) == (
        f"{where}element 100 of data is out of range; expected an integer from 0 to 255, as the datatype is UINT8"
    )
    for data in (f'[[{numbers}],[true]],"a":""', f"[[{numbers}],[true]]"):
        assert f"{where}element 100 of data is a boolean" in error_of(body_for("UINT8", 101, data), model)
    assert error_of(body_for("UINT8", 7, f"[{numbers}]"), model) == (
        f"{where}data has 100 elements; its shape [1,7] holds 7"
    )
    bad = body_for("UINT8", 102, f"[{numbers},é,1]")
    assert error_of(bad, model) == (
        f"{where}data is not valid JSON: Expecting value at byte {bad.index(bytes('é,', 'utf-8'))} of the body; "
        f"expected an array, each element of it an integer from 0 to 255, as the datatype is UINT8"
    )
    beyond = error_of(body_for("INT64", 101, f"[{numbers},9223372036854775808]"), echo("INT64", (-1, -1)))
    assert f"{where}element 100 of data is out of range" in beyond


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("[1,2,,3]", "Expecting value"),
        ("[1,2,]", "Expecting value"),
        ("[,1]", "Expecting value"),
        ("[1,[,2]]", "Expecting value"),
        ("[1,2],[3]", "Extra data"),
        ("[1],[2],[3]", "Extra data"),
        ("[[1],[2]],[[3]]", "Extra data"),
        ("[[1,2]],3]", "Extra data"),
        ("[1][,2,3]", ""),
        ("[1[,2],3]", "Expecting"),
        ("[[1,]2,3]", "Expecting value"),
        ("[[1,2],3", "Expecting ',' delimiter"),
        ("[1 2,3]", "Expecting ',' delimiter"),
        ("[1,2}3]", ""),
    ],
)
@pytest.mark.parametrize("simd", PARSERS)
@pytest.mark.parametrize("datatype", ["FP32", "UINT8", "INT64"])
def test_broken_arrays_are_refused_wherever_they_are_cut(data: str, what: str, datatype: str, simd: bool) -> None:
    """What breaks the envelope too is refused with the whole text at hand."""
    body = body_for(datatype, 3, data)
    for piece in (1, 3, 5, 100):
        assert_broken(body, data, what, error_of(body, echo(datatype, (-1, -1)), piece=piece, small=piece, simd=simd))


def assert_broken(body: bytes, data: str, what: str, message: str) -> None:
    assert "not valid JSON" in message
    assert what in message or "Illegal trailing comma" in message  # the words of Python 3.13 for one of them
    if "at byte" in message:
        place = int(message.split("at byte ")[1].split()[0])
        start = body.index(data.encode())
        assert start <= place <= start + len(data), (place - start, message)


def test_fault_at_the_end_of_a_piece_is_placed_where_the_element_is_missing() -> None:
    body = body_for("FP32", 3, "[11,22,,33]")
    message = error_of(body, echo("FP32", (-1, -1)), piece=7)
    assert f"at byte {body.index(b',33')} of the body" in message


@pytest.mark.parametrize("simd", PARSERS)
@pytest.mark.parametrize("datatype", ["FP32", "INT64"])
@pytest.mark.parametrize("piece", [1, 8, 1000])
def test_large_json_has_the_same_limit_of_depth(piece: int, datatype: str, simd: bool) -> None:
    model = echo(datatype, (-1, -1))
    with sizes(piece=piece, simd=simd):
        for depth in (100, 101):  # without many brackets in one place
            body = body_for(datatype, 2 * depth, "[1," * depth + "1" + "],1" * (depth - 1) + "]")
            if depth == 100:
                assert decode(model, body, None, 0.0)[0].inputs[0].sum() == 200
            else:
                assert "nested too deeply" in str(refusal(model, body))
        for data in ("[" * 100 + "1,2" + "]" * 100, "[1," + "[" * 99 + "2" + "]" * 99 + "]"):
            assert decode(model, body_for(datatype, 2, data), None, 0.0)[0].inputs[0].tolist() == [[1, 2]]
        for data in ("[" * 101 + "1,2" + "]" * 101, "[1," + "[" * 100 + "2" + "]" * 100 + "]", "[" * 5000 + "]" * 5000):
            assert "nested too deeply" in str(refusal(model, body_for(datatype, 2, data)))


def test_shape_beyond_the_text_takes_no_memory() -> None:
    body = body_for("FP64", 10**12, json.dumps([0.5] * 50_000))
    model = echo("FP64", (-1, -1))
    refusal(model, body)
    tracemalloc.start()
    try:
        assert "data has 50000 elements; its shape [1,1000000000000] holds 1000000000000" in str(refusal(model, body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_large_array_takes_little_more_memory_than_it_has() -> None:
    """Neither a copy of the body nor an object of each element is made."""
    values = np.random.default_rng(0).random(400_000)
    body = body_for("FP64", len(values), json.dumps(values.tolist()))
    model = echo("FP64", (-1, -1))
    tracemalloc.start()
    try:
        decode(model, body, None, 0.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.nbytes < peak < values.nbytes + (3 << 20)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_large_json_may_lie_in_any_buffer_and_before_binary_data(kind: Any) -> None:
    model = model_info([("a", "FP32", (-1, -1)), ("b", "INT16", (-1, 2))], [("y", "FP32", (-1,))])
    values = np.linspace(0, 1, 20_000, dtype=np.float32)
    header = json.dumps(
        {
            "inputs": [
                {"name": "b", "datatype": "INT16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
                {"name": "a", "datatype": "FP32", "shape": [1, len(values)], "data": values.tolist()},
            ]
        }
    ).encode()
    assert len(header) > envelope.LARGE_BYTES
    body = kind(header + np.array([7, -8], np.int16).tobytes())
    first, second = decode(model, body, str(len(header)), 0.0)[0].inputs
    assert same_bits(first[0], values)
    assert second.tolist() == [[7, -8]]


def test_large_text_inside_strings_is_not_taken_for_data() -> None:
    quoted = json.dumps({"data": [0.5] * 30_000})
    document = {"id": quoted, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    request, _ = decode(ADDONE, json.dumps(document).encode(), None, 0.0)
    assert request.id == quoted
    assert request.inputs[0].tolist() == [[1, 2, 3]]


def test_parameters_that_only_the_tolerant_parser_takes_do_not_bring_it_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [0.25] * 30_000
    item = {"name": "x", "datatype": "FP32", "shape": [1, len(values)], "data": values, "parameters": {"headers": {}}}
    load = envelope.load

    def load_little(text: str) -> object:
        assert len(text) < 1000
        return load(text)

    monkeypatch.setattr(envelope, "load", load_little)
    request, _ = decode(echo("FP32", (-1, -1)), json.dumps({"inputs": [item]}).encode(), None, 0.0)
    assert request.inputs[0].tolist() == [values]


def test_positions_in_a_broken_envelope_are_those_of_the_whole_body() -> None:
    body = body_for("FP32", 30_000, json.dumps([0.25] * 30_000))[:-1] + b"?"
    with pytest.raises(InvalidRequest, match=rf"line 1, column {len(body.decode())};"):
        decode(echo("FP32", (-1, -1)), body, None, 0.0)


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "BOOL"])
def test_large_answers_are_written_in_parts_of_some_size(datatype: str) -> None:
    values = np.resize(np.array([0, 1, 1, 0, 1]), 100_000).astype(DATATYPES[datatype].dtype)
    if datatype.startswith("FP"):
        values[[5, 70_000]] = [np.nan, -np.inf]
    parts = numbers_parts(values)
    assert max(map(len, parts)) < 128 << 10
    answer = encode(echo(datatype, (-1, -1)), Asked("", (0,), (False,)), Response((values[None],), NO_PHASES, 1))
    text = b"".join(answer.parts)
    assert answer.size_bytes == len(text)
    assert all(64 << 10 <= len(part) < 192 << 10 for part in answer.parts[:-1])
    found = np.array(json.loads(text)["outputs"][0]["data"], values.dtype)
    assert same_bits(found, values)
