"""The kinds of value a key can have: how each is read from TOML and from text, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchserve.config.names import did_you_mean
from batchserve.config.units import BadValueError, format_duration, format_size, parse_duration, parse_size

__all__ = [
    "Kind",
    "choice",
    "device",
    "duration",
    "file_name",
    "flag",
    "header_name",
    "positive_number",
    "read_weight",
    "share",
    "size",
    "text",
    "toml_string",
    "weight_from_text",
    "whole_number",
    "with_word",
]

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})

_NUMBER = re.compile(r"[+-]?[0-9]{1,19}(\.[0-9]{1,19})?")
_SMALLEST, _LARGEST = 1e-6, 1e6
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_DEVICE = re.compile(r"(?P<kind>[a-z][a-z0-9_]{0,30})(:(?P<number>[0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of value is read, checked and written.

    Attributes:
        name: What it is called in the reference: `duration`, `size`, …
        allowed: The allowed values in words, to be read after "expected".
        read: Turns what TOML gives (str, int, float, bool, list) into the field's value; raises `BadValueError`.
        from_text: Turns the text of a flag or variable into what `read` takes; raises nothing.
        show: Writes the field's value as TOML that `read` takes back.
    """

    name: str
    allowed: str
    read: Callable[[object], Any]
    from_text: Callable[[str], object]
    show: Callable[[Any], str]


def toml_string(value: object) -> str:
    """Write a TOML string."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def with_word(kind: Kind, word: str) -> Kind:
    """Let a word stand for None: `auto` where the server finds the value out, `none` where there is to be none."""
    return Kind(
        name=f"{kind.name} or {word}",
        allowed=f"{kind.allowed}, or {word}",
        read=lambda value: None if value == word else kind.read(value),
        from_text=lambda given: word if given.strip() == word else kind.from_text(given),
        show=lambda value: f'"{word}"' if value is None else kind.show(value),
    )


def text(*, word: str = "") -> Kind:
    """A string that is not empty.

    Args:
        word: May be written in its place and becomes None: `auto` or `off`.
    """

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise BadValueError("is not a string", f"write {toml_string(value)}")
        if not value.strip():
            raise BadValueError("is empty")
        if not value.isprintable():
            raise BadValueError("has characters in it that cannot be printed")
        return value

    kind = Kind("text", "a string that is not empty", read, lambda given: given, toml_string)
    return with_word(kind, word) if word else kind


def file_name() -> Kind:
    """The path of a file, or an empty string for none. Whether it is there is found out by who opens it."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise BadValueError("is not a string", f"write {toml_string(value)}")
        if "\0" in value:
            raise BadValueError("has a NUL in it")
        return value

    return Kind("file", "the path of a file, or an empty string for none", read, lambda given: given, toml_string)


def header_name() -> Kind:
    """The name of an HTTP header."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not _HEADER.fullmatch(value.strip()):
            raise BadValueError("is no name of an HTTP header")
        return value.strip()

    return Kind("header name", "a header's name such as X-Client-Id", read, lambda given: given, toml_string)


def flag(*, auto: bool = False) -> Kind:
    """True or false; as text also 1, 0, yes, no, on, off.

    Args:
        auto: True if `auto` may be written and becomes None.
    """

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise BadValueError("is neither true nor false")

    def from_text(given: str) -> object:
        word = given.strip().casefold()
        return True if word in _TRUE else False if word in _FALSE else given

    kind = Kind("true or false", "true or false", read, from_text, lambda value: "true" if value else "false")
    return with_word(kind, "auto") if auto else kind


def read_weight(value: object) -> float:
    """Read a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        is_number_in_quotes = isinstance(value, str) and _NUMBER.fullmatch(value.strip())
        raise BadValueError("is not a number", "write it without quotes" if is_number_in_quotes else "")
    if value <= 0:
        raise BadValueError("is not above 0")
    if not _SMALLEST <= value <= _LARGEST:
        raise BadValueError("is out of all proportion")
    return float(value)


def weight_from_text(given: str) -> object:
    """Turn text into a number if it is one."""
    return float(given) if _NUMBER.fullmatch(given.strip()) else given


def positive_number() -> Kind:
    """A number above 0, whole or not."""
    return Kind("number above 0", "a number above 0, such as 1, 2.5 or 0.1", read_weight, weight_from_text, repr)


