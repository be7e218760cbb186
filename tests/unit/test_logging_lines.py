"""What a log line looks like, in text and in JSON, for every value that may turn up in it."""

from __future__ import annotations

import json
import logging
import sys
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest

from batchserve.telemetry.logging import MAX_ITEMS, MAX_TEXT, JsonFormatter, TextFormatter


class Hostile:
    """Cannot be shown in any way."""

    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


class HostileError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def record(message: object = "hello", *args: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("batchserve.test").makeRecord(
        "batchserve.test", logging.WARNING, "file.py", 1, message, args, exc_info, extra=extra
    )
    made.created = 1_760_000_000.123456
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert line.isascii()
    parsed = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(parsed, dict)
    return parsed


def raised(error: Exception) -> Any:
    try:
        raise error
    except type(error):
        return sys.exc_info()


def test_a_json_line_has_time_level_logger_message_and_extra_fields() -> None:
    assert as_json(record("loaded %s", "digits", model="digits", load_s=0.5)) == {
        "ts": "2025-10-09T08:53:20.123Z",
        "level": "warning",
        "logger": "batchserve.test",
        "message": "loaded digits",
        "model": "digits",
        "load_s": 0.5,
    }


def test_a_text_line_has_the_same_things_in_the_same_order() -> None:
    line = TextFormatter().format(record("loaded %s", "digits", model="my model", load_s=0.5, ok=True, id=""))
    assert line == (
        '2025-10-09T08:53:20.123Z WARNING batchserve.test: loaded digits model="my model" load_s=0.5 ok=true id=""'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.25, 0.25),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (1 << 80, hex(1 << 80)),
        (1 << 40_000, f"0x1{'0' * (MAX_TEXT - 3)}... ({10_003 - MAX_TEXT} more)"),
        (b"ab\xff", "ab\\xff"),
        (bytearray(b"x"), "x"),
        (memoryview(b"x"), "x"),
        ("ünï", "ünï"),
        ("file-\udcff", "file-\\udcff"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.float64("nan"), "nan"),
        (Decimal("1.5"), "Decimal('1.5')"),
        (PurePosixPath("/models/digits"), "/models/digits"),
        (ValueError("x"), "ValueError('x')"),
        ((1, "a", None), [1, "a", None]),
        ({"a": {1: float("nan")}, "\udcff": 2}, {"a": {"1": "nan"}, "\\udcff": 2}),
        (Hostile(), "<unprintable Hostile>"),
        ([Hostile()], ["<unprintable Hostile>"]),
        ({Hostile(): 1}, {"<unprintable Hostile>": 1}),
        ("x" * (MAX_TEXT + 5), "x" * MAX_TEXT + "... (5 more)"),
        (list(range(MAX_ITEMS + 5)), list(range(MAX_ITEMS))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_an_extra_field(value: object, shown: object) -> None:
    assert as_json(record(value=value))["value"] == shown
    assert TextFormatter().format(record(value=value)).count("\n") == 0


def test_a_structure_that_holds_itself_ends() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert as_json(record(value=loop))["value"] == [[[["[[...]]"]]]]


def test_a_field_called_like_a_fixed_one_does_not_replace_it() -> None:
    line = as_json(record("hello", ts="yesterday", level=9))
    assert (line["level"], line["level_"], line["ts_"]) == ("warning", 9, "yesterday")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
@pytest.mark.parametrize(
    ("message", "args"),
    [("needs %d", ("a word",)), ("needs %s and %s", ("one",)), ("%s", (Hostile(),)), (Hostile(), ()), ("100%", (1,))],
    ids=["wrong type", "too few", "hostile argument", "hostile message", "bare percent"],
)
def test_a_message_that_cannot_be_formatted_is_not_lost(
    formatter: logging.Formatter, message: object, args: tuple[object, ...]
) -> None:
    line = formatter.format(record(message, *args))
    assert "needs" in line or "unprintable" in line or "100%" in line


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_an_exception_that_cannot_be_shown_does_not_lose_the_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("it failed", exc_info=raised(HostileError())))
    assert "it failed" in line
    assert "HostileError" in line


def test_a_json_line_holds_the_traceback() -> None:
    line = as_json(record(exc_info=raised(ValueError("bad\nrow"))))
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: bad\nrow")


def test_a_traceback_in_text_is_indented_so_that_no_line_of_it_passes_for_a_record() -> None:
    lines = TextFormatter().format(record(exc_info=raised(ValueError("bad\n2025-10-09 forged")))).splitlines()
    assert lines[0].endswith("batchserve.test: hello")
    assert lines[1] == "  Traceback (most recent call last):"
    assert lines[-1] == "  2025-10-09 forged"
    assert all(line.startswith("  ") for line in lines[1:])


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\x1b[31mred", "nul\x00", "a\u2028b", "tab\t", "\x85", "\udcff"])
def test_control_characters_cannot_forge_a_line_or_reach_a_terminal(text: str) -> None:
    line = TextFormatter().format(record(text, id=text, **{f"key{text}": 1}))
    assert all(character.isprintable() for character in line)
    line.encode("utf-8")
    as_json(record(text, id=text))


def test_the_stack_is_shown_where_it_was_asked_for() -> None:
    made = record()
    made.stack_info = "Stack:\n  here"
    assert as_json(made)["stack"] == "Stack:\n  here"
    assert TextFormatter().format(made).splitlines()[1:] == ["  Stack:", "    here"]
