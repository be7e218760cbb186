"""JSON that is read or written piece by piece gives what it gives as a whole, wherever the pieces begin and end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.json_pieces import (
    BAD,
    GOOD,
    JSON_TYPES,
    NUMERIC,
    PARSERS,
    assert_same,
    outcome,
    same_bits,
    sizes,
    whole,
)
from support.v2_codec import echo, model_info, random_array

from batchserve.core.tensors import DATATYPES
from batchserve.frontend.tensor_json_output import numbers_json, numbers_parts
from batchserve.frontend.v2 import decode

PIECES = st.integers(1, 40)

COMMAS = [",", ",", ", ", " ,", ",\n    ", " \t,\r\n", ",  "]


def flawed(usual: st.SearchStrategy[str], flaws: list[str]) -> st.SearchStrategy[str]:
    """Draw what is right, and now and then what is not."""
    return st.integers(0, 30).flatmap(lambda roll: st.sampled_from(flaws) if roll == 0 else usual)


@st.composite
def elements(draw: st.DrawFn, datatype: str) -> list[str]:
    """Draw the spellings of some elements, most of them good for the type."""
    kind = DATATYPES[datatype].kind
    usual = {
        "bool": st.sampled_from(["true", "false"]),
        "int": st.integers(0, 127).map(str) | st.integers(-200, 300).map(str) | st.integers().map(str),
        "float": st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers().map(str),
        "bytes": st.just('"a"'),
    }[kind]
    if kind == "int" and draw(st.booleans()):
        usual = st.integers(0, 127).map(str)
    one = flawed(usual, GOOD if draw(st.booleans()) else BAD)
    return draw(st.lists(one, min_size=1, max_size=40))


@st.composite
def arrays(draw: st.DrawFn, datatype: str) -> tuple[str, int]:
    """Draw the text of `data`, and how many elements were put in it."""
    words = draw(elements(datatype))
    comma = draw(st.sampled_from(COMMAS))
    nesting = draw(st.integers(0, 4))
    text = words
    for _ in range(nesting):
        width = draw(st.integers(1, 5))
        groups = [text[i : i + width] for i in range(0, len(text), width)]
        if draw(st.integers(0, 4)) == 0:  # some of the elements stay where they are
            groups = [group if draw(st.booleans()) else group[:1] for group in groups]
            text = [f"[{comma.join(group)}]" if draw(st.booleans()) else group[0] for group in groups]
        else:
            text = [f"[{comma.join(group)}]" for group in groups]
        if len(text) == 1:
            break
    joined = f"[{comma.join(text)}]"
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(joined)))
        if draw(st.booleans()):
            joined = joined[:at] + draw(st.sampled_from([*"[],0-. \n", "],[", "]],[[", ",,", "[]"])) + joined[at:]
        else:
            joined = joined[:at] + joined[at + 1 :]
    count = joined.count(",") + 1 if draw(st.integers(0, 9)) else draw(st.integers(1, 50))
    return joined, count


MEMBER_ORDERS = [
    '{{"inputs":[{{"name":"x","datatype":"{kind}","shape":[1,{count}],"data":{data}}}]}}',
    '{{"inputs":[{{"data" : {data} , "name":"x","shape":[1,{count}],"datatype":"{kind}"}}],"id":"é"}}',
    '{{"id":"\\"data\\":[1,2,3]","inputs":[{{"name":"x","datatype":"{kind}","shape":[1,{count}],"data":\n{data}}}]}}',
    '{{"more":{{"data":{data}}},"inputs":[{{"name":"x","datatype":"{kind}","shape":[1,{count}],"data":{data}}}]}}',
    '{{"inputs":[{{"name":"x","datatype":"{kind}","shape":[1,{count}],"data":[0],"data":{data}}}]}}',
    '{{"inputs":[{{"name":"x","datatype":"{kind}","shape":[1,{count}],"data":{data},"data":[1]}}]}}',
    '{{"inputs":[{{"name":"x","parameters":{{"data":{data}}},"datatype":"{kind}","shape":[1,{count}]}}]}}',
    '{{"parameters":{{"headers":{{}}}},"inputs":[{{"name":"x","datatype":"{kind}","shape":[1,{count}],"data":{data}}}]}}',
    '{{"inputs":[{{"name":"x","datatype":"{kind}","shape":[1,{count}],"data":{data}}}',
]


@pytest.mark.parametrize("simd", PARSERS)
@given(st.sampled_from(JSON_TYPES).flatmap(lambda name: st.tuples(st.just(name), arrays(name))), st.data())
@example(("UINT8", ("[1,2],[3,4]", 4)), None)
@example(("UINT8", ("[[1],[2]],[[3]]", 3)), None)
@example(("UINT8", ("[1,],2", 3)), None)
@example(("UINT8", ("[[1,2,],[3]]", 3)), None)
@example(("UINT8", ("[[1,2],[,3]]", 3)), None)
@example(("UINT8", ("[[1,2],[3,4]", 4)), None)
@example(("UINT8", ("[[1,2]],[3,4]]", 4)), None)
@example(("INT8", ("[[],[-128,127],[]]", 2)), None)
@example(("FP32", ("[1e39,NaN,[-0.0],16777217]", 4)), None)
def test_pieces_give_what_the_whole_gives(
    simd: bool, case: tuple[str, tuple[str, int]], data: st.DataObject | None
) -> None:
    datatype, (text, count) = case
    order, piece, small, window = 0, 4, 2, 5
    if data is not None:
        order = data.draw(st.sampled_from([0] * 8 + list(range(len(MEMBER_ORDERS)))))
        piece, small, window = data.draw(PIECES), data.draw(PIECES), data.draw(PIECES)
    body = MEMBER_ORDERS[order].format(kind=datatype, count=count, data=text).encode()
    model = echo(datatype, (-1, -1))
    with whole():
        expected = outcome(model, body)
    with sizes(piece=piece, small=small, window=window, simd=simd):
        found = outcome(model, body)
    assert_same(found, expected)


@pytest.mark.parametrize("simd", PARSERS)
@given(st.sampled_from(NUMERIC), st.integers(0, 2**32), st.integers(1, 60), PIECES, st.integers(0, 3), st.booleans())
def test_arrays_of_every_type_come_out_as_they_went_in(
    simd: bool, datatype: str, seed: int, rows: int, piece: int, nesting: int, spaced: bool
) -> None:
    """And no piece of a plain array needs the parser that makes an object of every element."""
    array = random_array(datatype, (rows, *(2, 3, 1)[:nesting]), seed)
    if array.dtype.kind == "f":
        array = np.where(np.isfinite(array), array, 0.5).astype(array.dtype)
    item = {"name": "x", "datatype": datatype, "shape": array.shape, "data": array.tolist()}
    body = json.dumps({"inputs": [item]}, separators=(", " if spaced else ",", ":")).encode()
    model = model_info([("x", datatype, (-1,) * array.ndim)], [("y", datatype, (-1,))], 64)
    with sizes(piece=piece, simd=simd), pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchserve.frontend.tensor_json.load", refuse)
        patch.setattr("batchserve.frontend.envelope.parse_tolerantly", refuse)
        (found,) = decode(model, body, None, 0.0)[0].inputs
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


def refuse(*_: object) -> None:
    raise AssertionError("the quick parsers refused a common array")


@pytest.mark.parametrize("simd", PARSERS)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60), PIECES)
def test_any_floating_point_bit_pattern_survives_in_pieces(simd: bool, patterns: list[int], piece: int) -> None:
    for datatype, unsigned in (("FP64", np.uint64), ("FP32", np.uint32)):
        values = np.array(patterns, np.uint64).astype(unsigned).view(DATATYPES[datatype].dtype)
        with sizes(piece=piece, simd=simd):
            text = b"".join(numbers_parts(values))
            body = b'{"inputs":[{"name":"x","datatype":"%b","shape":[1,%d],"data":%b}]}' % (
                datatype.encode(),
                len(values),
                text,
            )
            found = decode(echo(datatype, (-1, -1)), body, None, 0.0)[0].inputs[0][0]
        assert same_bits(found, values)


@given(st.sampled_from(NUMERIC), st.integers(0, 2**32), st.integers(0, 60), PIECES, st.floats(0, 1))
def test_array_written_in_pieces_is_the_array_written_at_one_go(
    datatype: str, seed: int, count: int, piece: int, share: float
) -> None:
    values = random_array(datatype, (count,), seed)
    if values.dtype.kind == "f":
        odd = np.random.default_rng(seed)
        values = np.where(odd.random(count) < share, odd.choice([np.nan, np.inf, -np.inf], count), values)
        values = values.astype(DATATYPES[datatype].dtype)
    with sizes(piece=piece):
        assert b"".join(numbers_parts(values)) == numbers_json(values)


@pytest.mark.parametrize("simd", PARSERS)
@given(st.lists(st.sampled_from(NUMERIC), min_size=2, max_size=4), st.integers(0, 2**32), PIECES)
def test_several_inputs_are_set_aside_at_once(simd: bool, names: list[str], seed: int, piece: int) -> None:
    values = [random_array(name, (2, 3), seed + i) for i, name in enumerate(names)]
    inputs: list[dict[str, Any]] = [
        {"name": f"x{i}", "datatype": name, "shape": [2, 3], "data": array.tolist()}
        for i, (name, array) in enumerate(zip(names, values, strict=True))
    ]
    model = model_info([(f"x{i}", name, (-1, 3)) for i, name in enumerate(names)], [("y", "FP32", (-1,))])
    with sizes(piece=piece, simd=simd):
        found = decode(model, json.dumps({"inputs": inputs[::-1]}).encode(), None, 0.0)[0].inputs
    for one, other in zip(found, values, strict=True):
        assert same_bits(one, other)