def share() -> Kind:
    """A number from 0 to 1."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            is_number_in_quotes = isinstance(value, str) and _NUMBER.fullmatch(value.strip())
            raise BadValueError("is not a number", "write it without quotes" if is_number_in_quotes else "")
        if not 0 <= value <= 1:
            raise BadValueError("is not between 0 and 1")
        return float(value)

    def from_text(given: str) -> object:
        return float(given) if _NUMBER.fullmatch(given.strip()) else given

    return Kind("share", "a number from 0 to 1, such as 0.01", read, from_text, repr)


def whole_number(least: int, most: int, *, zero_is: str = "", auto: bool = False) -> Kind:
    """A whole number of a range.

    Args:
        least: Smallest allowed value.
        most: Largest allowed value.
        zero_is: Why 0 is refused or what to write instead, appended to the error for a 0 below `least`.
        auto: True if `auto` may be written and becomes None.
    """

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            is_number_in_quotes = isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", value)
            raise BadValueError("is not a whole number", "write it without quotes" if is_number_in_quotes else "")
        if value < least:
            raise BadValueError("is too small", zero_is if value == 0 else "")
        if value > most:
            raise BadValueError("is too large")
        return value

    def from_text(given: str) -> object:
        return int(given) if re.fullmatch(r"[ \t]*[+-]?[0-9]{1,19}[ \t]*", given) else given

    kind = Kind("whole number", f"a whole number from {least} to {most}", read, from_text, str)
    return with_word(kind, "auto") if auto else kind


def _with_unit(value: object, parse: Callable[[str], Any], example: str) -> Any:
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValueError("is not a number with a unit")
    if value == 0:
        return parse("0")
    if value < 0:
        raise BadValueError("is negative")
    raise BadValueError("has no unit", f'write "{value}{example}" if that is what you mean')


def duration(*, positive: bool = False, word: str = "") -> Kind:
    """A duration with its unit.

    Args:
        positive: True if 0 is refused.
        word: May be written in its place and becomes None: `auto` or `none`.
    """

    def read(value: object) -> float:
        seconds = float(_with_unit(value, parse_duration, "s"))
        if positive and seconds == 0:
            raise BadValueError("is not longer than 0")
        return seconds

    least = "longer than 0" if positive else "0 or longer"
    kind = Kind(
        "duration",
        f"a duration {least} with its unit, such as 200us, 5ms, 2s or 1m",
        read,
        lambda given: given,
        lambda seconds: toml_string(format_duration(seconds)),
    )
    return with_word(kind, word) if word else kind


def size(*, positive: bool = False, auto: bool = False) -> Kind:
    """A size in bytes with its unit.

    Args:
        positive: True if 0 is refused.
        auto: True if `auto` may be written and becomes None.
    """

    def read(value: object) -> int:
        size_bytes = int(_with_unit(value, parse_size, "B"))
        if positive and size_bytes == 0:
            raise BadValueError("is not more than 0")
        return size_bytes

    least = "above 0" if positive else "of 0 or more"
    kind = Kind(
        "size",
        f"a size {least} with its unit, such as 512B, 4KiB, 64MiB or 1GiB",
        read,
        lambda given: given,
        lambda size_bytes: toml_string(format_size(size_bytes)),
    )
    return with_word(kind, "auto") if auto else kind


def choice(*values: str) -> Kind:
    """One word of a few."""
    listed = ", ".join(values[:-1]) + f" or {values[-1]}"

    def read(value: object) -> str:
        if isinstance(value, str) and value in values:
            return value
        raise BadValueError("is not one of them", did_you_mean(str(value), values))

    return Kind(listed, listed, read, lambda given: given.strip(), toml_string)


def device() -> Kind:
    """One device or several, or `auto`.

    The field's value has a number, `cuda:0` for `cuda`, unless it is the CPU; several stand side by side with commas.
    """

    def one(value: object) -> str:
        match = _DEVICE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise BadValueError("is not a device")
        number = int(match["number"] or 0)
        return "cpu" if (match["kind"], number) == ("cpu", 0) else f"{match['kind']}:{number}"

    def read(value: object) -> str:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list):
            raise BadValueError("is not a device")
        if not value:
            raise BadValueError("names no device")
        names = [one(part) for part in value]
        for name in names:
            if names.count(name) > 1:
                raise BadValueError(f"names {name} twice", "instances says how many runs a device is given")
        return ",".join(names)

    def show(value: str) -> str:
        names = [toml_string(name) for name in value.split(",")]
        return names[0] if len(names) == 1 else f"[{', '.join(names)}]"

    allowed = "a device or a list of them, such as cpu, cuda or cuda:1"
    kind = Kind("device or list", allowed, read, lambda given: given.strip().strip("[]").replace('"', ""), show)
    return with_word(kind, "auto")
