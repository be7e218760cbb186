"""CUDA for real: `python -m pytest tests/gpu` on a machine with an NVIDIA GPU and onnxruntime-gpu."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support import onnx_models as models
from support.slow_model import slow_echo

from batchserve.backends import cuda, inventory, providers
from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.onnx import OnnxBackend
from batchserve.backends.several import SessionPerDevice, SeveralDevices
from batchserve.config import ModelConfig
from batchserve.engine.calibration import calibrate
from batchserve.engine.spreading import compare
from batchserve.errors import BackendError, ModelLoadError
from batchserve.telemetry.gpu import GpuWatch

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


def test_one_and_two_runs_at_once_are_compared_with_own_copies_and_staged(file: ModelFile) -> None:
    session = OnnxBackend().load(file, ModelConfig(providers=("cuda",)))
    every = (Layout(1, 1), Layout(2, 1), Layout(1, 1, is_staged=True), Layout(2, 1, is_staged=True))
    assert session.layouts == every
    found = calibrate("m", session, "auto", 32, 8.0)
    assert [one.layout for one in found.measured] == list(every), session.facts["staging"]
    assert found.session.facts["staging"].startswith("used" if found.layout.is_staged else "not used: it answers the")
    found.session.close()


# --- staged -----------------------------------------------------------------------------------------------------------


def test_page_locked_memory_is_copied_to_the_device_and_back() -> None:
    device = cuda.cuda_device(0)
    there, back, copier = device.host(1 << 20), device.host(1 << 20), device.copier()
    there[:] = np.random.default_rng(0).integers(0, 256, there.size, np.uint8)
    memory = device.memory(1 << 20)
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([1 << 20], np.uint8, "cuda", 0)
    copier.start(memory.address, there.ctypes.data, there.nbytes)
    copier.start(value.data_ptr(), memory.address, there.nbytes)
    copier.start(back.ctypes.data, value.data_ptr(), back.nbytes)
    copier.finish()
    np.testing.assert_array_equal(back, there)
    np.testing.assert_array_equal(value.numpy(), there)


def test_staged_runs_of_many_threads_answer_as_the_cpu_does(file: ModelFile) -> None:
    """And no answer is written over by a later run."""
    plain = OnnxBackend().load(file, ModelConfig(providers=("cpu",)))
    session = OnnxBackend().load(file, ModelConfig(providers=("cuda",), staging="on"))
    assert session.facts["staging"] == "used"
    questions = [plain.sample(rows) for rows in range(1, 65)]
    expected = [plain.run(inputs, 1)[0] for inputs in questions]
    with ThreadPoolExecutor(4) as pool:
        answers = [list(pool.map(lambda inputs: session.run(inputs, 1)[0], questions)) for _ in range(10)]
    for round_ in answers:
        for got, right in zip(round_, expected, strict=True):
            assert np.allclose(got, right, TF32, TF32 * np.abs(right).max())
    session.close()
    plain.close()


def test_staged_run_is_interrupted_and_the_session_goes_on(tmp_path: Path) -> None:
    file = ModelFile("m", 1, models.save(slow_echo(2000), tmp_path / "model.onnx"))
    session = OnnxBackend().load(file, ModelConfig(providers=("cuda",), staging="on"))
    rows = np.ones((4096, 1), np.int64)
    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(threading.get_ident).result()
        running = pool.submit(session.run, [rows], 3)
        while not running.done():
            session.interrupt(thread)
        with contextlib.suppress(BackendError):  # it may have been quicker
            running.result()
    np.testing.assert_array_equal(session.run([rows[:3]], 1)[0], rows[:3])
    session.close()


# --- several devices --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(providers.cuda_devices() < 2, reason="there are not two CUDA devices")
def test_two_devices_answer_as_the_cpu_does(file: ModelFile) -> None:
    """And memory of an outsized run is asked back of each: the runtime fails a run that names another's arena."""
    plain = OnnxBackend().load(file, ModelConfig(providers=("cpu",)))
    session = SeveralDevices(OnnxBackend()).load(file, ModelConfig(device="cuda:0,cuda:1"))
    assert isinstance(session, SessionPerDevice)
    for rows in (1, 7, 256):
        inputs = plain.sample(rows)
        expected = plain.run(inputs, 1)[0]
        for one in session.sessions:
            assert np.allclose(one.run(inputs, 1)[0], expected, TF32, TF32 * np.abs(expected).max())
    factors = compare("m", session, 32)
    assert factors[0] == 1.0
    assert all(0.2 < factor < 5 for factor in factors)
    session.close()
    plain.close()


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_graphs_answer_as_the_cpu_does_from_any_thread(file: ModelFile) -> None:
    plain = OnnxBackend().load(file, ModelConfig(providers=("cpu",)))
    config = ModelConfig(providers=("cuda",), cuda_graphs=True, preferred_batch_sizes=(1, 4, 16))
    session = OnnxBackend().load(file, config)
    assert session.facts["cuda_graphs"] == "1, 4, 16"
    questions = [plain.sample(rows) for rows in (1, 2, 3, 4, 5, 16, 15, 17, 40, 1)] * 5
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda inputs: session.run(inputs, 1)[0], questions))
    for inputs, got in zip(questions, answers, strict=True):
        (right,) = plain.run(inputs, 1)
        assert np.allclose(got, right, TF32, TF32 * np.abs(right).max())
    session.close()
    plain.close()


def test_model_whose_shapes_depend_on_values_has_no_graphs(tmp_path: Path) -> None:
    file = ModelFile("m", 1, models.save(models.nonzero(), tmp_path / "model.onnx"))
    with pytest.raises(ModelLoadError):
        OnnxBackend().load(file, ModelConfig(providers=("cuda",), cuda_graphs=True, preferred_batch_sizes=(2,)))


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_memory_of_the_device_is_told() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (batchserve[gpu-metrics])")
    watch = GpuWatch()
    watch.start()
    assert watch.heard.wait(20.0)
    values = watch.readings[0].values
    assert 0 < values["batchserve_gpu_memory_used_bytes"] < values["batchserve_gpu_memory_bytes"]
    watch.stop()


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
