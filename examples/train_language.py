"""Trains the language identifier and writes examples/models/language/1/model.onnx.

    python examples/train_language.py

A row is a text as UTF-8 bytes. For every byte the model looks up the embeddings of the one to four bytes that end
there (hashed, as in fastText: Joulin et al., 2016), averages them over the text's own bytes and finds the language
with one dense layer. `mask` says which positions are text: what lies under a 0 changes nothing, so rows of different
lengths may be padded and run together.

The settings were chosen by cross-validation on the training sentences; the held-out ones are used once, at the end.
Seeds are fixed: on one machine a second run writes the same bytes. Another processor may add in another order, which
moves weights in their last digits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import language_data
import numpy as np
import numpy.typing as npt
import onnxruntime
from adam import Adam, softmax_gradient
from export import Scorecard, build_graph, tensor, write_model
from language_data import LANGUAGES
from onnx import GraphProto, NodeProto, helper

__all__ = ["language_graph", "pad", "predict", "score", "train"]

Array = npt.NDArray[Any]

ORDERS = 4
# A prime, so that grams which share bytes spread over the whole table; one table of this many rows per order.
BUCKETS = 4093
# A gram's number is written in base 257: a byte is a digit from 1 to 256, and 0 is "no text here".
BASE = 257
WIDTH = 16
# The mean of small embeddings starts out tiny; this puts the dense layer's input where it learns quickly.
POOL_SCALE = 6
EPOCHS = 80
BATCH = 32
DROPOUT = 0.5
CROP_SHARE = 0.7
LOWER_SHARE = 0.2
LEAST_ACCURACY = 0.95
DEFAULT_OUTPUT = Path(__file__).parent / "models" / "language" / "1" / "model.onnx"


def pad(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Put rows of tokens into one array.

    Args:
        rows: Tokens of each row, at least one.

    Returns:
        Tokens and mask, both `int64[N, longest]`, 0 behind each row's end.
    """
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return tokens, mask


def grams(tokens: Array, mask: Array) -> Array:
    """Find the table rows of the grams that end at each position; what the graph does, in numpy.

    Args:
        tokens: `int64[N, L]`.
        mask: `int64[N, L]`, 0 where there is no text.

    Returns:
        `int64[N, L, ORDERS]`, values below `ORDERS * BUCKETS`.
    """
    digits = np.pad(np.where(mask != 0, tokens + 1, 0), ((0, 0), (ORDERS - 1, 0)))
    length = tokens.shape[1]
    numbers = np.zeros((*tokens.shape, ORDERS), np.int64)
    number = np.zeros_like(tokens)
    for back in range(ORDERS):
        start = ORDERS - 1 - back
        number = number + digits[:, start : start + length] * BASE**back
        numbers[:, :, back] = number
    return numbers % BUCKETS + np.arange(ORDERS) * BUCKETS


def _rows(texts: Sequence[str], rng: np.random.Generator) -> list[list[int]]:
    """Encode texts, many of them cut to a few whole words or put in lower case, so that short text is learnt too."""
    rows = []
    for text in texts:
        words = text.split(" ")
        if rng.random() < CROP_SHARE:
            count = int(rng.integers(min(3, len(words)), len(words) + 1))
            first = int(rng.integers(0, len(words) - count + 1))
            words = words[first : first + count]
        cut = " ".join(words)
        rows.append(language_data.encode(cut.lower() if rng.random() < LOWER_SHARE else cut))
    return rows


def train(samples: Sequence[tuple[str, int]], *, epochs: int = EPOCHS, seed: int = 0) -> list[Array]:
    """Train the identifier.

    Args:
        samples: Sentences with their labels.
        epochs: Passes over the samples.
        seed: Of everything random.

    Returns:
        `[table, weights, bias]`: `float32[ORDERS * BUCKETS, WIDTH]`, `float32[WIDTH, languages]` for the mean
        embedding, and `float32[languages]`.
    """
    rng = np.random.default_rng(seed)
    classes = len(LANGUAGES)
    table = rng.normal(0, 0.1, (ORDERS * BUCKETS, WIDTH)).astype(np.float32)
    weights = rng.normal(0, np.sqrt(1 / WIDTH), (WIDTH, classes)).astype(np.float32)
    parameters = [table, weights, np.zeros(classes, np.float32)]
    steps = len(samples) // BATCH
    adam = Adam(parameters, rate=3e-3, steps=epochs * steps)
    labels = np.array([label for _, label in samples])
    for _ in range(epochs):
        order = rng.permutation(len(samples))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            tokens, mask = pad(_rows([samples[i][0] for i in chosen], rng))
            adam.step(_gradients(parameters, tokens, mask, labels[chosen], rng))
    return [table, weights * np.float32(POOL_SCALE), parameters[2]]


def _gradients(
    parameters: list[Array], tokens: Array, mask: Array, labels: Array, rng: np.random.Generator
) -> list[Array]:
    """Run one batch forwards, with half of the positions dropped, and backwards; one gradient per parameter."""
    table, weights, bias = parameters
    places = grams(tokens, mask)
    share = (mask * (rng.random(mask.shape) >= DROPOUT)).astype(np.float32)
    share *= np.float32(POOL_SCALE) / mask.sum(axis=1, keepdims=True).astype(np.float32)
    pooled = np.einsum("nlow,nl->nw", table[places], share)
    slope = softmax_gradient(pooled @ weights + bias, labels)
    spread = share[:, :, None, None] * (slope @ weights.T)[:, None, None, :]
    table_slope = np.zeros_like(table)
    np.add.at(table_slope, places, np.broadcast_to(spread, (*places.shape, table.shape[1])))
    return [table_slope, pooled.T @ slope, slope.sum(axis=0)]


