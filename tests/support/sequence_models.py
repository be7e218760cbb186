"""ONNX models that take rows of any length: with a mask, with a length, and some that padding would break.

Axes in docstrings: `batch` and `length` are free. All weights are random and the same each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, helper
from support.onnx_models import FLOAT, INT64, model, tensor

VOCABULARY, WIDTH, CLASSES = 50, 8, 3
IDS = tensor("input_ids", INT64, ("batch", "length"))
MASK = tensor("attention_mask", INT64, ("batch", "length"))


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    """Make a node of one output."""
    return helper.make_node(op, inputs, [output], **attributes)


def _weights() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "table": random.normal(size=(VOCABULARY, WIDTH)).astype(np.float32),
        "projection": random.normal(size=(WIDTH, CLASSES)).astype(np.float32),
        "last": np.array([2]),
        "middle": np.array([1]),
        "one": np.float32(1),
    }


def mean_encoder(*, ignores_mask: bool = False, mixes_rows: bool = False) -> ModelProto:
    """`int64 input_ids`, `attention_mask` `[batch, length]` → `float scores[batch, 3]`, by the mean of embeddings.

    With `ignores_mask` it is the mean of all of them: the mask goes into the graph and is multiplied by 0, which is
    what an export that lost its mask looks like from outside. With `mixes_rows` the scores are a softmax over the rows.
    """
    nodes = [
        node("Gather", ["table", "input_ids"], "embedded", axis=0),
        node("Cast", ["attention_mask"], "given", to=FLOAT),
        node("Mul", ["given", "strength"], "scaled"),
        node("Add", ["scaled", "floor"], "weights"),
        node("Unsqueeze", ["weights", "last"], "column"),
        node("Mul", ["embedded", "column"], "kept"),
        node("ReduceSum", ["kept", "middle"], "total", keepdims=0),
        node("ReduceSum", ["weights", "middle"], "count", keepdims=1),
        node("Div", ["total", "count"], "mean"),
        node("MatMul", ["mean", "projection"], "own"),
        node("Softmax", ["own"], "scores", axis=0) if mixes_rows else node("Identity", ["own"], "scores"),
    ]
    strength, floor = (0, 1) if ignores_mask else (1, 0)
    constants = _weights() | {"strength": np.float32(strength), "floor": np.float32(floor)}
    del constants["one"]
    return model(nodes, [IDS, MASK], [tensor("scores", FLOAT, ("batch", CLASSES))], constants)


def attention_encoder(*, hidden: float = -1e9) -> ModelProto:
    """`input_ids`, `attention_mask` → `float states[batch, length, 8]`, `int64 label[batch]`, `float weights`.

    One layer of attention whose keys are masked by adding `hidden`; the label is the largest of the masked mean's
    scores. `weights[batch, length, length]` are those of the attention, of which both axes are lengths.
    """
    nodes = [
        node("Gather", ["table", "input_ids"], "embedded", axis=0),
        node("Cast", ["attention_mask"], "kept", to=FLOAT),
        node("Sub", ["one", "kept"], "missing"),
        node("Mul", ["missing", "hidden"], "bias"),
        node("Unsqueeze", ["bias", "middle"], "bias_row"),
        node("Transpose", ["embedded"], "keys", perm=[0, 2, 1]),
        node("MatMul", ["embedded", "keys"], "products"),
        node("Add", ["products", "bias_row"], "logits"),
        node("Softmax", ["logits"], "weights", axis=2),
        node("MatMul", ["weights", "embedded"], "states"),
        node("Unsqueeze", ["kept", "last"], "column"),
        node("Mul", ["states", "column"], "kept_states"),
        node("ReduceSum", ["kept_states", "middle"], "total", keepdims=0),
        node("MatMul", ["total", "projection"], "scores"),
        node("ArgMax", ["scores"], "label", axis=1, keepdims=0),
    ]
    outputs = [
        tensor("states", FLOAT, ("batch", "length", WIDTH)),
        tensor("label", INT64, ("batch",)),
        tensor("weights", FLOAT, ("batch", "length", "length")),
    ]
    return model(nodes, [IDS, MASK], outputs, _weights() | {"hidden": np.float32(hidden)})


def token_echo() -> ModelProto:
    """`input_ids`, `attention_mask` → `int64 tokens[batch, length]` (`2 id + mask`), `int64 total[batch]` (masked sum).

    Exact, so that every element tells whose it is.
    """
    nodes = [
        node("Add", ["input_ids", "input_ids"], "twice"),
        node("Add", ["twice", "attention_mask"], "tokens"),
        node("Mul", ["input_ids", "attention_mask"], "kept"),
        node("ReduceSum", ["kept", "middle"], "total", keepdims=0),
    ]
    outputs = [tensor("tokens", INT64, ("batch", "length")), tensor("total", INT64, ("batch",))]
    return model(nodes, [IDS, MASK], outputs, {"middle": np.array([1])})


def sum_by_length() -> ModelProto:
    """`float x[batch, length]`, `int64 lengths[batch]` → `float y[batch]`: the sum of each row's first elements."""
    nodes = [
        node("Shape", ["x"], "size", start=1, end=2),
        node("Squeeze", ["size"], "longest"),
        node("Range", ["zero", "longest", "step"], "places"),
        node("Unsqueeze", ["lengths", "middle"], "column"),
        node("Less", ["places", "column"], "is_kept"),
        node("Cast", ["is_kept"], "kept", to=FLOAT),
        node("Mul", ["x", "kept"], "product"),
        node("ReduceSum", ["product", "middle"], "y", keepdims=0),
    ]
    inputs = [tensor("x", FLOAT, ("batch", "length")), tensor("lengths", INT64, ("batch",))]
    constants = {"zero": np.int64(0), "step": np.int64(1), "middle": np.array([1])}
    return model(nodes, inputs, [tensor("y", FLOAT, ("batch",))], constants)
