"""The verdict and its sentence for every kind of model, found on ONNX Runtime itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support import onnx_models as models

from batchserve.backends.batchability import graph_obstacle
from batchserve.backends.header import Axes
from batchserve.backends.tensors import GraphTensor
from batchserve.core.tensors import DATATYPES

BATCHABLE = {
    "identity": models.identity(),
    "add_one": models.add_one(),
    "mlp": models.mlp(),
    "wide_mlp": models.mlp((256, 512, 512, 10)),
    "classifier": models.classifier(),
    "several_tensors": models.several_tensors(),
    "string_suffix": models.string_suffix(),
    "string_upper": models.string_upper(),
    "string_numbers": models.string_numbers(),
    "lookup": models.lookup(),
    "masked_mean": models.masked_mean(),
    "square": models.square(),
    "square_anonymous": models.square(length=None),
    "running_sum": models.running_sum(),
    "convolution": models.convolution(),
    "long_convolution": models.convolution(kernel=20),
    "fixed_length_inside": models.fixed_length_inside(224),
    "with_past": models.with_past(),
    "overridable": models.overridable(),
    "unknown_output_rank": models.unknown_output_rank(),
    "nan_for_half_of_the_inputs": models.one_op("Log"),
}


@pytest.mark.parametrize("proto", BATCHABLE.values(), ids=BATCHABLE.keys())
def test_independent_rows_are_batched(load, proto: onnx.ModelProto):
    session = load(proto)
    assert session.batchability.is_batchable, session.batchability.why
    assert "rows are independent" in session.batchability.why
    assert "never changed" not in session.batchability.why
    for spec in (*session.inputs, *session.outputs):
        assert spec.shape[0] == -1


NEIGHBOUR = "'y' of a row changes when another row of the batch does"
NOT_BATCHABLE = {
    "batch_softmax": (models.batch_softmax(), NEIGHBOUR),
    "batch_mean": (models.coupled(), NEIGHBOUR),
    "minus_first_row": (models.minus_first_row(), NEIGHBOUR),
    "reversed_rows": (models.reversed_rows(), NEIGHBOUR),
    "reversed_booleans": (models.reversed_rows(models.BOOL), NEIGHBOUR),
    "batch_cumsum": (models.batch_cumsum(), NEIGHBOUR),
    "batch_sort": (models.batch_sort(), NEIGHBOUR),
    "coupled_by_a_thousandth": (models.coupled(1e-3), NEIGHBOUR),
    "coupled_by_a_ten_thousandth": (models.coupled(1e-4), NEIGHBOUR),
    "row_numbers": (models.row_numbers(), "'y' of a row differs in a batch from what it is alone"),
    "noisy": (models.noisy(), "two runs of the same rows differ in output 'y'"),
    "dropout": (models.dropout(), "two runs of the same rows differ in output 'y'"),
    "fixed_batch": (models.fixed_batch(2), "input 'x' has the fixed size 2 on its first axis: export"),
    "baked_batch": (models.baked_batch(), "output 'y' has the fixed size 1 on its first axis"),
    "baked_batch_found_by_runs": (models.baked_batch(hidden=True), "runs with 1 row but fails with 3 (Non-zero"),
    "flattened_batch": (models.flattened_batch(hidden=True), "first axis of output 'y' is 1 for 3 rows of input"),
    "constant_output": (models.constant_output(), "output 'y' has the fixed size 10 on its first axis"),
    "constant_output_found_by_runs": (models.constant_output(hidden=True), "first axis of output 'y' is 10 for 1 row"),
    "constant_rows": (models.constant_rows(), "no output changed when the rows changed, so the runs prove nothing"),
    "rows_times_two": (models.rows_times_two(), "first axis of output 'y' is 2 for 1 row of input"),
    "found_places": (models.nonzero(), "of output 'y' is"),
    "scalar_output": (models.scalar_output(), "output 'y' is a scalar"),
    "scalars": (models.scalars(), "input 'a' is a scalar"),
    "scaled": (models.scaled(), "input 'factor' is a scalar"),
    "pairwise": (models.pairwise(), "inputs 'a' and 'b' have different first axes, 'n' and 'm'"),
    "similarity": (models.similarity(), "axis 1 of output 'y' is the batch axis 'batch' too"),
    "adjacency": (models.adjacency(), "axis 1 of input 'x' is the batch axis 'nodes' too"),
    "picky_values": (models.picky_lookup(5, 9), "accepted none of the inputs tried (the last answer was: Non-zero"),
    "only_zero_accepted": (models.picky_lookup(0, 0), "no output changed"),
}


@pytest.mark.parametrize(("proto", "why"), NOT_BATCHABLE.values(), ids=NOT_BATCHABLE.keys())
def test_other_models_are_not_batched_and_the_reason_is_named(load, proto: onnx.ModelProto, why: str):
    session = load(proto)
    assert not session.batchability.is_batchable
    assert why in session.batchability.why
    assert "/" not in session.batchability.why


def test_every_seeming_batch_model_is_condemned_by_runs_not_by_its_names(load):
    """The graph of each of these promises a batch axis, so the verdict rests on the proof alone."""
    for name in ("batch_softmax", "coupled", "minus_first_row", "reversed_rows", "batch_cumsum", "batch_sort"):
        proto = getattr(models, name)()
        assert [axis.dim_param for axis in proto.graph.output[0].type.tensor_type.shape.dim][:1] == ["batch"]
        assert not load(proto).batchability.is_batchable, name


def test_scalar_output_of_unknown_rank_is_found_by_runs(load):
    proto = models.one_op("ReduceSum", out=None, keepdims=0)
    nodes, constants = models._shape_constant("x", [0, 1], hidden=True)
    proto.graph.node[0].input.append("shape")  # axes known only at run time: the rank cannot be inferred
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    for name, value in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    session = load(proto)
    assert "output 'y' is a scalar: one value for the whole batch" in session.batchability.why
    assert session.outputs[0].shape == ()


def test_dynamic_quantisation_is_found_to_mix_rows(load):
    """Its scale is taken over the whole batch, so one large row makes its neighbours coarser."""
    quantised = models.model(
        [
            onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        [models.tensor("x", models.FLOAT, models.BATCH4)],
        [models.tensor("y", models.FLOAT, models.BATCH4)],
    )
    assert NEIGHBOUR in load(quantised).batchability.why


def test_zero_max_batch_size_skips_the_proof(load):
    session = load(models.mlp(), max_batch_size=0)
    assert not session.batchability.is_batchable
    assert session.batchability.why == "switched off by max_batch_size = 0"
    assert session.inputs[0].shape == (-1, 16)
    session.run(session.sample(3), 1)


def test_max_batch_size_of_one_is_proved_all_the_same(load):
    """Rows of one request are split off on axis 0 then, so that axis must be the batch."""
    assert load(models.mlp(), max_batch_size=1).batchability.is_batchable
    assert not load(models.rows_times_two(), max_batch_size=1).batchability.is_batchable


def test_shape_of_a_model_that_is_not_batched_stays_the_graphs(load):
    session = load(models.fixed_batch(2))
    assert session.inputs[0].shape == (2, 4)
    assert session.outputs[0].shape == (2, 4)


def test_first_axis_that_is_a_length_gets_a_length_the_model_accepts(load):
    """A signal of one axis: axis 0 is time, one sample is too short for the window."""
    window = np.ones((1, 1, 20), np.float32)
    proto = models.model(
        [
            onnx.helper.make_node("Unsqueeze", ["x", "axes"], ["wide"]),
            onnx.helper.make_node("Conv", ["wide", "window"], ["y"]),
        ],
        [models.tensor("x", models.FLOAT, ("samples",))],
        [models.tensor("y", models.FLOAT, (1, 1, "out"))],
        {"axes": np.array([0, 1]), "window": window},
    )
    session = load(proto)
    assert not session.batchability.is_batchable
    (signal,) = session.sample(1)
    assert signal.shape[0] >= 20
    session.run([signal], 1)


def graph(*axes: Axes | None, kind: str = "input") -> list[GraphTensor]:
    return [GraphTensor(f"{kind}{i}", DATATYPES["FP32"], entry, kind) for i, entry in enumerate(axes)]


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([("n", 4), ("n",)], [("n", 2)]),
        ([("n", 4), (None, 4)], [("m", 2)]),
        ([(None,)], [(None,)]),
        ([("n", "length"), ("n", "length")], [("n", "length")]),
        ([("n", 4)], [None]),
    ],
)
def test_graph_that_allows_a_batch_axis_leaves_the_verdict_to_runs(inputs: list[Axes], outputs: list[Axes | None]):
    assert graph_obstacle(graph(*inputs), graph(*outputs, kind="output")) == ""


def test_model_without_inputs_is_not_batched():
    assert "no inputs" in graph_obstacle([], graph(("n",), kind="output"))