def language_graph(parameters: list[Array]) -> GraphProto:
    """Build the graph from `tokens` and `mask`, both int64[batch, length].

    Outputs: `probabilities` float32[batch, languages] and `label` int64[batch].
    """
    table, weights, bias = parameters
    constants = {
        "table": table,
        "weights": weights,
        "bias": bias,
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "least": np.array(1, np.float32),
        "left": np.array([0, ORDERS - 1, 0, 0], np.int64),
        "buckets": np.array(BUCKETS, np.int64),
        "offsets": np.arange(ORDERS, dtype=np.int64) * BUCKETS,
        "axis1": np.array([1], np.int64),
        "axis2": np.array([2], np.int64),
        "axes12": np.array([1, 2], np.int64),
        "axes23": np.array([2, 3], np.int64),
    }
    node = helper.make_node
    numbers, number_nodes = _number_nodes(constants)
    nodes = [
        node("Cast", ["mask"], ["is_text"], to=9),  # to bool: any value but 0 is text
        node("Add", ["tokens", "one"], ["raised"]),
        node("Where", ["is_text", "raised", "zero"], ["digits"]),
        node("Pad", ["digits", "left", "zero"], ["padded"]),
        *number_nodes,
        node("Concat", numbers, ["numbers"], axis=2),
        node("Mod", ["numbers", "buckets"], ["hashed"]),
        node("Add", ["hashed", "offsets"], ["places"]),
        node("Gather", ["table", "places"], ["embedded"], axis=0),
        node("Cast", ["is_text"], ["share"], to=1),
        node("Unsqueeze", ["share", "axes23"], ["share4"]),
        node("Mul", ["embedded", "share4"], ["own"]),
        node("ReduceSum", ["own", "axes12"], ["total"], keepdims=0),
        node("ReduceSum", ["share", "axis1"], ["count"], keepdims=1),
        node("Max", ["count", "least"], ["divisor"]),
        node("Div", ["total", "divisor"], ["mean"]),
        node("Gemm", ["mean", "weights", "bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    inputs = [tensor("tokens", "int64", "batch", "length"), tensor("mask", "int64", "batch", "length")]
    outputs = [tensor("probabilities", "float32", "batch", len(LANGUAGES)), tensor("label", "int64", "batch")]
    return build_graph("language", nodes, inputs, outputs, constants)


def _number_nodes(constants: dict[str, Array]) -> tuple[list[str], list[NodeProto]]:
    """Make the nodes that number the grams ending at each position, from `padded`; their constants are added.

    Returns:
        Names of the `int64[batch, length, 1]` results, one per order, and the nodes.
    """
    names, nodes = [], []
    total = ""
    for back in range(ORDERS):
        # The byte `back` places before each position. INT64_MAX means "to the end".
        constants[f"start{back}"] = np.array([ORDERS - 1 - back], np.int64)
        constants[f"end{back}"] = np.array([-back if back else np.iinfo(np.int64).max], np.int64)
        nodes.append(helper.make_node("Slice", ["padded", f"start{back}", f"end{back}", "axis1"], [f"byte{back}"]))
        if back:
            constants[f"power{back}"] = np.array(BASE**back, np.int64)
            nodes.append(helper.make_node("Mul", [f"byte{back}", f"power{back}"], [f"term{back}"]))
            nodes.append(helper.make_node("Add", [total, f"term{back}"], [f"number{back}"]))
        total = f"number{back}" if back else "byte0"
        nodes.append(helper.make_node("Unsqueeze", [total, "axis2"], [f"column{back}"]))
        names.append(f"column{back}")
    return names, nodes


def predict(parameters: list[Array], texts: Sequence[str]) -> Array:
    """Identify in numpy: texts to labels `int64[N]`."""
    table, weights, bias = parameters
    tokens, mask = pad([language_data.encode(text) for text in texts])
    share = mask / mask.sum(axis=1, keepdims=True)
    pooled = np.einsum("nlow,nl->nw", table[grams(tokens, mask)], share)
    return np.asarray((pooled @ weights + bias).argmax(axis=1))


def score(path: Path) -> Scorecard:
    """Ask a written model for every held-out sentence, all padded together, through ONNX Runtime."""
    samples = language_data.held_out()
    tokens, mask = pad([language_data.encode(text) for text, _ in samples])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answered,) = session.run(["label"], {"tokens": tokens, "mask": mask})
    return Scorecard(int((answered == np.array([label for _, label in samples])).sum()), len(samples))


def main() -> int:
    """Train, check the accuracy, write the file, and judge what was written."""
    parser = argparse.ArgumentParser(description="Train the language identifier.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the file to write (%(default)s)")
    output: Path = parser.parse_args().output
    parameters = train(language_data.training())
    samples = language_data.held_out()
    answered = predict(parameters, [text for text, _ in samples])
    trained = Scorecard(int((answered == np.array([label for _, label in samples])).sum()), len(samples))
    if trained.accuracy < LEAST_ACCURACY:
        print(f"language: {trained}, below {LEAST_ACCURACY:.0%}: nothing written", file=sys.stderr)
        return 1
    graph = language_graph(parameters)
    write_model(graph, output, script="examples/train_language.py", labels=LANGUAGES, score=trained)
    written = score(output)
    if written.correct != trained.correct:
        print(f"language: numpy says {trained}, ONNX Runtime {written}: delete {output}", file=sys.stderr)
        return 1
    print(f"language: {written}; {output.stat().st_size:,} bytes in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
