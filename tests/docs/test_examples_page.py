"""docs/examples.md is right: its requests work as printed, and its accuracies are those that the models state."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.command import ServeProcess

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
REQUESTS = re.findall(r"```sh\n(curl .*?)\n```\n\n```json\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of the example models."""
    server = ServeProcess((ROOT / "examples" / "models", "--port", "0"))
    try:
        yield server.loaded()
    finally:
        server.close()


def test_page_shows_a_request_for_each_model() -> None:
    assert {re.search(r"models/(\w+)/infer", request)[1] for request, _ in REQUESTS} == {"digits", "language"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("request_line", "answer"), REQUESTS)
def test_printed_request_gets_the_printed_answer(request_line: str, answer: str, url: str) -> None:
    command = shlex.split(request_line.replace("http://127.0.0.1:8000", url))
    done = subprocess.run([*command, "--max-time", "30"], capture_output=True, text=True, timeout=40, check=True)
    assert done.stdout == answer


@pytest.mark.parametrize("name", ["digits", "language"])
def test_printed_accuracy_is_the_one_the_model_states(name: str) -> None:
    path = ROOT / "examples" / "models" / name / "1" / "model.onnx"
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    accuracy = f"{float(facts['held_out_accuracy']):.2%}".replace("%", " %")
    assert re.search(rf"{accuracy} \(\d+ of {facts['held_out_samples']} ", row)
    assert re.search(rf"\| {path.stat().st_size / 1e6:.1f} MB|\| {path.stat().st_size / 1e3:.0f} kB", row)


def test_printed_labels_are_those_the_language_model_states() -> None:
    path = ROOT / "examples" / "models" / "language" / "1" / "model.onnx"
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    line = next(line for line in PAGE.splitlines() if line.startswith("The labels of `language`"))
    assert re.findall(r"\((\w\w)\)", line) == json.loads(facts["labels"])


def test_the_mistake_that_the_page_admits_is_still_made() -> None:
    assert 'it takes "Tack!", Swedish, for Finnish' in PAGE
    path = ROOT / "examples" / "models" / "language" / "1" / "model.onnx"
    tokens = np.array([list(b"Tack!")])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (label,) = session.run(["label"], {"tokens": tokens, "mask": np.ones_like(tokens)})
    assert label[0] == 3
