"""What is written is read back the same, and nothing that is typed makes a reader fail in another way than its own."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchserve.config import MODEL_KEYS, SERVER_KEYS, Key
from batchserve.config.units import (
    LONGEST_S,
    BadValueError,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

KEYS = [*SERVER_KEYS.values(), *MODEL_KEYS.values()]


@given(st.floats(min_value=0.0, max_value=LONGEST_S, allow_subnormal=False).filter(lambda s: s == 0 or s > 1e-20))
def test_any_duration_survives_being_written_and_read(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 1 << 60))
def test_any_size_survives_being_written_and_read(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize("parse", [parse_duration, parse_size])
@given(text=st.text() | st.from_regex(r"-?[0-9.]+ ?[a-zA-Z]{0,3}"))
def test_any_text_is_read_or_refused_as_a_bad_value(parse: object, text: str) -> None:
    try:
        amount = parse(text)  # type: ignore[operator]
    except BadValueError:
        return
    assert amount >= 0


TOML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=6,
) | st.sampled_from(["auto", "5ms", "4KiB", "latest", "latest:3", "all", "1,2", "off", "info", "json", True, 0, 1, 32])


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@given(raw=TOML_VALUES)
def test_value_of_any_type_is_refused_or_survives_being_written_and_read(key: Key, raw: object) -> None:
    """`show` writes TOML that `read` takes back to the very same value."""
    try:
        value = key.kind.read(raw)
    except BadValueError:
        return
    written = tomllib.loads(f"x = {key.kind.show(value)}")["x"]
    assert key.kind.read(written) == value


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@given(
    text=st.text()
    | st.sampled_from(["auto", "5ms", "4KiB", "latest:3", "[1, 3]", "a,b", '["a", "b"]', "on", "0", "32"])
)
def test_text_of_a_flag_is_refused_or_read_as_the_same_value_twice(key: Key, text: str) -> None:
    try:
        value = key.kind.read(key.kind.from_text(text))
    except BadValueError:
        return
    assert key.kind.read(tomllib.loads(f"x = {key.kind.show(value)}")["x"]) == value


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_default_of_each_key_is_a_value_of_its_kind(key: Key) -> None:
    assert key.kind.read(tomllib.loads(f"x = {key.shown_default}")["x"]) == key.default
