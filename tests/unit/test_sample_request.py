"""The printed request line, for models of every kind."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from batchserve.cli.sample_request import MOST_SHOWN_CHARACTERS, sample_request
from batchserve.core.tensors import DATATYPES, ModelSignature, TensorSpec
from batchserve.engine.model import Model
from batchserve.errors import BackendError

URL = "http://127.0.0.1:8000"


def model(arrays: list[Any], datatypes: list[str], *, name: str = "m", output: str = "FP32", error: str = "") -> Model:
    """As much of a loaded model as the line is made from."""

    def sample(rows: int) -> list[Any]:
        assert rows == 1
        if error:
            raise BackendError(error)
        return arrays

    inputs = tuple(TensorSpec(f"in{i}", DATATYPES[datatype], (-1, -1)) for i, datatype in enumerate(datatypes))
    signature = ModelSignature(inputs, (TensorSpec("out", DATATYPES[output], (-1,)),), 8)
    return cast(Model, SimpleNamespace(name=name, signature=signature, session=SimpleNamespace(sample=sample)))


def body(line: str) -> list[dict[str, Any]]:
    command = shlex.split(line)
    assert command[:2] == ["curl", "-s"]
    assert command[3] == "-d"
    inputs = json.loads(command[4])["inputs"]
    assert isinstance(inputs, list)
    return inputs


def test_line_holds_all_inputs_with_their_values() -> None:
    arrays = [
        np.array([[0.123456, -2.0]], np.float32),
        np.array([[3, 4, 5]], np.int64),
        np.array([[True, False]]),
        np.array([["it's", '"$x"']], object),
    ]
    line = sample_request(model(arrays, ["FP32", "INT64", "BOOL", "BYTES"]), URL)
    assert "\n" not in line
    assert body(line) == [
        {"name": "in0", "shape": [1, 2], "datatype": "FP32", "data": [0.123, -2.0]},
        {"name": "in1", "shape": [1, 3], "datatype": "INT64", "data": [3, 4, 5]},
        {"name": "in2", "shape": [1, 2], "datatype": "BOOL", "data": [True, False]},
        {"name": "in3", "shape": [1, 2], "datatype": "BYTES", "data": ["it's", '"$x"']},
    ]


def test_scalar_input_has_an_empty_shape() -> None:
    assert body(sample_request(model([np.array(3, np.int64)], ["INT64"]), URL))[0]["shape"] == []


def test_name_is_encoded_in_the_url() -> None:
    line = sample_request(model([np.zeros((1, 1), np.float32)], ["FP32"], name="a b/ü[1]"), URL)
    assert shlex.split(line)[2] == f"{URL}/v2/models/a%20b%2F%C3%BC%5B1%5D/infer"


def test_long_body_is_made_by_python_when_the_line_runs() -> None:
    arrays = [np.full((1, 3, 32, 32), 0.5, np.float32), np.array([["x'y"] * 9], object)]
    line = sample_request(model(arrays, ["FP32", "BYTES"]), URL)
    program, curl = line.split(" | ")
    words = shlex.split(program)
    assert words[:2] == ["python3", "-c"]
    assert len(line) < MOST_SHOWN_CHARACTERS
    printed: list[str] = []
    exec(words[2], {"print": printed.append})
    inputs = json.loads(printed[0])["inputs"]
    assert inputs[0] == {"name": "in0", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0.5] * 3072}
    assert inputs[1]["data"] == ["x'y"] * 9
    assert shlex.split(curl) == ["curl", "-s", f"{URL}/v2/models/m/infer", "-d", "@-"]


@pytest.mark.parametrize(
    ("made", "advice"),
    [
        (model([np.zeros((1, 1), np.float16)], ["FP16"]), "# in0 is FP16, which has no JSON form"),
        (model([np.zeros((1, 1), np.float32)], ["FP32"], output="FP16"), "# out is FP16, which has no JSON form"),
        (model([np.broadcast_to(np.float32(0), (1, 2_000_000))], ["FP32"]), "# the inputs of m are large"),
        (model([], ["FP32"], error="needs luck"), "# no sample is known that m accepts: needs luck"),
    ],
)
def test_where_no_line_can_work_a_comment_says_what_to_do(made: Model, advice: str) -> None:
    line = sample_request(made, URL)
    assert line.startswith(advice)
    assert "\n" not in line
