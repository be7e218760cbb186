"""Whatever bytes come in, the v2 codec answers with a request or a RequestError, never with another exception."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.v2_codec import NO_PHASES, PAIR, bytes_tensor, echo, model_info, random_array, with_tail

from batchserve.core.request import Response
from batchserve.core.tensors import DATATYPES
from batchserve.errors import BodyTooLarge, InvalidRequest, RequestError, UnsupportedEncoding
from batchserve.frontend.compression import choose_encoding, compress, inflate, parse_content_encoding
from batchserve.frontend.v2 import ModelInfo, decode, encode

MODELS = [
    PAIR,
    model_info([("x", "FP32", (-1, 3))], [("y", "FP32", (-1, 3))]),
    *(echo(datatype, (-1, -1)) for datatype in DATATYPES),
    echo("INT32", (2, -1), 0),
    echo("BYTES", (), 0),
]

PAIR_BODY, PAIR_LENGTH = with_tail(
    {
        "id": "r-ü",
        "parameters": {"timeout": 5, "priority": 1, "binary_data_output": True, "mine": "a"},
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [-3e2, 4]]},
            {"name": "b", "datatype": "INT64", "shape": [2, 1], "parameters": {"binary_data_size": 16}},
        ],
        "outputs": [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "half"}],
    },
    bytes(16),
)
WORDS_TAIL = bytes_tensor(b"hi", b"", "ü".encode())
WORDS_BODY, WORDS_LENGTH = with_tail(
    {
        "inputs": [
            {"name": "x", "datatype": "BYTES", "shape": [1, 3], "parameters": {"binary_data_size": len(WORDS_TAIL)}}
        ]
    },
    WORDS_TAIL,
)
SEEDS = [(PAIR, PAIR_BODY, PAIR_LENGTH), (echo("BYTES", (-1, -1)), WORDS_BODY, WORDS_LENGTH)]

LENGTHS = st.none() | st.integers(-1, 400).map(str) | st.text(max_size=5)


def take(model: ModelInfo, body: bytes | memoryview, header_length: str | None) -> bool:
    """Decode; check what must hold for a request that is let in, and for the words of one that is not."""
    try:
        request, asked = decode(model, body, header_length, 0.0)
    except RequestError as error:
        message = str(error)
        assert message
        message.encode()
        assert len(message) < 2000
        return False
    signature = model.signature
    for array, spec in zip(request.inputs, signature.inputs, strict=True):
        assert array.dtype == spec.datatype.dtype
        assert array.ndim == len(spec.shape)
        assert all(want in (have, -1) for have, want in zip(array.shape, spec.shape, strict=True))
        assert array.size > 0
        assert array.flags.c_contiguous
        if spec.datatype.name == "BYTES":
            assert all(type(item) is str and item.encode() is not None for item in array.ravel())
        if signature.is_batching:
            assert len(array) == request.rows
    assert 1 <= request.rows <= model.row_limit or not signature.is_batching
    assert request.output_mask == sum(1 << index for index in asked.outputs) > 0
    request.id.encode()
    outputs = [random_array(signature.outputs[i].datatype.name, (1, 2)) for i in asked.outputs]
    answer = encode(model, asked, Response(tuple(outputs), NO_PHASES, 1))
    document = json.loads(b"".join(answer.parts)[: answer.json_length])
    assert document.get("id", "") == request.id
    return True


def test_the_seeds_are_good() -> None:
    assert all(take(*seed) for seed in SEEDS)


@given(st.sampled_from(MODELS), st.binary(max_size=200), LENGTHS)
def test_any_bytes(model: ModelInfo, body: bytes, header_length: str | None) -> None:
    take(model, body, header_length)


@given(st.sampled_from(SEEDS), st.data())
def test_damaged_requests(seed: tuple[ModelInfo, bytes, str], data: st.DataObject) -> None:
    model, good, header_length = seed
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        kind = data.draw(st.integers(0, 3))
        if kind == 0:
            del body[at : at + data.draw(st.integers(1, 8))]
        elif kind == 1:
            body[at:at] = data.draw(st.binary(min_size=1, max_size=4) | st.sampled_from(PIECES))
        elif kind == 2:
            body[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
        else:
            del body[at:]
    lengths = st.sampled_from([header_length, str(len(body)), None]) | LENGTHS
    take(model, memoryview(body) if data.draw(st.booleans()) else bytes(body), data.draw(lengths))


PIECES = [
    b"NaN",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"[",
    b"]",
    b"{}",
    b'"',
    b"\\ud800",
    b"\xff",
    b"1.5",
    b"9" * 30,
    b",",
]


@given(st.sampled_from(SEEDS), st.data())
def test_truncated_requests(seed: tuple[ModelInfo, bytes, str], data: st.DataObject) -> None:
    model, good, header_length = seed
    assert not take(model, good[: data.draw(st.integers(0, len(good) - 1))], header_length)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["x", "a", "b", "FP32"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(MODELS), JSON)
def test_any_json(model: ModelInfo, document: Any) -> None:
    take(model, json.dumps(document).encode(), None)


def mostly(usual: Any, other: Any = JSON) -> st.SearchStrategy[Any]:
    """Draw what is usually there, sometimes something else."""
    return st.integers(0, 7).flatmap(lambda roll: other if roll == 0 else usual)


PARAMETERS = st.dictionaries(
    st.sampled_from(
        [
            "binary_data_size",
            "binary_data",
            "binary_data_output",
            "classification",
            "shared_memory_region",
            "shared_memory_byte_size",
            "shared_memory_offset",
            "timeout",
            "priority",
            "sequence_id",
            "sequence_start",
            "headers",
            "triton_final_response",
            "mine",
        ]
    ),
    st.none() | st.booleans() | st.integers(-1, 16) | st.text(max_size=3) | JSON,
    max_size=3,
)


@st.composite
def documents(draw: st.DrawFn, model: ModelInfo) -> Any:
    """A request that is right in most places."""
    inputs = []
    for spec in model.signature.inputs:
        shape = [draw(st.integers(1, 3)) if dim == -1 else dim for dim in spec.shape]
        array = random_array(spec.datatype.name, tuple(shape), draw(st.integers(0, 99)))
        item = {
            "name": draw(mostly(st.just(spec.name))),
            "datatype": draw(mostly(st.just(spec.datatype.name))),
            "shape": draw(mostly(st.just(shape), st.lists(st.integers(-2, 3) | JSON, max_size=4))),
            "data": draw(mostly(st.just(array.tolist() if draw(st.booleans()) else array.ravel().tolist()))),
        }
        for member in list(item):
            if draw(st.integers(0, 15)) == 0:
                del item[member]
        if draw(st.integers(0, 3)) == 0:
            item["parameters"] = draw(PARAMETERS)
        inputs.append(item)
    document: dict[str, Any] = {"inputs": draw(mostly(st.just(inputs)))}
    if draw(st.booleans()):
        names = st.sampled_from([spec.name for spec in model.signature.outputs])
        output = st.fixed_dictionaries({"name": mostly(names)}, optional={"parameters": PARAMETERS})
        document["outputs"] = draw(mostly(st.lists(output, max_size=3)))
    if draw(st.booleans()):
        document["parameters"] = draw(PARAMETERS)
    if draw(st.booleans()):
        document["id"] = draw(mostly(st.text(max_size=3)))
    return document


@given(st.sampled_from(MODELS).flatmap(lambda model: st.tuples(st.just(model), documents(model))))
def test_requests_that_are_nearly_right(case: tuple[ModelInfo, Any]) -> None:
    model, document = case
    take(model, json.dumps(document).encode(), None)


@given(st.integers(1, 5000), st.integers(0, 3))
def test_nesting_of_any_depth(depth: int, place: int) -> None:
    deep = b"[" * depth + b"1" + b"]" * depth
    body = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":%b}]}' % deep,
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":%b,"data":[1]}]}' % deep,
        b'{"inputs":%b}' % deep,
        b'{"unknown":%b,"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[NaN]}]}' % deep,
    )[place]
    taken = take(echo("FP32", (-1, -1)), body, None)
    if place == 0:
        assert taken == (depth <= 100)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]), st.integers(0, 1000))
def test_inflating_any_bytes(data: bytes, encoding: Any, limit: int) -> None:
    with contextlib.suppress(InvalidRequest, BodyTooLarge):
        assert len(inflate(data, encoding, limit)) <= limit


@given(st.binary(max_size=5000), st.sampled_from(["gzip", "deflate"]), st.integers(0, 6000), st.data())
def test_inflating_gives_back_what_was_compressed(
    content: bytes, encoding: Any, limit: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(content)))
    packed = compress([content[:cut], memoryview(content)[cut:]], encoding)
    assert (gzip.decompress if encoding == "gzip" else zlib.decompress)(packed) == content
    try:
        assert inflate(packed, encoding, limit) == content
        assert len(content) <= limit
    except BodyTooLarge:
        assert len(content) > limit
    try:
        inflate(packed[: data.draw(st.integers(0, len(packed) - 1))], encoding, limit)
        raise AssertionError("a stream that was cut short was taken")
    except (InvalidRequest, BodyTooLarge):
        pass


CODINGS = st.sampled_from(
    ["gzip", "deflate", "identity", "*", "br", "GZIP", ";q=0", ";q=1", ";q=0.5", ",", " ", "=", "q"]
)


@given(st.lists(CODINGS, max_size=8).map("".join) | st.text(max_size=20), st.booleans())
def test_any_accept_encoding_gives_a_coding_that_was_named(header: str, is_binary: bool) -> None:
    coding = choose_encoding(header, is_binary=is_binary, size=10, min_size=0, enabled=True)
    assert coding in (None, "gzip", "deflate")
    assert coding is None or coding in header.lower() or ("*" in header and not is_binary)


@given(st.text(max_size=12))
def test_any_content_encoding(value: str) -> None:
    with contextlib.suppress(UnsupportedEncoding):
        assert parse_content_encoding(value) in (None, "gzip", "deflate")


@given(st.sampled_from([name for name, kind in DATATYPES.items() if kind.kind == "int"]), st.integers(-(2**70), 2**70))
def test_integers_are_taken_exactly_or_refused(name: str, value: int) -> None:
    """None wraps around."""
    info = np.iinfo(DATATYPES[name].dtype)
    for data in (f"[{value}]", f"[[[{value}]], []]"):
        body = f'{{"inputs":[{{"name":"x","datatype":"{name}","shape":[1,1],"data":{data}}}]}}'.encode()
        try:
            request, _ = decode(echo(name, (-1, -1)), body, None, 0.0)
            assert request.inputs[0].tolist() == [[value]]
            assert info.min <= value <= info.max
        except InvalidRequest:
            assert not info.min <= value <= info.max
