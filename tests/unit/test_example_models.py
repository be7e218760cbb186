"""The committed example models are what their scripts make, do what they state, and are safe to batch and to pad."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = EXAMPLES / "models"
FILES = {name: MODELS / name / "1" / "model.onnx" for name in ("digits", "language")}

# onnxruntime.md: FP32 on a CPU, batched against unbatched. Probabilities are at most 1.
TOLERANCE = 1e-5

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The modules of examples/, imported as its scripts import each other, and forgotten afterwards."""
    names = ("adam", "digits_data", "export", "language_data", "train_digits", "train_language")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            del sys.modules[name]


def run(name: str, **inputs: Array) -> tuple[Array, Array]:
    """Run a committed model: its probabilities and labels."""
    session = onnxruntime.InferenceSession(str(FILES[name]), providers=["CPUExecutionProvider"])
    probabilities, label = session.run(["probabilities", "label"], inputs)
    return np.asarray(probabilities), np.asarray(label)


def facts(name: str) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(FILES[name]).metadata_props}


def test_served_folder_holds_the_two_models_and_nothing_else() -> None:
    assert sorted(path for path in MODELS.rglob("*") if path.is_file()) == sorted(FILES.values())
    assert sum(path.stat().st_size for path in FILES.values()) < 2_000_000


@pytest.mark.parametrize("name", FILES)
def test_file_loads_in_every_supported_onnx_runtime(name: str) -> None:
    """ONNX Runtime 1.20, the oldest supported, reads opset 21 and IR version 10 at most."""
    model = onnx.load(FILES[name])
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version <= 21) for entry in model.opset_import] == [("", True)]


@pytest.mark.parametrize(("name", "least"), [("digits", 0.97), ("language", 0.95)])
def test_stated_accuracy_is_what_the_committed_file_reaches(
    name: str, least: float, scripts: dict[str, ModuleType]
) -> None:
    score = scripts[f"train_{name}"].score(FILES[name])
    stated = facts(name)
    assert score.accuracy >= least
    assert (f"{score.accuracy:.4f}", str(score.samples)) == (stated["held_out_accuracy"], stated["held_out_samples"])


def test_stated_labels_are_the_classes(scripts: dict[str, ModuleType]) -> None:
    assert json.loads(facts("digits")["labels"]) == [str(digit) for digit in range(10)]
    assert json.loads(facts("language")["labels"]) == list(scripts["language_data"].LANGUAGES)


@pytest.mark.parametrize(
    ("name", "builder", "names"),
    [
        ("digits", "digits_graph", ["w0", "b0", "w1", "b1", "w2", "b2"]),
        ("language", "language_graph", ["table", "weights", "bias"]),
    ],
)
def test_committed_graph_is_the_one_its_script_builds(
    name: str, builder: str, names: list[str], scripts: dict[str, ModuleType]
) -> None:
    """With the weights taken out of the file, the script makes the same graph again, bit for bit."""
    committed = onnx.load(FILES[name]).graph
    weights = {entry.name: numpy_helper.to_array(entry) for entry in committed.initializer}
    parameters = [weights[key] for key in names]
    if name == "digits":
        parameters[0] = parameters[0] * np.float32(16)  # the graph takes raw pixels, the trainer scaled ones
    assert getattr(scripts[f"train_{name}"], builder)(parameters) == committed


