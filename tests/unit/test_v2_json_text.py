"""Large arrays are found in a request's JSON, cut into pieces, and read by parsers that know their limits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.json_pieces import SIMD, sizes

from batchserve.core.tensors import DATATYPES
from batchserve.frontend import number_text
from batchserve.frontend.number_parsers import SimdParser, read_floats, read_integers
from batchserve.frontend.number_text import MARK, NumberText, Piece, take_out

BODY = b'{"id":"a","inputs":[{"name":"x","data":[[1,2],[3]],"shape":[3]},{"data" :\n[4, 5 ] , "name":"data"}],"b":"]"}'
REST = b'{"id":"a","inputs":[{"name":"x","data":%b,"shape":[3]},{"data" :\n%b , "name":"data"}],"b":"]"}' % (MARK, MARK)


def piece_of(text: str, before: int = 1, *, is_last: bool = False) -> Piece:
    return Piece(memoryview(b""), text.encode(), 0, before, is_last=is_last)


def texts_of(body: bytes) -> tuple[bytes, list[bytes]] | None:
    taken = take_out(body)
    return None if taken is None else (taken[0], [body[text.start : text.end] for text in taken[1]])


def test_arrays_are_found_whatever_the_size_of_a_search() -> None:
    for window in range(1, len(BODY) + 1):
        with sizes(window=window):
            assert texts_of(BODY) == (REST, [b"[[1,2],[3]]", b"[4, 5 ]"])


def test_short_arrays_stay_in_place() -> None:
    with sizes(least=8):
        assert texts_of(BODY) == (REST.replace(b"\n" + MARK, b"\n[4, 5 ]"), [b"[[1,2],[3]]"])
    assert texts_of(BODY) is None, "with the sizes of a server"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"data"',
        b'"data":',
        b'"data":[',
        b'{"data":[1,2]',
        b'{"data":1}',
        b'{"data":["a"]}',
        b'{"data":{}}',
        b'{"data":null,"x":[1]}',
        b'{"Data":[1,2]}',
        b'{"data" [1,2]}',
    ],
)
def test_nothing_is_taken_out_where_there_is_no_array_of_numbers(body: bytes) -> None:
    with sizes():
        assert texts_of(body) is None


def test_search_ends_after_a_bounded_number_of_members() -> None:
    """A body full of them does not keep a helper thread for long; the rest is parsed in place."""
    with sizes():
        taken = take_out(b'{"data":[1],' * 10_000)
    assert taken is not None
    assert len(taken[1]) == 64


@pytest.mark.parametrize("piece", range(1, 30))
def test_pieces_add_up_to_the_text_and_know_their_depth(piece: int) -> None:
    text = b"[[[1.25,2],[3 , 44444444444]] ,[[5,6],\n[7,8]],[9]]"
    whole = b"xx" + text + b"yy"
    with sizes(piece=piece, small=piece):
        pieces = list(NumberText(memoryview(whole), 2, 2 + len(text)).pieces())
        assert b",".join(part.text for part in pieces) == text
        assert [part.is_last for part in pieces] == [False] * (len(pieces) - 1) + [True]
        for part in pieces:
            head, body = whole[2 : part.start], part.text
            assert whole[part.start : part.start + len(body)] == body
            assert part.before == head.count(b"[") - head.count(b"]")
            assert part.after == part.before + body.count(b"[") - body.count(b"]")
            assert part.is_sound
            json.loads(part.balanced)
            assert len(body) <= piece or b"," not in body
    assert len(pieces) > 1


def test_pieces_of_a_piece_add_up_to_it() -> None:
    text = b"[[1,2],[3,4],[5,6]]"
    with sizes(piece=13, small=4):
        pieces = list(NumberText(memoryview(text), 0, len(text)).pieces())
        small = [list(part.smaller()) for part in pieces]
    assert [part.text for part in pieces] == [b"[[1,2],[3,4]", b"[5,6]]"]
    assert [[part.text for part in parts] for parts in small] == [[b"[[1", b"2]", b"[3", b"4]"], [b"[5", b"6]]"]]
    assert [[part.is_last for part in parts] for parts in small] == [[False] * 4, [False, True]]
    assert [part.before for part in small[1]] == [1, 2]


def test_piece_without_text_is_cut_into_itself() -> None:
    """An element is missing there, which must not get lost."""
    text = b"[1,,2]"
    with sizes(piece=2, small=1):
        pieces = list(NumberText(memoryview(text), 0, len(text)).pieces())
        assert [(part.text, part.is_sound) for part in pieces] == [(b"[1", True), (b"", False), (b"2]", True)]
        assert [(part.text, part.fault_at) for part in pieces[1].smaller()] == [(b"", 3)]


def test_real_pieces_are_small_enough_not_to_hold_the_interpreter() -> None:
    text = b"[%b]" % b",".join([b"0.123456789"] * 100_000)
    pieces = list(NumberText(memoryview(text), 0, len(text)).pieces())
    assert len(pieces) == len(text) // number_text.PIECE_BYTES + 1
    assert all(len(part.text) <= 128 << 10 for part in pieces)
    assert all(len(part.text) <= 8 << 10 for part in pieces[0].smaller())


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0", [0]),
        ("1,22,333,4444,55555", [1, 22, 333, 4444, 55555]),
        ("10, 200, 3", [10, 200, 3]),
        (" 1 , -2\n,\t3\r ", [1, -2, 3]),
        ("1,2],[3,4]],[[5", [1, 2, 3, 4, 5]),
        ("[[[-7]]] , [ [ 8 ] ]", [-7, 8]),
        ("-0,0", [0, 0]),
        ("100,1,20", [100, 1, 20]),
    ],
)
def test_short_integers_are_read_digit_by_digit(text: str, values: list[int]) -> None:
    with sizes():
        found = read_integers(piece_of(text, before=5), np.dtype(np.int64))
    assert found is not None
    assert found.tolist() == values


NO_SHORT_INTEGERS = (
    *("123456", "1.0", "1e2", "01", "-01", "1,,2", "", " ", ",1", "1,", "-", "--1", "1 2", "1[2", "1]2", "]1", "1],]2"),
    *("1[,2", "1,[]", "1][,2", "true", "a", "\xb1", "1" + " " * 40, "[" * 100 + "1" + "]" * 100),
)


@pytest.mark.parametrize("text", NO_SHORT_INTEGERS)
def test_what_is_no_short_integer_is_left_to_the_other_parsers(text: str) -> None:
    with sizes():
        assert read_integers(piece_of(text), np.dtype(np.int64)) is None


def test_integers_beyond_the_type_are_left_to_the_other_parsers() -> None:
    with sizes():
        for dtype, text in ((np.uint8, "0,256"), (np.uint8, "-1,2"), (np.int8, "127,-129"), (np.int8, "128")):
            assert read_integers(piece_of(text), np.dtype(dtype)) is None
        for dtype, text in ((np.uint8, "0,255"), (np.int8, "127,-128"), (np.uint64, "-0,1")):
            assert read_integers(piece_of(text), np.dtype(dtype)) is not None


def test_an_array_that_ends_and_begins_again_is_not_one() -> None:
    """Brackets are dropped by the integers' parser, so it must look at them before."""
    assert piece_of("[1,2],[3,4]", before=1).is_one_array
    assert not piece_of("[1,2],[3,4]", before=0, is_last=True).is_one_array
    assert not piece_of("1],[2", before=1).is_one_array
    assert piece_of("1],[2", before=2).is_one_array
    assert piece_of("[[1],[2]]", before=0, is_last=True).is_one_array


