"""What a `config.pbtxt` means: fields that are read, zeros, fields that are only known, and errors."""

from __future__ import annotations

import pytest

from batchserve.config.schema import DeclaredTensor
from batchserve.config.triton import TritonConfig, read_config_pbtxt
from batchserve.errors import ConfigError


def read(text: str) -> TritonConfig:
    return read_config_pbtxt(text, "config.pbtxt", "digits")


def values(text: str) -> dict[str, object]:
    return {key: value for key, (value, _) in read(text).values.items()}


def test_zeros_and_empty_strings_mean_not_set() -> None:
    found = read(
        """
        name: "" platform: "" backend: "" max_batch_size: 0 default_model_filename: ""
        dynamic_batching { max_queue_delay_microseconds: 0 preserve_ordering: false }
        instance_group { count: 0 kind: KIND_AUTO }
        input { name: "x" data_type: TYPE_INVALID dims: 3 format: FORMAT_NONE }
        """
    )
    assert (found.values, found.unused) == ({}, [])
    assert found.inputs == (DeclaredTensor("x", "", (3,), leaves_out_batch=False),)


def test_onnx_runtime_is_accepted_under_tritons_names() -> None:
    read('name: "digits" platform: "onnxruntime_onnx" backend: "onnxruntime"')


@pytest.mark.parametrize(
    "text", ['platform: "ensemble"', 'platform: "tensorrt_plan"', 'backend: "python"', 'backend: "onnxruntime_onnx"']
)
def test_other_runtimes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="only ONNX models are served: expected 'onnxruntime"):
        read(text)


def test_another_name_than_the_folders_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"config\.pbtxt:1:1: name is 'x'; expected 'digits', the name of the model's folder"
    ):
        read('name: "x"')


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest { num_versions: 2 }", "latest:2"),
        ("latest: { num_versions: 1 }", "latest"),
        ("latest { }", "latest"),
        ("latest { num_versions: 0 }", "latest"),
        ("all { }", "all"),
        ("specific { versions: [ 3, 1, 3 ] }", "1,3"),
        ("specific: { versions: 2 versions: 1 }", "1,2"),
    ],
)
def test_version_policy_is_read(text: str, policy: str) -> None:
    assert values(f"version_policy: {{ {text} }}") == {"version_policy": policy}


def test_empty_version_policy_is_not_set() -> None:
    assert values("version_policy { }") == {}


@pytest.mark.parametrize(
    ("text", "instances"),
    [
        ("instance_group { count: 3 }", 3),
        ("instance_group [ { count: 2 kind: KIND_GPU }, { count: 1 kind: KIND_CPU } ]", 3),
        ("instance_group [ { count: 2 }, { kind: KIND_CPU } ]", 3),
        ("instance_group { count: 2 } instance_group { count: 2 }", 4),
    ],
)
def test_counts_of_instance_groups_add_up(text: str, instances: int) -> None:
    assert values(text) == {"instances": instances}


def test_delay_is_read_in_microseconds() -> None:
    assert values("dynamic_batching { max_queue_delay_microseconds: 1500 }") == {"max_queue_delay": 0.0015}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("preferred_batch_size: [ 8, 4 ]", {"preferred_batch_sizes": (4, 8)}),
        ("preferred_batch_size: 8 preferred_batch_size: 16", {"preferred_batch_sizes": (8, 16)}),
        ("priority_levels: 3 default_priority_level: 2", {"priority_levels": 3}),
        ("priority_levels: 0", {}),
        (
            "default_queue_policy { default_timeout_microseconds: 250000 allow_timeout_override: 1 max_queue_size: 9 }",
            {"timeout": 0.25, "allow_timeout_override": True, "max_queue_size": 9},
        ),
        ("default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 9000000 }", {"timeout": 9.0}),
        (
            "default_queue_policy { timeout_action: 0 default_timeout_microseconds: 0 allow_timeout_override: false }",
            {},
        ),
    ],
)
def test_fields_of_the_batcher_become_our_keys(text: str, expected: dict[str, object]) -> None:
    found = read(f"dynamic_batching {{ {text} }}")
    assert {key: value for key, (value, _) in found.values.items()} == expected
    assert found.unused == []


@pytest.mark.parametrize(
    ("text", "expected", "unused"),
    [
        ("priority_levels: 3 default_priority_level: 1", {"priority_levels": 3}, ["default_priority_level"]),
        (
            "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 max_queue_size: 7 }",
            {"max_queue_size": 7},
            ["default_queue_policy.timeout_action", "default_queue_policy.default_timeout_microseconds"],
        ),
        ("priority_queue_policy { key: 1 value: { max_queue_size: 3 } }", {}, ["priority_queue_policy"]),
    ],
)
def test_fields_of_the_batcher_that_mean_nothing_here_are_named(
    text: str, expected: dict[str, object], unused: list[str]
) -> None:
    """A time-out that only puts a request behind the others must not become one that ends it."""
    found = read(f"dynamic_batching {{ {text} }}")
    assert {key: value for key, (value, _) in found.values.items()} == expected
    assert found.unused == [f"dynamic_batching.{name}" for name in unused]


