"""Trains the digits classifier and writes examples/models/digits/1/model.onnx.

    python examples/train_digits.py

A perceptron with two hidden layers (64 pixels, 256, 128, 10 classes), trained with noise on the pixels and dropout.
Its settings were chosen by cross-validation on the training samples; the held-out ones are used once, at the end.
Seeds are fixed: on one machine a second run writes the same bytes. Another processor may add in another order, which
moves weights in their last digits.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import digits_data
import numpy as np
import numpy.typing as npt
import onnxruntime
from adam import Adam, softmax_gradient
from export import Scorecard, build_graph, tensor, write_model
from onnx import GraphProto, helper
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]  # scikit-learn brings it

__all__ = ["LABELS", "digits_graph", "predict", "score", "train"]

Array = npt.NDArray[Any]

LABELS = tuple("0123456789")
LAYERS = (64, 256, 128, 10)
PIXEL_SCALE = 16
EPOCHS = 100
BATCH = 64
NOISE = 0.2
DROPOUT = 0.4
LEAST_ACCURACY = 0.97
DEFAULT_OUTPUT = Path(__file__).parent / "models" / "digits" / "1" / "model.onnx"


def train(pixels: Array, labels: Array, *, epochs: int = EPOCHS, seed: int = 0) -> list[Array]:
    """Train the perceptron.

    Args:
        pixels: `float32[N, 64]`, 0 to 16.
        labels: `int64[N]`, 0 to 9.
        epochs: Passes over the samples.
        seed: Of everything random.

    Returns:
        `[w1, b1, w2, b2, w3, b3]`, float32; they take pixels divided by `PIXEL_SCALE`.
    """
    rng = np.random.default_rng(seed)
    parameters: list[Array] = []
    for fan_in, fan_out in pairwise(LAYERS):
        parameters.append(rng.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out)).astype(np.float32))
        parameters.append(np.zeros(fan_out, np.float32))
    steps = len(pixels) // BATCH
    adam = Adam(parameters, rate=2e-3, steps=epochs * steps, decay=1e-4)
    scaled = pixels / np.float32(PIXEL_SCALE)
    for _ in range(epochs):
        order = rng.permutation(len(scaled))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            noisy = scaled[chosen] + rng.normal(0, NOISE, (BATCH, LAYERS[0])).astype(np.float32)
            adam.step(_gradients(parameters, noisy, labels[chosen], rng))
    return parameters


def _gradients(parameters: list[Array], rows: Array, labels: Array, rng: np.random.Generator) -> list[Array]:
    """Run one batch forwards with dropout and backwards; one gradient per parameter, in their order."""
    inputs, gates = [rows], []
    for weights, bias in zip(parameters[0:-2:2], parameters[1:-2:2], strict=True):
        values = inputs[-1] @ weights + bias
        kept = (rng.random(values.shape) >= DROPOUT).astype(np.float32) / np.float32(1 - DROPOUT)
        gates.append(kept * (values > 0))
        inputs.append(values * gates[-1])
    slope = softmax_gradient(inputs[-1] @ parameters[-2] + parameters[-1], labels)
    gradients: list[Array] = []
    for layer in reversed(range(len(inputs))):
        gradients = [inputs[layer].T @ slope, slope.sum(axis=0), *gradients]
        if layer:
            slope = (slope @ parameters[2 * layer].T) * gates[layer - 1]
    return gradients


def digits_graph(parameters: list[Array]) -> GraphProto:
    """Build the graph: `pixels` float32[batch, 64] to `probabilities` float32[batch, 10] and `label` int64[batch].

    The division of the pixels by 16 is folded into the first weights, which is exact: 16 is a power of two.
    """
    weights = {f"w{i // 2}" if i % 2 == 0 else f"b{i // 2}": p for i, p in enumerate(parameters)}
    weights["w0"] = weights["w0"] / np.float32(PIXEL_SCALE)
    nodes = [
        helper.make_node("Gemm", ["pixels", "w0", "b0"], ["z0"]),
        helper.make_node("Relu", ["z0"], ["h0"]),
        helper.make_node("Gemm", ["h0", "w1", "b1"], ["z1"]),
        helper.make_node("Relu", ["z1"], ["h1"]),
        helper.make_node("Gemm", ["h1", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    inputs = [tensor("pixels", "float32", "batch", LAYERS[0])]
    outputs = [tensor("probabilities", "float32", "batch", LAYERS[-1]), tensor("label", "int64", "batch")]
    return build_graph("digits", nodes, inputs, outputs, weights)


def predict(parameters: list[Array], pixels: Array) -> Array:
    """Classify in numpy: pixels `float32[N, 64]` to labels `int64[N]`."""
    values = pixels / np.float32(PIXEL_SCALE)
    for weights, bias in zip(parameters[0:-2:2], parameters[1:-2:2], strict=True):
        values = np.maximum(values @ weights + bias, 0)
    return np.asarray((values @ parameters[-2] + parameters[-1]).argmax(axis=1))


def score(path: Path) -> Scorecard:
    """Ask a written model for every held-out sample, through ONNX Runtime.

    Raises:
        ImportError: scikit-learn, which holds the samples, is not installed.
    """
    pixels, labels = digits_data.held_out()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answered,) = session.run(["label"], {"pixels": pixels})
    return Scorecard(int((answered == labels).sum()), len(labels))


def main() -> int:
    """Train, check the accuracy, write the file, and judge what was written."""
    parser = argparse.ArgumentParser(description="Train the digits classifier.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the file to write (%(default)s)")
    output: Path = parser.parse_args().output
    # With several threads the matrix library adds in an order that depends on their number, and other bytes come out.
    with threadpool_limits(limits=1):
        parameters = train(*digits_data.training())
    pixels, labels = digits_data.held_out()
    trained = Scorecard(int((predict(parameters, pixels) == labels).sum()), len(labels))
    if trained.accuracy < LEAST_ACCURACY:
        print(f"digits: {trained}, below {LEAST_ACCURACY:.0%}: nothing written", file=sys.stderr)
        return 1
    write_model(digits_graph(parameters), output, script="examples/train_digits.py", labels=LABELS, score=trained)
    written = score(output)
    if written.correct != trained.correct:
        print(f"digits: numpy says {trained}, ONNX Runtime {written}: delete {output}", file=sys.stderr)
        return 1
    print(f"digits: {written}; {output.stat().st_size:,} bytes in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
