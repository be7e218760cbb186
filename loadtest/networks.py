"""Networks of usual form with random weights, node by node: a transformer encoder and a residual network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

__all__ = ["encoder", "residual", "scorer"]

Array = npt.NDArray[Any]

# Readable by ONNX Runtime 1.20, the oldest supported.
OPSET = 17
IR_VERSION = 8


class _Graph:
    """Nodes and weights as they are added; each node's output is named by its number."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return its output's name."""
        name = output or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: Array) -> str:
        """Add a weight and return its name."""
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def normal(self, *shape: int, scale: float) -> str:
        """Add a normal weight of this spread."""
        return self.constant(self.random.standard_normal(shape, np.float32) * np.float32(scale))

    def numbers(self, *values: int) -> str:
        """Add a vector of integers: a shape or axes."""
        return self.constant(np.array(values, np.int64))

    def model(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """Put it all together."""
        weights = [numpy_helper.from_array(array, key) for key, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, weights)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="batchserve-loadtest",
        )


def encoder(name: str, layers: int = 6, width: int = 384, heads: int = 12, words: int = 8192) -> ModelProto:
    """Build a transformer encoder of any length up to 512, its answer the mean over the words that are not masked.

    `input_ids`, `attention_mask` `int64[batch, length]` to `embedding` `float32[batch, width]`. With its defaults it
    has the form of the small sentence encoders people serve, 10.6 million weights in its layers.
    """
    graph = _Graph()
    add, scale = graph.add, 1 / np.sqrt(width)
    words_in = add("Gather", graph.normal(words, width, scale=1.0), "input_ids")
    length = add("Slice", add("Shape", "input_ids"), graph.numbers(1), graph.numbers(2))
    places = add("Slice", graph.normal(512, width, scale=0.1), graph.numbers(0), length)
    hidden = _normalised(graph, add("Add", words_in, places), width)
    mask = add("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = add("Sub", graph.constant(np.float32(1).reshape(1)), mask)
    bias = add("Mul", absent, graph.constant(np.float32(-1e4).reshape(1)))
    bias = add("Unsqueeze", bias, graph.numbers(1, 2))
    for _ in range(layers):
        seen = _attention(graph, hidden, bias, width, heads)
        hidden = _normalised(graph, add("Add", hidden, seen), width)
        inner = _linear(graph, hidden, width, 4 * width, scale)
        inner = add("Mul", inner, add("Sigmoid", add("Mul", inner, graph.constant(np.float32(1.702).reshape(1)))))
        hidden = _normalised(graph, add("Add", hidden, _linear(graph, inner, 4 * width, width, scale / 2)), width)
    weight = add("Unsqueeze", mask, graph.numbers(2))
    total = add("ReduceSum", add("Mul", hidden, weight), graph.numbers(1), keepdims=0)
    count = add("ReduceSum", weight, graph.numbers(1), keepdims=0)
    add("Div", total, count, output="embedding")
    inputs = [
        helper.make_tensor_value_info(key, TensorProto.INT64, ["batch", "length"])
        for key in ("input_ids", "attention_mask")
    ]
    return graph.model(name, inputs, [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])])


def scorer(name: str, width: int = 256, inner: int = 512, head: int = 4096, words: int = 8192) -> ModelProto:
    """Build a scorer of texts whose head is bound by its weights: batching it pays on a CPU although lengths differ.

    `input_ids`, `attention_mask` `int64[batch, length]` to `scores` `float32[batch, 64]`: a small net for each word,
    the mean over those that are not masked, and a head of 72 MB that every run reads once, however many rows it has.
    """
    graph = _Graph()
    add, scale = graph.add, 1 / np.sqrt(width)
    hidden = add("Gather", graph.normal(words, width, scale=1.0), "input_ids")
    hidden = add("Relu", _linear(graph, hidden, width, inner, scale))
    hidden = _linear(graph, hidden, inner, width, scale)
    weight = add("Unsqueeze", add("Cast", "attention_mask", to=TensorProto.FLOAT), graph.numbers(2))
    total = add("ReduceSum", add("Mul", hidden, weight), graph.numbers(1), keepdims=0)
    mean = add("Div", total, add("ReduceSum", weight, graph.numbers(1), keepdims=0))
    wide = add("Relu", _linear(graph, mean, width, head, scale))
    wide = add("Relu", _linear(graph, wide, head, head, float(np.sqrt(2 / head))))
    out = add("MatMul", wide, graph.normal(head, 64, scale=float(1 / np.sqrt(head))))
    add("Identity", out, output="scores")
    inputs = [
        helper.make_tensor_value_info(key, TensorProto.INT64, ["batch", "length"])
        for key in ("input_ids", "attention_mask")
    ]
    return graph.model(name, inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 64])])


def _linear(graph: _Graph, source: str, fan_in: int, fan_out: int, scale: float) -> str:
    product = graph.add("MatMul", source, graph.normal(fan_in, fan_out, scale=scale))
    return graph.add("Add", product, graph.normal(fan_out, scale=0.02))


def _normalised(graph: _Graph, source: str, width: int) -> str:
    one, zero = graph.constant(np.ones(width, np.float32)), graph.constant(np.zeros(width, np.float32))
    return graph.add("LayerNormalization", source, one, zero, axis=-1)


def _attention(graph: _Graph, hidden: str, bias: str, width: int, heads: int) -> str:
    add, scale = graph.add, 1 / np.sqrt(width)
    apart = graph.numbers(0, 0, heads, width // heads)
    parts = []
    for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):  # queries, keys (turned for the product), values
        part = add("Reshape", _linear(graph, hidden, width, width, scale), apart)
        parts.append(add("Transpose", part, perm=order))
    queries, keys, values = parts
    root = graph.constant(np.float32(np.sqrt(width / heads)).reshape(1))
    scores = add("Add", add("Div", add("MatMul", queries, keys), root), bias)
    mixed = add("MatMul", add("Softmax", scores, axis=-1), values)
    joined = add("Reshape", add("Transpose", mixed, perm=(0, 2, 1, 3)), graph.numbers(0, 0, width))
    return _linear(graph, joined, width, width, scale)


def residual(
    name: str, stages: Sequence[int] = (2, 2, 2, 2), side: int = 112, *, bottleneck: bool = False
) -> ModelProto:
    """Build a residual convolution net: x `float32[batch, 3, side, side]` to y `float32[batch, 1000]`.

    The default stages are those of ResNet-18, and (3, 4, 6, 3) with bottlenecks those of ResNet-50; batch normalisation
    is left out, as exporters fold it into the weights.
    """
    graph = _Graph()
    add = graph.add
    hidden = add("Relu", _convolution(graph, "x", 3, 64, kernel=7, stride=2))
    hidden = add("MaxPool", hidden, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate(stages):
        wide = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            if bottleneck:
                inner = add("Relu", _convolution(graph, hidden, channels, wide, kernel=1, stride=1))
                inner = add("Relu", _convolution(graph, inner, wide, wide, kernel=3, stride=stride))
                out = 4 * wide
                inner = _convolution(graph, inner, wide, out, kernel=1, stride=1)
            else:
                inner = add("Relu", _convolution(graph, hidden, channels, wide, kernel=3, stride=stride))
                out = wide
                inner = _convolution(graph, inner, wide, out, kernel=3, stride=1)
            if stride > 1 or channels != out:
                hidden = _convolution(graph, hidden, channels, out, kernel=1, stride=stride)
            hidden, channels = add("Relu", add("Add", inner, hidden)), out
    flat = add("Flatten", add("GlobalAveragePool", hidden))
    head = graph.normal(channels, 1000, scale=float(1 / np.sqrt(channels)))
    add("Gemm", flat, head, graph.normal(1000, scale=0.02), output="y")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, side, side])
    return graph.model(name, [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1000])])


def _convolution(graph: _Graph, source: str, into: int, out: int, *, kernel: int, stride: int) -> str:
    scale = float(np.sqrt(1 / (into * kernel * kernel)))
    weights, bias = graph.normal(out, into, kernel, kernel, scale=scale), graph.normal(out, scale=0.02)
    pad = kernel // 2
    return graph.add(
        "Conv", source, weights, bias, kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[pad] * 4
    )
