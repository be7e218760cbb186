"""A model that takes its time and gives every row back, so that a test can fill the queue and check the answers."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

__all__ = ["slow_echo"]


def slow_echo(layers: int, width: int = 512) -> ModelProto:
    """`y` is `x` (`INT64[batch, 1]`); `work` (`FP32[batch, 1]`) costs `layers` products with a square matrix.

    Only requests that ask for both outputs are slow: some tens of microseconds per layer for a row.
    """
    rng = np.random.default_rng(0)
    constants = {
        "first": rng.normal(0, 1e-3, (1, width)).astype(np.float32),
        "weights": rng.normal(0, 1 / np.sqrt(width), (width, width)).astype(np.float32),
        "last": np.full((width, 1), 1 / width, np.float32),
    }
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "first"], ["h0"]),
    ]
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [f"h{layer}", "weights"], [f"p{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"p{layer}"], [f"h{layer + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"h{layers}", "last"], ["work"]))
    graph = helper.make_graph(
        nodes,
        "slow_echo",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 1])],
        [
            helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", 1]),
            helper.make_tensor_value_info("work", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
