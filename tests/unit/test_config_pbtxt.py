"""The protobuf text format: how `config.pbtxt` files really write things, and where errors point."""

from __future__ import annotations

import math

import pytest

from batchserve.config.pbtxt import Message, Word, parse
from batchserve.errors import ConfigError


def tree(message: Message) -> list[tuple[str, object]]:
    """The fields without their places."""
    return [
        (entry.name, tree(entry.value) if isinstance(entry.value, Message) else entry.value) for entry in message.fields
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# only a comment", []),
        ("a: 1 # end\nb: 2", [("a", 1), ("b", 2)]),
        ("a: 1, b: 2; c: 3", [("a", 1), ("b", 2), ("c", 3)]),
        ("a:1b:2", None),
        ("a: -8", [("a", -8)]),
        ("a: - 8", [("a", -8)]),
        ("a: 0x1F b: 017 c: -0X10", [("a", 31), ("b", 15), ("c", -16)]),
        (
            "a: 1.5 b: .5 c: 1. d: 2e3 e: 1.5f f: 3F",
            [("a", 1.5), ("b", 0.5), ("c", 1.0), ("d", 2e3), ("e", 1.5), ("f", 3.0)],
        ),
        ("a: inf b: -Infinity", [("a", math.inf), ("b", -math.inf)]),
        ("a: TYPE_FP32 b: true", [("a", Word("TYPE_FP32")), ("b", Word("true"))]),
        ("a: 'x' b: \"y\"", [("a", "x"), ("b", "y")]),
        ("a: 'x' \"y\"\n  'z'", [("a", "xyz")]),
        (r"a: 'q\'\"\\\n\t\x41\101\u00e9\U0001F600\0'", [("a", "q'\"\\\n\tAAé😀\0")]),
        (r"a: '\303\251'", [("a", "é")]),
        ("a { b: 1 }", [("a", [("b", 1)])]),
        ("a: { b: 1 }", [("a", [("b", 1)])]),
        ("a < b: 1 >", [("a", [("b", 1)])]),
        ("a { }", [("a", [])]),
        ("a: [ 1, 2 ]", [("a", 1), ("a", 2)]),
        ("a: 1 a: 2", [("a", 1), ("a", 2)]),
        ("a: []", []),
        ("a []", []),
        ("a [ { b: 1 }, { b: 2 } ]", [("a", [("b", 1)]), ("a", [("b", 2)])]),
        ("a: [ { b: 1 }, < b: 2 > ],", [("a", [("b", 1)]), ("a", [("b", 2)])]),
        ("\ta\r\n:\f1", [("a", 1)]),
        ("true: 1 inf: 2", [("true", 1), ("inf", 2)]),
    ],
)
def test_text_is_read(text: str, expected: list[tuple[str, object]] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError):
            parse(text, "config.pbtxt")
    else:
        assert tree(parse(text, "config.pbtxt")) == expected


def test_nan_is_read() -> None:
    (value,) = (entry.value for entry in parse("a: nan", "config.pbtxt").fields)
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("a", "1:2", "the end of the file stands where ':' or '{' is expected after 'a'"),
        ("a:", "1:3", "the end of the file stands where a value of 'a' is expected"),
        ("a: 1\n  b c", "2:5", "'c' stands where ':' or '{' is expected after 'b'"),
        ("a: [1 2]", "1:7", "'2' stands where ',' or ']' is expected"),
        ("a: [1,]", "1:7", "']' stands where a value of 'a' is expected"),
        ("a [1]", "1:4", "'1' stands where ':' or '{' is expected"),
        ("a {", "1:4", "the end of the file stands where a field's name or '}' is expected"),
        ("a { >", "1:5", "'>' stands where a field's name or '}' is expected"),
        ("}", "1:1", "'}' stands where a field's name is expected"),
        ("a: -x", "1:5", "'x' stands where a value of 'a' is expected"),
        ("a: -'x'", "1:5", "stands where a value of 'a' is expected"),
        ("a: 09", "1:4", "09 is not a number: octal digits are 0 to 7"),
        ("a: 1x", "1:4", "'1x' is not read"),
        ("a: 'x\n'", "1:4", "a string is not closed on its line"),
        ("a: 'x", "1:4", "a string is not closed on its line"),
        (r"a: '\q'", "1:4", r"unknown escape \q"),
        (r"a: '\uD800'", "1:4", "unknown escape"),
        (r"a: '\400'", "1:4", "unknown escape"),
        (r"a: '\xff'", "1:4", "a string is not UTF-8"),
        ("[a.b]: 1", "1:1", "'[' stands where a field's name is expected"),
        ("a: 1\n# é\n  @", "3:3", "'@' is not read"),
        ("\x1c", "1:1", "is not read"),
        ("a{" * 101, "1:202", "nested deeper than 100"),
    ],
)
def test_error_says_where_and_what_was_expected(text: str, place: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "models/digits/config.pbtxt")
    assert str(caught.value).startswith(f"models/digits/config.pbtxt:{place}: ")
    assert problem in str(caught.value)


def test_each_value_knows_its_place() -> None:
    fields = parse("a: 1\n  b: [ 2,\n3 ]\n", "config.pbtxt").fields
    assert [str(entry.place) for entry in fields] == ["1:1", "2:8", "3:1"]


def test_numbers_of_any_length_are_read() -> None:
    (entry,) = parse("a: " + "9" * 5000, "config.pbtxt").fields
    assert entry.value == math.inf
