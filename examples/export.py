"""Writes an example model's graph as an ONNX file that states what it is and how well it does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

__all__ = ["Scorecard", "build_graph", "tensor", "write_model"]

# Old enough for every ONNX Runtime from 1.20 on, new enough for a softmax over one axis.
OPSET = 17
IR_VERSION = 8

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class Scorecard:
    """What a model did on samples it was not trained on.

    Args:
        correct: Samples answered right.
        samples: Samples asked.
    """

    def __init__(self, correct: int, samples: int) -> None:
        self.correct = correct
        self.samples = samples

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / self.samples

    def __str__(self) -> str:
        return f"{self.accuracy:.2%} ({self.correct} of {self.samples} held-out samples)"


def tensor(name: str, dtype: str, *dims: int | str) -> ValueInfoProto:
    """Declare an input or output; a word as a dimension is a free axis of that name."""
    return helper.make_tensor_value_info(name, _TYPES[dtype], list(dims))


def build_graph(
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Mapping[str, npt.NDArray[Any]],
) -> GraphProto:
    """Put a graph together; `weights` become its initialisers under their names."""
    initialisers = [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in weights.items()]
    return helper.make_graph(nodes, name, inputs, outputs, initialisers)


def write_model(graph: GraphProto, path: Path, *, script: str, labels: Sequence[str], score: Scorecard) -> None:
    """Write the graph as an ONNX file; the same graph and facts give the same bytes.

    The file's `metadata_props` are `labels` (a JSON list: class `i` is entry `i`), `held_out_accuracy`,
    `held_out_samples` and `script`.

    Args:
        graph: What to write.
        path: The file; missing folders are made.
        script: The script that trains it, relative to the repository.
        labels: One word per class.
        score: How it did on held-out samples.

    Raises:
        onnx.checker.ValidationError: The graph is not valid ONNX; nothing is written.
    """
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="batchserve-examples",
    )
    facts = {
        "labels": json.dumps(list(labels)),
        "held_out_accuracy": f"{score.accuracy:.4f}",
        "held_out_samples": str(score.samples),
        "script": script,
    }
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
