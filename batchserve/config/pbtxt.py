"""A reader of the protobuf text format, as far as `config.pbtxt` files use it: text in, a tree of fields out.

Written from the format's public specification (protobuf.dev, "Text Format Language Specification"). It needs no schema,
so it cannot tell an enum from a misspelt word; `triton.py` gives the tree its meaning. Not read: extension names and
`Any` type names in brackets, which no model configuration has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from batchserve.errors import ConfigError

__all__ = ["Field", "Message", "Place", "Scalar", "Word", "parse"]

_DEEPEST = 100

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n\f\v]+|\#[^\n]*)
  | (?P<number>(?:0[xX][0-9a-fA-F]+
        |(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<sign>[-{}<>\[\]:,;])
    """,
    re.VERBOSE,
)

_ESCAPE = re.compile(
    rb"\\(?:(?P<simple>[abfnrtv?\\'\"])|(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})"
    rb"|u(?P<u4>[0-9a-fA-F]{4})|U(?P<u8>[0-9a-fA-F]{8})|(?P<bad>.?))",
    re.DOTALL,
)
_SIMPLE = dict(zip(b"abfnrtv?\\'\"", b"\a\b\f\n\r\t\v?\\'\"", strict=True))

_CLOSING = {"{": "}", "<": ">"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file; line and column count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Word:
    """A bare word: an enum's value, `true`, `false`, `inf` or `nan`."""

    name: str


Scalar = str | int | float | Word
"""A field's plain value; `str` is a quoted string."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value of one field; a list, or a field written several times, is several of these.

    Attributes:
        name: The field's name.
        value: A plain value, or a message.
        place: Where the value's field name stands (in a list: where the element stands).
    """

    name: str
    value: Scalar | Message
    place: Place


@dataclass(frozen=True, slots=True)
class Message:
    """The fields between two braces, or of the whole file, in the order they stand there."""

    fields: tuple[Field, ...] = field(default=())

    def named(self, name: str) -> Iterator[Field]:
        """Go through the fields of one name."""
        return (entry for entry in self.fields if entry.name == name)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: Place


def parse(text: str, source: str) -> Message:
    """Read a file in the protobuf text format.

    Args:
        text: What the file holds.
        source: Its name, for errors.

    Raises:
        ConfigError: Not the text format; says where.
    """
    return _Reader(text, source).whole()


class _Reader:
    """Reads tokens one after the other; `_next` is the first that is not taken yet."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._tokens = self._tokenise(text)
        self._next = next(self._tokens)

    def _error(self, problem: str, place: Place) -> ConfigError:
        return ConfigError(f"{self._source}:{place}: {problem}")

    def _tokenise(self, text: str) -> Iterator[_Token]:
        position, line, line_start = 0, 1, 0
        while position < len(text):
            place = Place(line, position - line_start + 1)
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._error(_unreadable(text[position:]), place)
            kind = match.lastgroup or ""
            if kind == "space":
                if breaks := match[0].count("\n"):
                    line += breaks
                    line_start = position + match[0].rindex("\n") + 1
            else:
                yield _Token(kind, match[0], place)
            position = match.end()
        yield _Token("end", "", Place(line, position - line_start + 1))

    def _take(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = next(self._tokens)
        return token

    def _take_if(self, *signs: str) -> bool:
        if self._next.kind == "sign" and self._next.text in signs:
            self._take()
            return True
        return False

    def whole(self) -> Message:
        """Read the file to its end."""
        return self._fields("", 0)

    def _fields(self, closing: str, depth: int) -> Message:
        """Read fields up to and including `closing`; "" is the end of the file."""
        found: list[Field] = []
        while True:
            token = self._take()
            if token.kind == "end" and not closing:
                return Message(tuple(found))
            if token.kind == "sign" and token.text == closing:
                return Message(tuple(found))
            if token.kind != "word":
                missing = f" or {closing!r}" if closing else ""
                raise self._error(f"{_shown(token)} stands where a field's name{missing} is expected", token.place)
            found.extend(self._values(token, depth))
            self._take_if(",", ";")

    def _values(self, name: _Token, depth: int) -> list[Field]:
        """Read what follows a field's name: `: scalar`, `{ … }`, `: { … }` or `: [ … ]`."""
        has_colon = self._take_if(":")
        if self._take_if("["):
            values: list[Field] = []
            if self._take_if("]"):
                return values
            while True:
                place = self._next.place
                values.append(Field(name.text, self._value(name, depth, is_scalar_allowed=has_colon), place))
                if self._take_if("]"):
                    return values
                if not self._take_if(","):
                    raise self._error(f"{_shown(self._next)} stands where ',' or ']' is expected", self._next.place)
        return [Field(name.text, self._value(name, depth, is_scalar_allowed=has_colon), name.place)]

    def _value(self, name: _Token, depth: int, *, is_scalar_allowed: bool) -> Scalar | Message:
        opening = self._next
        if self._take_if("{", "<"):
            if depth == _DEEPEST:
                raise self._error(f"messages are nested deeper than {_DEEPEST}", opening.place)
            return self._fields(_CLOSING[opening.text], depth + 1)
        if not is_scalar_allowed:
            raise self._error(
                f"{_shown(opening)} stands where ':' or '{{' is expected after {name.text!r}", opening.place
            )
        return self._scalar(name)

    def _scalar(self, name: _Token) -> Scalar:
        token = self._take()
        if token.kind == "string":
            return self._string(token)
        is_negative = token.kind == "sign" and token.text == "-"
        if is_negative:
            token = self._take()
        if token.kind == "number":
            number = _number(token.text)
            if number is None:
                raise self._error(f"{token.text} is not a number: octal digits are 0 to 7", token.place)
            return -number if is_negative else number
        if token.kind == "word":
            if token.text.lower() in ("inf", "infinity", "nan"):
                return float(f"-{token.text}" if is_negative else token.text)
            if not is_negative:
                return Word(token.text)
        raise self._error(f"{_shown(token)} stands where a value of {name.text!r} is expected", token.place)

    def _string(self, token: _Token) -> str:
        """Join adjacent strings; their escapes are bytes, the whole is UTF-8."""
        joined, place = self._unescaped(token), token.place
        while self._next.kind == "string":
            joined += self._unescaped(self._take())
        try:
            return joined.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("a string is not UTF-8", place) from None

    def _unescaped(self, token: _Token) -> bytes:
        def replace(match: re.Match[bytes]) -> bytes:
            if simple := match["simple"]:
                return bytes([_SIMPLE[simple[0]]])
            if (octal := match["octal"]) and int(octal, 8) < 256:
                return bytes([int(octal, 8)])
            if digits := match["hex"]:
                return bytes([int(digits, 16)])
            code = match["u4"] or match["u8"]
            if code and int(code, 16) <= 0x10FFFF and not 0xD800 <= int(code, 16) <= 0xDFFF:
                return chr(int(code, 16)).encode()
            raise self._error(f"unknown escape {match[0].decode(errors='replace')} in a string", token.place)

        return _ESCAPE.sub(replace, token.text[1:-1].encode("utf-8", "surrogatepass"))


def _number(text: str) -> int | float | None:
    """Read decimal, octal, hexadecimal and floating numbers; None for octal with an 8 or 9 in it."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    if text.isdigit():
        if len(text) > 1 and text.startswith("0"):
            return int(text, 8) if set(text) <= set("01234567") else None
        return int(text) if len(text) <= 4000 else float(text)
    return float(text.rstrip("fF"))


def _shown(token: _Token) -> str:
    return "the end of the file" if token.kind == "end" else repr(token.text[:40])


def _unreadable(rest: str) -> str:
    if rest[0] in "\"'":
        return "a string is not closed on its line"
    word = re.split(r"[ \t\r\n]", rest[:40])[0]
    return f"{word!r} is not read; expected a name, a number, a string or one of {{}}[]<>:,;-"
