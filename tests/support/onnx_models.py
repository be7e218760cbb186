"""Small ONNX models for tests, one builder each; every one loads in ONNX Runtime 1.20 and later.

Names: inputs are `x` (or said in the docstring), outputs `y`. Axes in docstrings: `batch` and `length` are free.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None
"""A free axis is a name or None; a shape that is None means that the model does not say its rank."""

FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
BATCH4: Shape = ("batch", 4)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: dict[str, Any] | None = None,
    *,
    ml: bool = False,
) -> ModelProto:
    """Put a graph together: opset 17 (and ai.onnx.ml 3 with `ml`), IR version 9, constants as initialisers."""
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializer=initialisers)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="batchserve-tests")


def tensor(name: str, element: int, shape: Shape) -> Any:
    """Describe an input or output."""
    return helper.make_tensor_value_info(name, element, shape)


def save(proto: ModelProto, path: Path) -> Path:
    """Write a model to a file, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def one_op(
    op: str,
    *,
    element: int = FLOAT,
    shape: Shape = BATCH4,
    out: Shape = BATCH4,
    out_element: int = 0,
    **attributes: Any,
) -> ModelProto:
    """Apply one operator to `x`, giving `y`."""
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    return model([node], [tensor("x", element, shape)], [tensor("y", out_element or element, out)])


# Rows independent.


def identity(element: int = INT64, width: int = 4) -> ModelProto:
    """`x[batch, width]` → `y`, the same; int64 by default, any element type of TensorProto."""
    return one_op("Identity", element=element, shape=("batch", width), out=("batch", width))


def add_one(width: int = 4) -> ModelProto:
    """`float x[batch, width]` → `y = x + 1`."""
    one = {"one": np.float32(1)}
    node = helper.make_node("Add", ["x", "one"], ["y"])
    return model([node], [tensor("x", FLOAT, ("batch", width))], [tensor("y", FLOAT, ("batch", width))], one)


def mlp(widths: Sequence[int] = (16, 32, 32, 4), seed: int = 0) -> ModelProto:
    """`float x[batch, widths[0]]` → `y[batch, widths[-1]]` through ReLU layers with random weights."""
    random = np.random.default_rng(seed)
    nodes, constants, last = [], {}, "x"
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        constants[f"w{i}"] = (random.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        is_last = i == len(widths) - 2
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], ["y" if is_last else f"h{i}"]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
        last = f"r{i}"
    inputs, outputs = [tensor("x", FLOAT, ("batch", widths[0]))], [tensor("y", FLOAT, ("batch", widths[-1]))]
    return model(nodes, inputs, outputs, constants)


def classifier(classes: int = 3, seed: int = 0) -> ModelProto:
    """`float x[batch, 4]` → `int64 label[batch]` (the largest) and `float probabilities[batch, classes]`."""
    weights = np.random.default_rng(seed).normal(size=(4, classes)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [tensor("label", INT64, ("batch",)), tensor("probabilities", FLOAT, ("batch", classes))]
    return model(nodes, [tensor("x", FLOAT, BATCH4)], outputs, {"w": weights})


def several_tensors() -> ModelProto:
    """`float a[batch, 3]`, `int64 b[batch, 2]` → `float total[batch, 1]` (sum of a's row), `b_twice`, `a_copy`."""
    nodes = [
        helper.make_node("ReduceSum", ["a", "axes"], ["total"], keepdims=1),
        helper.make_node("Add", ["b", "b"], ["b_twice"]),
        helper.make_node("Identity", ["a"], ["a_copy"]),
    ]
    inputs = [tensor("a", FLOAT, ("batch", 3)), tensor("b", INT64, ("batch", 2))]
    outputs = [
        tensor("total", FLOAT, ("batch", 1)),
        tensor("b_twice", INT64, ("batch", 2)),
        tensor("a_copy", FLOAT, ("batch", 3)),
    ]
    return model(nodes, inputs, outputs, {"axes": np.array([1])})


def string_suffix(suffix: str = "!") -> ModelProto:
    """`string x[batch, 2]` → `y = x + suffix`, element by element (opset 20)."""
    node = helper.make_node("StringConcat", ["x", "suffix"], ["y"])
    proto = model([node], [tensor("x", STRING, ("batch", 2))], [tensor("y", STRING, ("batch", 2))])
    proto.graph.initializer.append(helper.make_tensor("suffix", STRING, [], [suffix.encode()]))
    proto.opset_import[0].version = 20
    return proto


def string_upper() -> ModelProto:
    """`string x[batch]` → `y[batch]`, in capitals."""
    return one_op(
        "StringNormalizer", element=STRING, shape=("batch",), out=("batch",), case_change_action="UPPER", locale="C"
    )


def string_numbers() -> ModelProto:
    """`string x[batch, 2]` → `float y[batch, 2]`: each string read as a number; other words fail."""
    return one_op("Cast", element=STRING, shape=("batch", 2), out=("batch", 2), out_element=FLOAT, to=FLOAT)


def lookup(entries: int = 10, width: int = 4) -> ModelProto:
    """`int64 x[batch, 1]` → `float y[batch, width]`: row `x` of a table whose entry i is all i.

    A number outside `[-entries, entries - 1]` makes the whole run fail: the model for one bad row in a batch.
    """
    table = np.repeat(np.arange(entries, dtype=np.float32)[:, None], width, axis=1)
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["found"], axis=0),
        helper.make_node("Squeeze", ["found", "axes"], ["y"]),
    ]
    constants = {"table": table, "axes": np.array([1])}
    return model(nodes, [tensor("x", INT64, ("batch", 1))], [tensor("y", FLOAT, ("batch", width))], constants)


