"""Makes the models that benchmarks run, on demand and the same every time.

    python loadtest/models.py --list
    python loadtest/models.py mlp-wide identity

`model_folder("mlp-wide")` does the same from Python. A model is made once, into `loadtest/cache/<name>/<revision>/
model.onnx`: the layout of a repository, so `batchserve serve loadtest/cache/mlp-wide` serves it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest import networks

__all__ = ["CACHE", "MAKERS", "Maker", "model_file", "model_folder"]

Array = npt.NDArray[Any]

CACHE = Path(__file__).parent / "cache"

# Readable by ONNX Runtime 1.20, the oldest supported.
OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True)
class Maker:
    """How to make one model.

    Attributes:
        summary: One line for people.
        make: Builds it; the same model every time.
        revision: To be raised when `make` changes, so that cached files of the old kind are left behind.
    """

    summary: str
    make: Callable[[], ModelProto]
    revision: int = 1


def _model(
    name: str, nodes: Sequence[NodeProto], x: ValueInfoProto, y: ValueInfoProto, weights: Mapping[str, Array]
) -> ModelProto:
    """Put the nodes of a model with one input and one output together."""
    initialisers = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, name, [x], [y], initialisers)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="batchserve-loadtest",
    )


def _mlp(name: str, *layers: int) -> ModelProto:
    """Build a perceptron with ReLU between its layers: x `float32[batch, first]` to y `float32[batch, last]`.

    Weights are normal with variance 2 / fan-in, so that values keep their size through the layers.
    """
    rng = np.random.default_rng(0)
    nodes, weights = [], {}
    last = len(layers) - 2
    for i, (fan_in, fan_out) in enumerate(pairwise(layers)):
        scale = np.float32(np.sqrt(2 / fan_in))
        weights[f"w{i}"] = rng.standard_normal((fan_in, fan_out), np.float32) * scale
        weights[f"b{i}"] = rng.standard_normal(fan_out, np.float32) * np.float32(0.1)
        source = "x" if i == 0 else f"h{i - 1}"
        nodes.append(helper.make_node("Gemm", [source, f"w{i}", f"b{i}"], ["y" if i == last else f"z{i}"]))
        if i < last:
            nodes.append(helper.make_node("Relu", [f"z{i}"], [f"h{i}"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", layers[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", layers[-1]])
    return _model(name, nodes, x, y, weights)


def _identity(name: str, element_type: int, *row: int | str) -> ModelProto:
    """Build a model that gives its input back: what is measured is the server alone."""
    x = helper.make_tensor_value_info("x", element_type, ["batch", *row])
    y = helper.make_tensor_value_info("y", element_type, ["batch", *row])
    return _model(name, [helper.make_node("Identity", ["x"], ["y"])], x, y, {})


def _largest(name: str, width: int) -> ModelProto:
    """Build a model that reads each row once and gives its largest value: x `float32[batch, width]`, y `[batch, 1]`.

    The largest value is the same in whatever order a row is read, so answers can be compared exactly.
    """
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])
    return _model(name, [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)], x, y, {})


def _lookup(name: str, entries: int) -> ModelProto:
    """Build a model that looks numbers up: x `int64[batch, 1]` from 0 to entries - 1, y `float32[batch, 1, 4]`.

    The runtime fails on a number that is out of range, and so does the whole run that it is in.
    """
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 4])
    table = np.arange(4 * entries, dtype=np.float32).reshape(entries, 4)
    return _model(name, [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)], x, y, {"table": table})


MAKERS: dict[str, Maker] = {
    "mlp-small": Maker(
        "perceptron 64-256-256-10: a few microseconds a row, so the server's own cost shows",
        lambda: _mlp("mlp-small", 64, 256, 256, 10),
    ),
    "mlp-wide": Maker(
        "perceptron 1024-4096-4096-1024, 101 MB of weights: a run reads them all, however many rows it has",
        lambda: _mlp("mlp-wide", 1024, 4096, 4096, 1024),
    ),
    "mlp-medium": Maker(
        "perceptron 1024-2560-1024, 21 MB of weights: to be loaded and unloaded",
        lambda: _mlp("mlp-medium", 1024, 2560, 1024),
    ),
    "identity": Maker(
        "gives back 16 floats",
        lambda: _identity("identity", TensorProto.FLOAT, 16),
    ),
    "identity-int64": Maker(
        "gives back integers of any length, to check that answers belong to their requests",
        lambda: _identity("identity-int64", TensorProto.INT64, "length"),
    ),
    "identity-image": Maker(
        "gives back 3 x 224 x 224 floats, 602 kB a row each way",
        lambda: _identity("identity-image", TensorProto.FLOAT, 3, 224, 224),
    ),
    "largest": Maker(
        "largest of 153,600 floats: reads 614 kB a row once, answers 4 bytes",
        lambda: _largest("largest", 153600),
    ),
    "lookup": Maker(
        "looks numbers up to 999 up in a table, and fails on others: what one bad row does",
        lambda: _lookup("lookup", 1000),
    ),
    "encoder": Maker(
        "transformer encoder of 6 layers, 384 wide, texts of any length to 512: what mixed lengths are measured with",
        lambda: networks.encoder("encoder"),
    ),
    "scorer": Maker(
        "scores texts of any length with a head of 72 MB of weights: batching pays though lengths differ",
        lambda: networks.scorer("scorer"),
    ),
    "residual": Maker(
        "residual convolution net of 18 layers for images of 112 x 112",
        lambda: networks.residual("residual"),
    ),
    "resnet50": Maker(
        "the topology of ResNet-50, 25.6 million weights, images of 224 x 224: batching gains little on a CPU",
        lambda: networks.residual("resnet50", (3, 4, 6, 3), 224, bottleneck=True),
    ),
}
"""Every benchmark model by name. A new one needs an entry here and nothing else."""


def model_file(name: str, cache: Path = CACHE) -> Path:
    """Return a model's file, and make it first if it is not there.

    A file is either whole or absent, so two processes may ask at once.

    Args:
        name: A key of `MAKERS`.
        cache: The folder that models are kept in.

    Raises:
        KeyError: There is no such maker.
    """
    maker = MAKERS[name]
    path = cache / name / str(maker.revision) / "model.onnx"
    if path.exists():
        return path
    model = maker.make()
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = cache / f".{name}-{os.getpid()}"
    try:
        partial.write_bytes(model.SerializeToString(deterministic=True))
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def model_folder(name: str, cache: Path = CACHE) -> Path:
    """Return the folder to serve a model from (`<name>/<version>/model.onnx` inside), made first if it is not there.

    Args and errors are those of `model_file`.
    """
    return model_file(name, cache).parent.parent


def main() -> int:
    """Make the models named on the command line and print their files."""
    parser = argparse.ArgumentParser(description="Make benchmark models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to make; all if none is named")
    parser.add_argument("--list", action="store_true", help="say which there are, and make none")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder to keep them in (%(default)s)")
    arguments = parser.parse_args()
    if arguments.list:
        for name, maker in MAKERS.items():
            print(f"{name:16}{maker.summary}")
        return 0
    unknown = [name for name in arguments.names if name not in MAKERS]
    if unknown:
        parser.error(f"no maker for {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    for name in arguments.names or MAKERS:
        print(model_file(name, arguments.cache))
    return 0


if __name__ == "__main__":
    sys.exit(main())
