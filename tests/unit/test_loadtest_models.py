"""The benchmark models are made on demand, whole, and the same every time."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.benchmarks import models

SMALL = ["mlp-small", "identity", "identity-int64", "identity-image"]


def open_model(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", SMALL)
def test_model_is_the_same_every_time_and_made_once(name: str, tmp_path: Path) -> None:
    first = models.model_file(name, tmp_path / "a")
    made = first.stat().st_mtime_ns
    assert first.read_bytes() == models.model_file(name, tmp_path / "b").read_bytes()
    assert models.model_file(name, tmp_path / "a") == first
    assert first.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("identity", np.arange(16, dtype=np.float32)),
        ("identity-int64", np.arange(5)),
        ("identity-image", np.arange(3 * 224 * 224, dtype=np.float32).reshape(3, 224, 224)),
    ],
)
def test_identity_gives_every_row_back(name: str, row: np.ndarray, tmp_path: Path) -> None:
    rows = np.stack([row, row + 1])
    (answer,) = open_model(models.model_file(name, tmp_path)).run(["y"], {"x": rows})
    assert np.array_equal(answer, rows)


def test_small_perceptron_keeps_the_size_of_its_values(tmp_path: Path) -> None:
    """Values that die out or blow up would make a comparison of answers worth nothing."""
    x = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32)
    (y,) = open_model(models.model_file("mlp-small", tmp_path)).run(["y"], {"x": x})
    assert y.shape == (100, 10)
    assert 0.5 < y.std() < 3


def test_lookup_fails_on_a_number_that_is_not_in_its_table(tmp_path: Path) -> None:
    model = open_model(models.model_file("lookup", tmp_path))
    (answer,) = model.run(["y"], {"x": np.array([[0], [999]])})
    assert answer[1, 0].tolist() == [3996, 3997, 3998, 3999]
    with pytest.raises(Exception, match="out of data bounds"):
        model.run(["y"], {"x": np.array([[0], [1000]])})


def test_folder_has_the_layout_of_a_repository(tmp_path: Path) -> None:
    folder = models.model_folder("identity", tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in folder.glob("*/*")] == ["identity/1/model.onnx"]


def test_new_revision_is_made_beside_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = models.model_file("identity", tmp_path)
    monkeypatch.setitem(models.MAKERS, "identity", replace(models.MAKERS["identity"], revision=2))
    new = models.model_file("identity", tmp_path)
    assert (old.parent.name, new.parent.name) == ("1", "2")
    assert old.exists()


def test_interrupted_maker_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space left"):
        models.model_file("identity", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_unknown_name_on_the_command_line_is_an_error_that_lists_the_makers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["models.py", "mlp-wider"])
    with pytest.raises(SystemExit, match="2"):
        models.main()
    assert "no maker for mlp-wider; there are mlp-small, mlp-wide," in capsys.readouterr().err