def test_enum_numbers_stand_for_their_names() -> None:
    (tensor,) = read('input { name: "x" data_type: 11 }').inputs
    assert tensor.data_type == "TYPE_FP32"


def test_free_dimensions_and_batch_are_declared_as_written() -> None:
    """`dims` of a file with max_batch_size are those of one row; of another they are the whole shape."""
    batched = read('max_batch_size: 4 input { name: "x" dims: [ -1, 8 ] }').inputs[0]
    whole = read('input { name: "x" dims: [ -1, 8 ] }').inputs[0]
    assert (batched.dims, batched.shape) == ((-1, 8), (-1, -1, 8))
    assert (whole.dims, whole.shape) == ((-1, 8), (-1, 8))


def test_reshaped_tensor_declares_no_dims_of_the_model() -> None:
    found = read('input { name: "x" dims: [ 1 ] reshape { shape: [ ] } }')
    assert found.inputs == (DeclaredTensor("x", "", None),)
    assert found.unused == ["input.reshape"]


def test_known_fields_that_are_not_used_are_named_once_each() -> None:
    found = read(
        """
        optimization { graph { level: 1 } anything_within { is: "not looked at" } }
        parameters { key: "a" value: { string_value: "b" } }
        parameters { key: "c" value: { string_value: "d" } }
        instance_group [ { kind: KIND_GPU gpus: [ 0 ] }, { kind: KIND_GPU gpus: [ 1 ] } ]
        dynamic_batching { preserve_ordering: true }
        default_model_filename: "net.onnx"
        output { name: "y" label_filename: "labels.txt" }
        """
    )
    assert sorted(found.unused) == [
        "default_model_filename",
        "dynamic_batching.preserve_ordering",
        "instance_group.gpus",
        "instance_group.kind",
        "optimization",
        "output.label_filename",
        "parameters",
    ]


def test_the_usual_file_name_needs_no_warning() -> None:
    assert read('default_model_filename: "model.onnx"').unused == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batchsize: 4", "1:1: unknown field 'max_batchsize' in ModelConfig; did you mean 'max_batch_size'?"),
        ("input { nme: 'x' }", "1:9: unknown field 'nme' in ModelInput; did you mean 'name'?"),
        ("input { label_filename: 'x' }", "unknown field 'label_filename' in ModelInput"),
        ("version_policy { all { x: 1 } }", "unknown field 'x' in All; it has none"),
        ("max_batch_size: 1 max_batch_size: 2", "1:19: max_batch_size is given twice"),
        ("max_batch_size: -1", "max_batch_size is -1, which is too small; expected a whole number from 0"),
        ("max_batch_size: 1.5", "max_batch_size is 1.5; expected a whole number"),
        ("max_batch_size: '1'", "max_batch_size is '1'; expected a whole number"),
        ("max_batch_size { }", "max_batch_size is a message; expected a whole number"),
        ("name: digits", "name is digits; expected a string in quotes"),
        ("input: 3", "input is 3; expected a message: input { … }"),
        ("input { dims: 3 }", "an input has no name"),
        ("input { name: 'x' } input { name: 'x' }", "1:21: input 'x' is declared twice"),
        ("input { name: 'x' dims: 0 }", "a dimension is 0; expected 1 or more, or -1"),
        ("input { name: 'x' dims: -2 }", "a dimension is -2"),
        ("input { name: 'x' data_type: FP32 }", "data_type is FP32; did you mean 'TYPE_FP32'?"),
        ("input { name: 'x' data_type: 'TYPE_FP32' }", "data_type is 'TYPE_FP32'; expected one of TYPE_BOOL"),
        ("input { name: 'x' data_type: 15 }", "data_type is 15; expected one of"),
        ("instance_group { count: -1 }", "count is -1; expected 1 or more, or 0 for the default"),
        ("instance_group { count: 5000 }", "count is 5000, which is too large"),
        ("dynamic_batching { max_queue_delay_microseconds: -5 }", "is -5, which is negative"),
        ("dynamic_batching { preferred_batch_size: [ 4, 0 ] }", "preferred_batch_size is 0; expected 1 row or more"),
        ("dynamic_batching { priority_levels: 5000 }", "priority_levels is 5000, which is too large"),
        ("dynamic_batching { default_queue_policy { max_queue: 1 } }", "unknown field 'max_queue' in ModelQueuePolicy"),
        ("dynamic_batching { default_queue_policy { allow_timeout_override: 7 } }", "is 7; expected true or false"),
        ("version_policy { latest {} all {} }", "several choices"),
        ("version_policy { latest { num_versions: -1 } }", "num_versions is -1"),
        ("version_policy { specific {} }", "names no version"),
        ("version_policy { specific { versions: 0 } }", "has 0 in it"),
    ],
)
def test_error_names_place_value_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith("config.pbtxt:1:")
    assert message in str(caught.value)
