"""CUDA for real: `python -m pytest tests/gpu` on a machine with an NVIDIA GPU and onnxruntime-gpu."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import onnx_models as models

from batchserve.backends import inventory, providers
from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ModelConfig
from batchserve.engine.calibration import calibrate
from batchserve.errors import ModelLoadError

pytestmark = pytest.mark.gpu

TF32 = 1e-2
"""Relative tolerance against the CPU: TF32 is on by default (onnxruntime.md)."""


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    return ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))


def test_auto_takes_cuda_and_answers_as_the_cpu_does(file: ModelFile) -> None:
    fast, plain = OnnxBackend().load(file, ModelConfig()), OnnxBackend().load(file, ModelConfig(providers=("cpu",)))
    assert fast.providers[0] == providers.CUDA
    assert fast.batchability.is_batchable
    for rows in (1, 7, 32):
        inputs = plain.sample(rows)
        (got,), (expected,) = fast.run(inputs, 1), plain.run(inputs, 1)
        assert np.allclose(got, expected, TF32, TF32 * np.abs(expected).max())
    fast.close()
    plain.close()


def test_many_threads_share_a_session(file: ModelFile) -> None:
    session = OnnxBackend().load(file, ModelConfig(providers=("cuda",)))
    questions = [session.sample(rows) for rows in range(1, 33)]
    expected = [session.run(inputs, 1)[0] for inputs in questions]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, right in zip(pool.map(lambda inputs: session.run(inputs, 1)[0], questions), expected, strict=True):
                assert np.allclose(got, right, TF32, TF32 * np.abs(right).max())
    session.close()


def test_one_and_two_runs_at_once_are_compared(file: ModelFile) -> None:
    session = OnnxBackend().load(file, ModelConfig(providers=("cuda",)))
    assert session.layouts == (Layout(1, 1), Layout(2, 1))
    found = calibrate("m", session, "auto", 32, 4.0)
    assert len(found.measured) == 2
    found.session.close()


def test_options_are_handed_over_and_wrong_ones_named(file: ModelFile) -> None:
    limited = ModelConfig(providers=("cuda",), provider_options=(("cuda", (("gpu_mem_limit", str(1 << 30)),)),))
    OnnxBackend().load(file, limited).close()
    wrong = ModelConfig(providers=("cuda",), provider_options=(("cuda", (("no_such_option", "1"),)),))
    with pytest.raises(ModelLoadError, match="no_such_option"):
        OnnxBackend().load(file, wrong)


def test_device_that_is_not_there_is_an_error(file: ModelFile) -> None:
    with pytest.raises(ModelLoadError):
        OnnxBackend().load(file, ModelConfig(device=f"cuda:{providers.cuda_devices()}"))


def test_doctor_sees_the_driver_and_the_device() -> None:
    assert inventory.cuda_driver()
    assert len(inventory.cuda_device_names()) == providers.cuda_devices() > 0
