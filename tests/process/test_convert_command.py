"""`batchserve convert` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.command import run_command
from support.onnx_models import mlp, one_op, save


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(mlp((16, 64, 4)), tmp_path / "mlp.onnx")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_dynamic_model_is_written_reported_and_warned_of(model: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "small.onnx", tmp_path / "report.json"
    done = run_command("convert", model, "--out", out, "--int8", "dynamic", "--batch-size", "4", "--json", report)
    assert done.returncode == 0, done.stderr
    assert "mlp.onnx -> small.onnx: int8-dynamic" in done.stdout
    assert "original  can be batched: rows are independent" in done.stdout
    assert "converted cannot be batched: output 'y' of a row changes when another row of the batch does" in done.stdout
    assert "dynamic int8 takes its scales over the whole batch" in done.stderr
    assert "random inputs say little about accuracy" in done.stderr
    told = json.loads(report.read_text())
    assert told["converted"]["size_bytes"] == out.stat().st_size
    assert told["original"]["size_bytes"] == model.stat().st_size
    assert told["converted"]["batches"] is False
    assert told["converted"]["load_s"] > 0
    assert [one["rows"] for one in told["speed"]] == [4]
    assert 0 < told["accuracy"][0]["relative"] < 0.1
    assert names(tmp_path) == ["mlp.onnx", "report.json", "small.onnx"]


def test_static_model_is_compared_on_the_inputs_given(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "typical"
    folder.mkdir()
    for seed in range(3):
        np.savez(folder / f"{seed}.npz", x=np.random.default_rng(seed).normal(size=(8, 16)).astype(np.float32))
    done = run_command(
        *("convert", model, "--out", tmp_path / "small.onnx", "--int8", "static", "--batch-size", "1"),
        *("--calibration", folder, "--inputs", folder),
    )
    assert done.returncode == 0, done.stderr
    assert "converted can be batched" in done.stdout
    assert "answers on 3 files of --inputs" in done.stdout
    assert done.stderr == ""


def test_file_that_is_there_is_kept_unless_forced(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    done = run_command("convert", model, "--out", out, "--optimize")
    assert done.returncode == 2
    assert "out.onnx is there already" in done.stderr
    assert "--force" in done.stderr
    assert out.read_bytes() == b"precious"
    done = run_command("convert", model, "--out", out, "--optimize", "--batch-size", "1", "--force")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() != b"precious"


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    model = save(one_op("Relu"), tmp_path / "relu.onnx")
    done = run_command("convert", model, "--out", tmp_path / "out.onnx", "--int8", "dynamic")
    assert done.returncode == 1
    assert "nothing in the model can be quantised" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == ["relu.onnx"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "give one of --int8, --fp16 and --optimize"),
        (["--fp16", "--optimize"], "give one of --int8, --fp16 and --optimize"),
        (["--int8", "static"], "--int8 static needs --calibration FOLDER"),
        (["--fp16", "--calibration", "."], "--calibration is for --int8 static only"),
        (["--fp16", "--out", "mlp.onnx"], "--out names the model itself"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], why: str
) -> None:
    monkeypatch.chdir(model.parent)
    done = run_command("convert", "mlp.onnx", "--out", "out.onnx", *options)
    assert done.returncode == 2
    assert why in done.stderr