def picky_lookup(lowest: int, highest: int) -> ModelProto:
    """`int64 x[batch, 1]` → `float y[batch, 1]`: `x` itself, but any x outside `[lowest, highest]` fails the run."""
    table = np.arange(lowest, highest + 1, dtype=np.float32)
    nodes = [
        helper.make_node("Sub", ["x", "lowest"], ["place"]),
        helper.make_node("Less", ["x", "lowest"], ["is_low"]),
        # A negative place would count from the table's end; one past the end is out of bounds for sure.
        helper.make_node("Where", ["is_low", "outside", "place"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["y"], axis=0),
    ]
    constants = {"lowest": np.int64(lowest), "outside": np.int64(len(table)), "table": table}
    return model(nodes, [tensor("x", INT64, ("batch", 1))], [tensor("y", FLOAT, ("batch", 1))], constants)


def square(*, length: str | int | None = "length") -> ModelProto:
    """`float x[batch, length]` → `y = x * x`, of the same length."""
    shape = ("batch", length)
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    return model([node], [tensor("x", FLOAT, shape)], [tensor("y", FLOAT, shape)])


def masked_mean(vocabulary: int = 50, width: int = 8, classes: int = 3, seed: int = 0) -> ModelProto:
    """`int64 ids[batch, length]`, `int64 mask[batch, length]` → `float scores[batch, classes]`.

    Embeds the ids, averages those whose mask is 1 and projects: padding with mask 0 does not change a row's answer.
    """
    random = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], axis=0),
        helper.make_node("Cast", ["mask"], ["weights"], to=FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "middle"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["divisor"]),
        helper.make_node("Div", ["total", "divisor"], ["mean"]),
        helper.make_node("MatMul", ["mean", "projection"], ["scores"]),
    ]
    constants = {
        "table": random.normal(size=(vocabulary, width)).astype(np.float32),
        "projection": random.normal(size=(width, classes)).astype(np.float32),
        "last": np.array([2]),
        "middle": np.array([1]),
        "one": np.float32(1),
    }
    inputs = [tensor("ids", INT64, ("batch", "length")), tensor("mask", INT64, ("batch", "length"))]
    return model(nodes, inputs, [tensor("scores", FLOAT, ("batch", classes))], constants)


def running_sum() -> ModelProto:
    """`float x[batch, length]` → `y[batch, length]`: the sum so far along the length; rows stay apart."""
    node = helper.make_node("CumSum", ["x", "axis"], ["y"])
    shape = ("batch", "length")
    return model([node], [tensor("x", FLOAT, shape)], [tensor("y", FLOAT, shape)], {"axis": np.int64(1)})