@pytest.mark.parametrize("name", FILES)
def test_training_twice_writes_the_same_bytes(name: str, scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    module = scripts[f"train_{name}"]
    score = scripts["export"].Scorecard(1, 2)

    def write(file: str, seed: int) -> bytes:
        if name == "digits":
            pixels, labels = scripts["digits_data"].training()
            graph = module.digits_graph(module.train(pixels[:256], labels[:256], epochs=2, seed=seed))
        else:
            graph = module.language_graph(module.train(scripts["language_data"].training()[:64], epochs=2, seed=seed))
        scripts["export"].write_model(graph, tmp_path / file, script="x", labels="ab", score=score)
        return (tmp_path / file).read_bytes()

    assert write("first.onnx", 0) == write("second.onnx", 0) != write("third.onnx", 1)


def test_held_out_samples_are_not_trained_on(scripts: dict[str, ModuleType]) -> None:
    data = scripts["language_data"]
    trained, held = {text for text, _ in data.training()}, {text for text, _ in data.held_out()}
    assert (len(trained), len(held), len(trained & held)) == (450, 150, 0)
    assert all(len(set(sentences)) == 60 for sentences in data.SENTENCES.values())
    assert [len(part[1]) for part in (scripts["digits_data"].training(), scripts["digits_data"].held_out())] == [
        1438,
        359,
    ]


def test_digits_row_alone_equals_the_row_among_others(scripts: dict[str, ModuleType]) -> None:
    pixels, _ = scripts["digits_data"].held_out()
    together, labels = run("digits", pixels=pixels)
    for i in range(0, len(pixels), 7):
        alone, label = run("digits", pixels=pixels[i : i + 1])
        assert np.abs(alone[0] - together[i]).max() <= TOLERANCE
        assert label[0] == labels[i]


@pytest.fixture(scope="module")
def sentences(scripts: dict[str, ModuleType]) -> list[list[int]]:
    """Every third held-out sentence as tokens, of many lengths."""
    return [scripts["language_data"].encode(text) for text, _ in scripts["language_data"].held_out()[::3]]


def test_language_row_alone_equals_the_row_padded_among_longer_ones(
    sentences: list[list[int]], scripts: dict[str, ModuleType]
) -> None:
    tokens, mask = scripts["train_language"].pad([*sentences, [65] * 200])
    together, labels = run("language", tokens=tokens, mask=mask)
    for i, row in enumerate(sentences):
        alone, label = run("language", tokens=np.array([row]), mask=np.ones((1, len(row)), np.int64))
        assert np.abs(alone[0] - together[i]).max() <= TOLERANCE
        assert label[0] == labels[i]


def test_language_answer_depends_on_the_mask_alone_not_on_what_lies_under_it(
    sentences: list[list[int]], scripts: dict[str, ModuleType]
) -> None:
    """Other tokens under a 0 change nothing at all; the same tokens under a 1 do."""
    tokens, mask = scripts["train_language"].pad(sentences)
    clean, _ = run("language", tokens=tokens, mask=mask)
    noise = np.random.default_rng(0).integers(0, 256, tokens.shape)
    noisy, _ = run("language", tokens=np.where(mask == 1, tokens, noise), mask=mask)
    seen, _ = run("language", tokens=np.where(mask == 1, tokens, noise), mask=np.ones_like(mask))
    assert np.array_equal(noisy, clean)
    assert np.abs(seen - clean).max() > 0.1


def test_language_padding_may_lie_before_the_text(sentences: list[list[int]]) -> None:
    row = sentences[0]
    plain, _ = run("language", tokens=np.array([row]), mask=np.ones((1, len(row)), np.int64))
    left, _ = run("language", tokens=np.array([[7, 7, *row]]), mask=np.array([[0, 0, *[1] * len(row)]]))
    assert np.abs(left - plain).max() <= TOLERANCE


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8])
def test_language_runs_on_short_rows_of_zeros_and_ones(length: int) -> None:
    """The values and lengths by which the server proves that rows are independent; a mask may be all 0."""
    random = np.random.default_rng(length)
    tokens, mask = random.integers(0, 2, (2, 4, length))
    mask[0] = 0
    probabilities, label = run("language", tokens=tokens, mask=mask)
    assert probabilities.shape == (4, 10)
    assert label.shape == (4,)
    assert np.isfinite(probabilities).all()
    assert np.abs(probabilities.sum(axis=1) - 1).max() <= TOLERANCE


def test_language_answers_for_tokens_that_are_no_bytes() -> None:
    """A wild token is a bad guess for its own row, never a failed run that its neighbours would share."""
    tokens = np.array([[-(1 << 63), (1 << 63) - 1, -1, 256], [72, 101, 106, 33]])
    mask = np.ones_like(tokens)
    together, _ = run("language", tokens=tokens, mask=mask)
    alone, _ = run("language", tokens=tokens[1:], mask=mask[1:])
    assert np.isfinite(together).all()
    assert np.abs(together[1] - alone[0]).max() <= TOLERANCE