def test_depth_is_counted_exactly_where_it_matters() -> None:
    many = "[1]," * 200 + "[[2]]"
    assert piece_of(many, before=98).is_within(100)
    assert not piece_of(many, before=99).is_within(100)
    assert piece_of("1", before=100).is_within(100)
    assert not piece_of("1", before=101).is_within(100)


@pytest.mark.parametrize("text", ["true", "1,false", "null", "NaN", "1,[2]", "[1],2", "1e400", '"1"', "{}"])
def test_what_is_no_plain_number_is_left_to_the_tolerant_parser(text: str) -> None:
    assert read_floats(piece_of(text)) is None


@pytest.mark.parametrize("simd", [SIMD])
@pytest.mark.parametrize("name", ["FP32", "INT64", "UINT64", "UINT8"])
def test_pysimdjson_refuses_what_is_not_of_the_type(simd: bool, name: str) -> None:
    assert simd
    parse = SimdParser(DATATYPES[name])
    found = parse(piece_of("1,2],[100", before=2))
    assert found is not None
    assert found.tolist() == [1, 2, 100]
    for text in ("true", "null", '"1"', "NaN", "01", "1,", "{}", "123456789012345678901234567890", "1e400"):
        assert parse(piece_of(text)) is None
    for text in () if name == "FP32" else ("1.5", "1.0", "1e2"):
        assert parse(piece_of(text)) is None
    if name == "UINT8":
        assert parse(piece_of("256")) is None
        assert parse(piece_of("-1")) is None
    assert parse(piece_of("1", before=101)) is None