def convolution(kernel: int = 5) -> ModelProto:
    """`float x[batch, 1, length]` → `y[batch, 2, out]` without padding: lengths under `kernel` fail."""
    weights = np.random.default_rng(0).normal(size=(2, 1, kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    inputs, outputs = [tensor("x", FLOAT, ("batch", 1, "length"))], [tensor("y", FLOAT, ("batch", 2, "out"))]
    return model([node], inputs, outputs, {"w": weights})


def fixed_length_inside(width: int = 16) -> ModelProto:
    """`float x[batch, length]` → `y[batch, 2]` by a matrix of `width` rows: only that one length works."""
    weights = np.random.default_rng(0).normal(size=(width, 2)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = [tensor("x", FLOAT, ("batch", "length"))], [tensor("y", FLOAT, ("batch", 2))]
    return model([node], inputs, outputs, {"w": weights})


def with_past() -> ModelProto:
    """`float x[batch, now]`, `past[batch, before]`, `mask[batch, before + now]` → `y[batch, before + now]`.

    The mask's length is a sum of the others', written as such in its axis name.
    """
    nodes = [
        helper.make_node("Concat", ["past", "x"], ["all"], axis=1),
        helper.make_node("Mul", ["all", "mask"], ["y"]),
    ]
    whole = ("batch", "before + now")
    inputs = [
        tensor("x", FLOAT, ("batch", "now")),
        tensor("past", FLOAT, ("batch", "before")),
        tensor("mask", FLOAT, whole),
    ]
    return model(nodes, inputs, [tensor("y", FLOAT, whole)])


def overridable() -> ModelProto:
    """`float x[batch, 4]` → `y = x * k`; `k` is an optional input with the default 2 (an overridable initialiser)."""
    node = helper.make_node("Mul", ["x", "k"], ["y"])
    inputs = [tensor("x", FLOAT, BATCH4), tensor("k", FLOAT, ())]
    return model([node], inputs, [tensor("y", FLOAT, BATCH4)], {"k": np.float32(2)})


def unknown_output_rank() -> ModelProto:
    """`float x[batch, 4]` → `y`, the same, but the model does not say y's shape (nor can it be inferred)."""
    nodes = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Reshape", ["x", "again"], ["y"])]
    nodes.insert(1, helper.make_node("Compress", ["shape", "keep"], ["again"], axis=0))
    inputs = [tensor("x", FLOAT, BATCH4)]
    return model(nodes, inputs, [tensor("y", FLOAT, None)], {"keep": np.array([True, True])})


# Rows that must not share a run.


def batch_softmax() -> ModelProto:
    """`float x[batch, 4]` → `y`: softmax over axis 0, so rows mix."""
    return one_op("Softmax", axis=0)


def coupled(strength: float = 1.0) -> ModelProto:
    """`float x[batch, 4]` → `y = x - strength * (mean of x over the batch)`."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["mean", "strength"], ["part"]),
        helper.make_node("Sub", ["x", "part"], ["y"]),
    ]
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)], {"strength": np.float32(strength)})


def minus_first_row() -> ModelProto:
    """`float x[batch, 4]` → `y = x - x[0:1]`."""
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["first"]),
        helper.make_node("Sub", ["x", "first"], ["y"]),
    ]
    constants = {"start": np.array([0]), "end": np.array([1]), "axis": np.array([0])}
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)], constants)


def reversed_rows(element: int = INT64) -> ModelProto:
    """`x[batch, 4]` → `y`: the rows in reverse order; right for one row, wrong for several."""
    node = helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])
    constants = {
        "start": np.array([-1]),
        "end": np.array([-(2**31)]),
        "axis": np.array([0]),
        "step": np.array([-1]),
    }
    return model([node], [tensor("x", element, BATCH4)], [tensor("y", element, BATCH4)], constants)


def batch_cumsum() -> ModelProto:
    """`float x[batch, 4]` → `y`: running sum over axis 0."""
    node = helper.make_node("CumSum", ["x", "axis"], ["y"])
    return model([node], [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)], {"axis": np.int64(0)})


def batch_sort() -> ModelProto:
    """`float x[batch, 4]` → `y`: each column sorted over the batch (top-k over axis 0 with k = rows)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("TopK", ["x", "rows"], ["y", "places"], axis=0),
    ]
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)])


