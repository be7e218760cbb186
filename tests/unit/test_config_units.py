"""Durations and sizes: what is read, to which value, and what the errors say."""

from __future__ import annotations

import pytest

from batchserve.config.units import BadValueError, format_duration, format_rate, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5ms", 0.005),
        ("200us", 0.0002),
        ("200µs", 0.0002),
        ("2s", 2.0),
        ("1m", 60.0),
        ("2h", 7200.0),
        ("1.5s", 1.5),
        ("0.1ms", 0.0001),
        ("10ns", 1e-8),
        ("0", 0.0),
        ("0s", 0.0),
        ("  5 ms ", 0.005),
    ],
)
def test_duration_is_read_exactly(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64MiB", 64 << 20),
        ("4KiB", 4096),
        ("1GiB", 1 << 30),
        ("1TiB", 1 << 40),
        ("10kB", 10_000),
        ("10MB", 10_000_000),
        ("1GB", 10**9),
        ("512B", 512),
        ("1.5KiB", 1536),
        ("0", 0),
    ],
)
def test_size_is_read_exactly(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("parse", [parse_duration, parse_size])
def test_number_without_unit_is_refused_and_says_so(parse: object) -> None:
    with pytest.raises(BadValueError, match="has no unit") as caught:
        parse("5")  # type: ignore[operator]
    assert caught.value.hint.startswith("write 5")


@pytest.mark.parametrize(
    ("text", "hint"),
    [("5sec", "did you mean 5s?"), ("5MS", "did you mean 5ms or 5m?"), ("5minutes", "did you mean 5ms or 5m?")],
)
def test_unknown_duration_unit_names_the_near_ones(text: str, hint: str) -> None:
    with pytest.raises(BadValueError, match="has the unknown unit") as caught:
        parse_duration(text)
    assert caught.value.hint == hint


@pytest.mark.parametrize(("text", "hint"), [("5mb", "did you mean 5MB or 5MiB?"), ("5K", "did you mean 5kB or 5KiB?")])
def test_unknown_size_unit_names_the_near_ones(text: str, hint: str) -> None:
    with pytest.raises(BadValueError, match="has the unknown unit") as caught:
        parse_size(text)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a number with a unit"),
        ("ms", "not a number with a unit"),
        ("1e3s", "not a number with a unit"),
        ("nan s", "not a number with a unit"),
        ("5ms 3us", "not a number with a unit"),
        ("1,5s", "not a number with a unit"),
        ("\u0665s", "not a number with a unit"),
        ("-5ms", "negative"),
        ("9000h", "longer than a year"),
        ("9" * 30 + "h", "longer than a year"),
    ],
)
def test_what_is_no_duration_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BadValueError, match=reason):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1.5B", "not a whole number of bytes"), ("-1KiB", "negative"), ("9" * 30 + "B", "more than any machine has")],
)
def test_what_is_no_size_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BadValueError, match=reason):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (60.0, "60s"), (0.005, "5ms"), (0.0015, "1500us"), (2e-7, "200ns"), (1e-10, "0.1ns")],
)
def test_duration_is_written_in_the_largest_unit_without_fraction(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0"), (1 << 30, "1GiB"), (64 << 20, "64MiB"), (1000, "1000B"), (1536, "1536B")]
)
def test_size_is_written_in_the_largest_unit_without_fraction(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(21853.4, "21,900"), (1234567.0, "1,230,000"), (2.5671, "2.57"), (100.0, "100"), (0.0, "0"), (0.0123, "0.0123")],
)
def test_rates_are_written_to_three_digits_without_an_exponent(per_s: float, text: str) -> None:
    assert format_rate(per_s) == text
