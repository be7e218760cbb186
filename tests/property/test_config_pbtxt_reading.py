"""Our reader of the protobuf text format against protobuf's own, and against anything that may be typed."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import example, given
from hypothesis import strategies as st
from support.triton_schema import model_config_class

from batchserve.config.pbtxt import Message, Scalar, Word, parse
from batchserve.config.triton import read_config_pbtxt
from batchserve.config.triton_fields import KNOWN_FIELDS
from batchserve.errors import ConfigError

NAMES = st.sampled_from(["a", "max_batch_size", "Dims2", "_x", "inf", "true"])
NUMBERS = st.integers(-(2**63), 2**64) | st.floats(allow_nan=False)
WORDS = st.sampled_from(["TYPE_FP32", "true", "KIND_CPU"]).map(Word)
SCALARS: st.SearchStrategy[Scalar] = NUMBERS | WORDS | st.text(max_size=12)
TREES = st.recursive(
    st.lists(st.tuples(NAMES, SCALARS), max_size=4),
    lambda inner: st.lists(st.tuples(NAMES, SCALARS | inner), max_size=4),
    max_leaves=12,
)
SPACES = st.sampled_from([" ", "\n", "\t", " # a comment: { 'x' ] \n", "\r\n", ""])


def write_string(text: str, style: int) -> str:
    """Quote a string in one of several ways that mean the same."""
    if style == 0:
        return "".join(f"\\{byte:03o}" for byte in text.encode()).join('""')
    if style == 1 and len(text) > 1:
        return write_string(text[:1], 0) + " # cut\n " + write_string(text[1:], 2)
    escaped = "".join(
        f"\\{char}" if char in "\\'\"" else f"\\x{ord(char):02x}" if ord(char) < 32 else char for char in text
    )
    return f"'{escaped}'"


def write_scalar(value: Scalar, style: int) -> str:
    if isinstance(value, Word):
        return value.name
    if isinstance(value, str):
        return write_string(value, style)
    if isinstance(value, int) and style == 0:
        return f"-0x{-value:X}" if value < 0 else f"0x{value:x}"
    return str(value) if style else f"{value!r}"


def write(tree: list[tuple[str, Any]], draw: st.DrawFn) -> str:
    """Write a tree as text in one of the many ways there are."""
    parts: list[str] = []
    for name, value in tree:
        space, style = draw(SPACES), draw(st.integers(0, 2))
        if isinstance(value, list):
            inner = write(value, draw)
            forms = [f"{{{inner}}}", f": {{\n{inner}}}", f"<{inner}>", f"[{space}{{{inner}}}{space}]", f": [<{inner}>]"]
            text = draw(st.sampled_from(forms))
        else:
            scalar = write_scalar(value, style)
            text = draw(st.sampled_from([f":{space}{scalar}", f"{space}: {scalar}", f": [{space}{scalar}{space}]"]))
        parts.append(f"{name}{space}{text}{draw(st.sampled_from([' ', ', ', ';', ' # end', ''])) or ' '}\n")
    return draw(SPACES) + "".join(parts)


@st.composite
def written_trees(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], str]:
    tree = draw(TREES)
    return tree, write(tree, draw)


def tree_of(message: Message) -> list[tuple[str, Any]]:
    return [
        (entry.name, tree_of(entry.value) if isinstance(entry.value, Message) else entry.value)
        for entry in message.fields
    ]


@given(written_trees())
def test_any_tree_survives_being_written_and_read(written: tuple[list[tuple[str, Any]], str]) -> None:
    tree, text = written
    assert tree_of(parse(text, "config.pbtxt")) == tree


SIGNS = st.sampled_from([*":{}[]<>,;-'#\\", "\n", "\x00", "é", "# c\n"])
PIECES = st.sampled_from(["name", "input", "dims", "count", "instance_group", "max_batch_size", "TYPE_FP32", "inf"])
LITERALS = st.sampled_from(['"x"', "0x1f", "09", "1.5f", ".5", "1e9", '"\\q"', '"\\303"', "'"])
TOKENS = SIGNS | PIECES | LITERALS


@given(st.text() | st.lists(TOKENS, max_size=30).map(" ".join) | st.lists(TOKENS, max_size=30).map("".join))
@example("input { name: 'x' dims: [ }")
@example("{" * 5000)
@example("a:" + "[" * 5000)
@example("a{" * 5000)
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    try:
        read_config_pbtxt(text, "config.pbtxt", "digits")
    except ConfigError as error:
        place, _, problem = str(error).removeprefix("config.pbtxt:").partition(": ")
        line, _, column = place.partition(":")
        assert int(line) >= 1
        assert int(column) >= 1
        assert problem


@given(st.lists(TOKENS, max_size=20).map(" ".join))
def test_what_protobuf_reads_is_read(text: str) -> None:
    """Protobuf also checks names and types, so it reads less than we do; never more."""
    try:
        text_format.Parse(text, model_config_class()(), allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, DeprecationWarning):  # the last: an escape it guesses at
        return
    parse(text, "config.pbtxt")


@st.composite
def model_configs(draw: st.DrawFn) -> Any:
    """A ModelConfig of the fields that we read and some that we do not."""
    config = model_config_class()()
    config.name = draw(st.sampled_from(["", "digits"]))
    config.max_batch_size = draw(st.integers(0, 1 << 20))
    if draw(st.booleans()):
        config.dynamic_batching.max_queue_delay_microseconds = draw(st.integers(0, 10**9))
        config.dynamic_batching.preserve_ordering = draw(st.booleans())
    for index in range(draw(st.integers(0, 3))):
        tensor = config.input.add()
        tensor.name = draw(st.text(min_size=1, max_size=8)) + str(index)
        tensor.data_type = draw(st.integers(0, 14))
        tensor.dims.extend(draw(st.lists(st.sampled_from([-1, 1, 3, 2**62]), max_size=3)))
    for count in draw(st.lists(st.integers(0, 5), max_size=3)):
        config.instance_group.add().count = count
    policy = draw(st.sampled_from(["", "latest", "all", "specific"]))
    if policy == "latest":
        config.version_policy.latest.num_versions = draw(st.integers(0, 9))
    elif policy == "all":
        config.version_policy.all.SetInParent()
    elif policy == "specific":
        config.version_policy.specific.versions.extend(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    return config


def expected_policy(config: Any) -> str | None:
    choice = config.version_policy.WhichOneof("policy_choice")
    if choice == "latest":
        number = config.version_policy.latest.num_versions or 1
        return "latest" if number == 1 else f"latest:{number}"
    if choice == "specific":
        return ",".join(str(version) for version in sorted(set(config.version_policy.specific.versions)))
    return choice  # type: ignore[no-any-return]


@given(config=model_configs(), as_one_line=st.booleans())
def test_what_protobuf_writes_is_read_with_its_values(config: Any, as_one_line: bool) -> None:
    text = text_format.MessageToString(config, as_one_line=as_one_line)
    found = read_config_pbtxt(text, "config.pbtxt", "digits")
    values = {key: value for key, (value, _) in found.values.items()}
    delay = config.dynamic_batching.max_queue_delay_microseconds
    counts = [group.count for group in config.instance_group]
    assert values.get("max_batch_size", 0) == config.max_batch_size
    assert values.get("max_queue_delay", 0) == pytest.approx(delay / 1e6, rel=1e-15)
    assert values.get("instances") == (sum(count or 1 for count in counts) if any(counts) else None)
    assert values.get("version_policy") == expected_policy(config)
    types = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    assert [(tensor.name, tensor.data_type, tensor.dims) for tensor in found.inputs] == [
        (
            tensor.name,
            types[tensor.data_type].name if tensor.data_type else "",
            tuple(tensor.dims) or None,
        )
        for tensor in config.input
    ]
    assert found.unused == (["dynamic_batching.preserve_ordering"] if config.dynamic_batching.preserve_ordering else [])


def test_every_field_that_triton_knows_is_known() -> None:
    """Fails when tritonclient brings a new field: add it to KNOWN_FIELDS."""
    descriptor = model_config_class().DESCRIPTOR
    messages = dict(descriptor.file.message_types_by_name)
    messages |= {nested.name: nested for nested in messages["ModelVersionPolicy"].nested_types}
    for message, names in KNOWN_FIELDS.items():
        assert {entry.name for entry in messages[message].fields} - names == set(), message