def row_numbers() -> ModelProto:
    """`float x[batch, 4]` → `y = x + place of the row in the batch`: no row sees another, yet its place matters."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Squeeze", ["rows"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["places"]),
        helper.make_node("Cast", ["places"], ["numbers"], to=FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "one_axis"], ["column"]),
        helper.make_node("Add", ["x", "column"], ["y"]),
    ]
    constants = {"zero": np.int64(0), "one": np.int64(1), "one_axis": np.array([1])}
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)], constants)


def constant_output(*, hidden: bool = False) -> ModelProto:
    """`float x[batch, 4]` → `y[n]`: ten numbers whatever x is.

    ONNX Runtime finds the ten by shape inference; with `hidden` only a run shows it.
    """
    nodes, shape = _shape_constant("x", [10], hidden=hidden)
    nodes.append(helper.make_node("ConstantOfShape", ["shape"], ["y"]))
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, ("n",))], shape)


def constant_rows() -> ModelProto:
    """`float x[batch, 4]` → `y[batch, 4]`: zeros, as many rows as x has, whatever is in them."""
    nodes = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("ConstantOfShape", ["shape"], ["y"])]
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)])


def fixed_batch(rows: int = 2) -> ModelProto:
    """`float x[rows, 4]` → `y[rows, 4]`: the first axis is a number."""
    return one_op("Relu", shape=(rows, 4), out=(rows, 4))


def baked_batch(*, hidden: bool = False) -> ModelProto:
    """`float x[batch, 4]` → `y[rows, 4]` by a Reshape to `[1, 4]` inside: one row works, several fail.

    ONNX Runtime finds the 1 by shape inference; with `hidden` only a run shows it.
    """
    nodes, shape = _shape_constant("x", [1, 4], hidden=hidden)
    nodes.append(helper.make_node("Reshape", ["x", "shape"], ["y"]))
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, ("rows", 4))], shape)


def flattened_batch(*, hidden: bool = False) -> ModelProto:
    """`float x[batch, 4]` → `y[rows, width]` by a Reshape to `[1, -1]`: always one row, of growing width."""
    nodes, shape = _shape_constant("x", [1, -1], hidden=hidden)
    nodes.append(helper.make_node("Reshape", ["x", "shape"], ["y"]))
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, ("rows", "width"))], shape)


def rows_times_two() -> ModelProto:
    """`float x[batch, 4]` → `y[parts, 2]`: two rows out for each row in."""
    nodes, shape = _shape_constant("x", [-1, 2], hidden=False)
    nodes.append(helper.make_node("Reshape", ["x", "shape"], ["y"]))
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, ("parts", 2))], shape)


def hungry(most_rows: int = 3) -> ModelProto:
    """`float x[batch, 1]` → `y = x`, by way of an array that no machine has the memory for if there are more rows."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"], axis=0),
        helper.make_node("Greater", ["rows", "most"], ["is_more"]),
        helper.make_node("Where", ["is_more", "huge", "one"], ["width"]),
        helper.make_node("Concat", ["one", "width"], ["wide"], axis=0),
        helper.make_node("Expand", ["x", "wide"], ["expanded"]),
        helper.make_node("ReduceMax", ["expanded"], ["y"], axes=[1], keepdims=1),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "most": np.array([most_rows]),
        "huge": np.array([1 << 45]),
    }
    return model(nodes, [tensor("x", FLOAT, ("batch", 1))], [tensor("y", FLOAT, ("batch", 1))], constants)


def counting() -> ModelProto:
    """`int64 x[1]` → `y[1] = x`, counted up one by one: `x` says how long a run takes."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["count", "step"], ["counted"]),
        ],
        "body",
        [tensor("turn", INT64, ()), tensor("go", BOOL, ()), tensor("count", INT64, (1,))],
        [tensor("go_on", BOOL, ()), tensor("counted", INT64, (1,))],
        initializer=[numpy_helper.from_array(np.array([1]), "step")],
    )
    nodes = [
        helper.make_node("Squeeze", ["x"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "zero"], ["y"], body=body),
    ]
    return model(nodes, [tensor("x", INT64, (1,))], [tensor("y", INT64, (1,))], {"zero": np.array([0])})


def _shape_constant(source: str, sizes: Sequence[int], *, hidden: bool) -> tuple[list[Any], dict[str, Any]]:
    """Give nodes and constants that make `shape`; hidden: from the source's values, so that nothing can infer it."""
    if not hidden:
        return [], {"shape": np.array(sizes)}
    nodes = [
        helper.make_node("ReduceSum", [source], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "float_zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["int_nothing"], to=INT64),
        helper.make_node("Add", ["sizes", "int_nothing"], ["shape"]),
    ]
    return nodes, {"float_zero": np.float32(0), "sizes": np.array(sizes)}


def scalar_output() -> ModelProto:
    """`float x[batch, 4]` → `float y[]`, the sum of everything."""
    return one_op("ReduceSum", out=(), keepdims=0)


def scalars() -> ModelProto:
    """`float a[]`, `float b[]` → `y[] = a + b`."""
    node = helper.make_node("Add", ["a", "b"], ["y"])
    return model([node], [tensor("a", FLOAT, ()), tensor("b", FLOAT, ())], [tensor("y", FLOAT, ())])


def scaled() -> ModelProto:
    """`float x[batch, 4]`, `float factor[]` → `y = x * factor`: a batch axis on one input, a scalar on the other."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    return model([node], [tensor("x", FLOAT, BATCH4), tensor("factor", FLOAT, ())], [tensor("y", FLOAT, BATCH4)])


def pairwise() -> ModelProto:
    """`float a[n, 4]`, `float b[m, 4]` → `y[n, m]`: all dot products; the first axes have different names."""
    nodes = [helper.make_node("Transpose", ["b"], ["t"]), helper.make_node("MatMul", ["a", "t"], ["y"])]
    return model(nodes, [tensor("a", FLOAT, ("n", 4)), tensor("b", FLOAT, ("m", 4))], [tensor("y", FLOAT, ("n", "m"))])


def similarity() -> ModelProto:
    """`float x[batch, 4]` → `y[batch, batch]`: every row against every row."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, ("batch", "batch"))])


def adjacency() -> ModelProto:
    """`float x[nodes, nodes]` → `y`: the first axis is also the second."""
    return one_op("Relu", shape=("nodes", "nodes"), out=("nodes", "nodes"))


def noisy() -> ModelProto:
    """`float x[batch, 4]` → `y = x + new random numbers each run`."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["y"])]
    return model(nodes, [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)])


def dropout() -> ModelProto:
    """`float x[batch, 4]` → `y`: half of x dropped at random, as exported in training mode."""
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    constants = {"ratio": np.float32(0.5), "training": np.array(True)}
    return model([node], [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)], constants)


def nonzero() -> ModelProto:
    """`float x[batch, 4]` → `int64 y[found, 2]`: places of the numbers above 0, as many as there are."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("NonZero", ["above"], ["places"]),
        helper.make_node("Transpose", ["places"], ["y"]),
    ]
    outputs = [tensor("y", INT64, ("found", 2))]
    return model(nodes, [tensor("x", FLOAT, BATCH4)], outputs, {"zero": np.float32(0)})


# Models that cannot be served, and files that are none.


def zipmap() -> ModelProto:
    """`float x[batch, 2]` → `y`: a sequence of maps, as scikit-learn converters make it by default."""
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, shape=[]))
    )
    outputs = [helper.make_value_info("y", kind)]
    return model([node], [tensor("x", FLOAT, ("batch", 2))], outputs, ml=True)


def sequence() -> ModelProto:
    """`float x[batch, 4]` → `y`: a sequence holding x."""
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, shape=None))
    return model([node], [tensor("x", FLOAT, BATCH4)], [helper.make_value_info("y", kind)])


def optional() -> ModelProto:
    """`optional(float) x` → `y`: the tensor inside."""
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, shape=["batch", 4]))
    node = helper.make_node("OptionalGetElement", ["x"], ["y"])
    return model([node], [helper.make_value_info("x", kind)], [tensor("y", FLOAT, BATCH4)])


def unknown_operator() -> ModelProto:
    """A model with an operator of a domain that nobody has."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="example.org")
    proto = model([node], [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)])
    proto.opset_import.append(helper.make_opsetid("example.org", 1))
    return proto


def external_weights(location: str = "weights.bin") -> ModelProto:
    """`float x[batch, 4]` → `y = x + w`, with `w` (4 floats) in another file, which this does not write."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    proto = model([node], [tensor("x", FLOAT, BATCH4)], [tensor("y", FLOAT, BATCH4)])
    weights = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        weights.external_data.add(key=key, value=value)
    proto.graph.initializer.append(weights)
    return proto
