"""Runs through buffers of their own, on the host's memory: the same answers, errors and threads as `session.run`."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from support import onnx_models as models
from support.answers import same, same_error
from support.host_device import HostDevice
from support.slow_model import slow_echo

from batchserve.backends import onnx_session, staging, staging_proof
from batchserve.backends.base import Layout
from batchserve.backends.onnx import OnnxSession
from batchserve.core.tensors import DATATYPES
from batchserve.engine import calibration
from batchserve.engine.calibration import calibrate
from batchserve.errors import BackendError, ModelLoadError

Load = Callable[..., OnnxSession]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """What sessions are staged on."""
    host = HostDevice()
    monkeypatch.setattr(onnx_session, "device_of", lambda providers, number: host)
    return host


def staged(plain: OnnxSession) -> OnnxSession:
    return plain.reopen(Layout(1, plain.layouts[0].threads, is_staged=True))


def every(session: OnnxSession) -> int:
    return (1 << len(session.outputs)) - 1


# --- answers ----------------------------------------------------------------------------------------------------------


def test_outputs_for_every_mask_and_changing_batch_sizes(load: Load, device: HostDevice) -> None:
    plain = load(models.several_tensors())
    session = staged(plain)
    for rows in (1, 5, 2, 2, 300, 1):
        inputs = plain.sample(rows)
        for mask in range(1, 1 << len(plain.outputs)):
            same(session.run(inputs, mask), plain.run(inputs, mask))
    assert device.copiers == 1, "runs that follow each other share a lane"


@pytest.mark.parametrize("name", [name for name in DATATYPES if name != "BYTES"])
def test_every_number_type_passes_unchanged(load: Load, device: HostDevice, name: str) -> None:
    element = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE"}.get(name, name)
    session = staged(load(models.identity(TensorProto.DataType.Value(element))))
    rows = np.array([[0, 1, 1, 0], [1, 0, 1, 1]], dtype=DATATYPES[name].dtype)
    same(session.run([rows], 1), [rows])


def test_output_whose_shape_depends_on_the_values(load: Load, device: HostDevice) -> None:
    plain = load(models.nonzero(), max_batch_size=0)
    session = staged(plain)
    for values in ([[1, 0, 2, 0]], [[0, 0, 0, 0]], [[3, 3, 3, 3]], [[0, 1, 0, 1]]):
        inputs = [np.array(values, plain.inputs[0].datatype.dtype)]
        same(session.run(inputs, 1), plain.run(inputs, 1))


def test_scalars_and_empty_batches(load: Load, device: HostDevice) -> None:
    plain = load(models.scalars())
    same(staged(plain).run(plain.sample(1), 1), plain.run(plain.sample(1), 1))
    plain = load(models.mlp())
    empty = [array[:0] for array in plain.sample(1)]
    same(staged(plain).run(empty, 1), plain.run(empty, 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 7)), min_size=1, max_size=12))
def test_no_answer_is_overwritten_by_a_later_run(runs: list[tuple[int, int]]) -> None:
    """Whatever comes in whatever order, answers are what they were when they were given."""
    session, plain = SHARED.pair()
    kept = []
    for rows, mask in runs:
        inputs = [
            np.random.default_rng(len(kept)).integers(-99, 99, array.shape).astype(array.dtype)
            for array in plain.sample(max(1, rows))
        ]
        inputs = [array[:rows] for array in inputs]
        got = session.run(inputs, mask)
        kept.append((got, plain.run(inputs, mask)))
        assert all(array.flags.writeable for array in got)
        assert not any(np.shares_memory(one, other) for one in got for other in inputs)
    for got, expected in kept:
        same(got, expected)


class _Shared:
    """One pair of sessions for all examples."""

    def __init__(self) -> None:
        self.made: tuple[OnnxSession, OnnxSession] | None = None

    def pair(self) -> tuple[OnnxSession, OnnxSession]:
        assert self.made is not None
        return self.made


SHARED = _Shared()


@pytest.fixture(scope="module", autouse=True)
def _pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from batchserve.backends.base import ModelFile
    from batchserve.backends.onnx import OnnxBackend
    from batchserve.config import ModelConfig

    file = ModelFile("m", 1, models.save(models.several_tensors(), tmp_path_factory.mktemp("staging") / "model.onnx"))
    plain = OnnxBackend().load(file, ModelConfig())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_session, "device_of", lambda providers, number: HostDevice())
        SHARED.made = (staged(plain), plain)
    yield
    for session in SHARED.pair():
        session.close()


# --- threads ----------------------------------------------------------------------------------------------------------


def test_threads_have_lanes_of_their_own(load: Load, device: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load(slow_echo(20))
    session = staged(plain)
    questions = [[np.full((rows, 1), rows, np.int64)] for rows in range(1, 33)]
    together, number, run = threading.Barrier(4), itertools.count(), staging._Lane.run

    def run_together(lane: Any, *arguments: Any) -> list[Any]:
        if next(number) < 4:
            together.wait(20.0)
        return run(lane, *arguments)

    def ask(inputs: list[Any]) -> list[Any]:
        return session.run(inputs, 3)

    monkeypatch.setattr(staging._Lane, "run", run_together)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            for inputs, (echo, work) in zip(questions, pool.map(ask, questions), strict=True):
                np.testing.assert_array_equal(echo, inputs[0])
                np.testing.assert_allclose(work, plain.run(inputs, 2)[0], 1e-4, 1e-6)
    assert device.copiers == 4, "as many lanes as there were runs at once"


def test_run_is_interrupted(load: Load, device: HostDevice) -> None:
    session = staged(load(slow_echo(300)))
    failures: list[BackendError] = []
    started = threading.Event()

    def run() -> None:
        started.set()
        try:
            session.run([np.ones((8192, 1), np.int64)], 3)
        except BackendError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(20.0)
    end_s = time.monotonic() + 20.0
    while thread.is_alive() and time.monotonic() < end_s:
        session.interrupt(thread.ident or 0)
        thread.join(0.05)
    assert not thread.is_alive()
    assert "terminate" in str(failures[0])
    assert device.waits == 1, "the lane goes only when the device has done with it"
    same(session.run([np.ones((2, 1), np.int64)], 1), [np.ones((2, 1), np.int64)])


def test_runtimes_session_goes_with_the_last_of_those_that_share_it(load: Load, device: HostDevice) -> None:
    plain = load(models.mlp())
    session = staged(plain)
    assert plain._opened is not None
    runtime = weakref.ref(plain._opened.session)
    session.run(plain.sample(2), 1)
    plain.close()
    gc.collect()
    same(session.run(session.sample(2), 1), session.run(session.sample(2), 1))
    session.close()
    gc.collect()
    assert runtime() is None


# --- errors -----------------------------------------------------------------------------------------------------------


def test_error_is_worded_as_without_staging(load: Load, device: HostDevice) -> None:
    plain = load(models.mlp())
    session = staged(plain)
    wrong = [np.ones((2, 3), np.float32)]
    same_error(session, plain, wrong)
    same(session.run(plain.sample(2), 1), plain.run(plain.sample(2), 1))


def test_without_page_locked_memory_runs_are_plain_from_then_on(
    load: Load, device: HostDevice, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load(models.mlp())
    session = staged(plain)
    device.most_bytes = 1 << 13
    for rows in (2, 4000, 4000, 2):
        same(session.run(plain.sample(rows), 1), plain.run(plain.sample(rows), 1))
    assert caplog.text.count("without page-locked memory") == 1


def test_lane_that_comes_back_after_memory_ran_out_is_let_go(
    device: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would use its memory any more."""
    inside, go_on = threading.Event(), threading.Event()

    class Lane:
        def __init__(self, *_: object) -> None: ...

        def run(self, names: Any, feeds: Any, options: Any) -> list[Any]:
            if feeds:
                raise staging.NoRoom("nothing is left")
            inside.set()
            assert go_on.wait(20.0)
            return []

    class Plain:
        def run(self, *_: object) -> list[Any]:
            return []

    monkeypatch.setattr(staging, "_Lane", Lane)
    runs = staging.StagedRuns(Plain(), device, {})
    slow = threading.Thread(target=runs.run, args=([], {}, None))
    slow.start()
    assert inside.wait(20.0)
    runs.run([], {"x": np.ones(1)}, None)
    go_on.set()
    slow.join()
    assert runs._lanes == []


def test_strings_are_not_staged(load: Load, device: HostDevice) -> None:
    plain = load(models.string_upper())
    with pytest.raises(ModelLoadError, match="'x' holds strings"):
        staged(plain)
    assert plain.facts["staging"].startswith("not used: input 'x' holds strings")


def test_other_devices_are_not_staged(load: Load) -> None:
    plain = load(models.mlp())
    with pytest.raises(ModelLoadError, match="works on CUDA, and the model runs on CPUExecutionProvider"):
        staged(plain)
    with pytest.raises(ModelLoadError, match=r"NVIDIA driver cannot be loaded|failed"):
        staging.device_of(("CUDAExecutionProvider",), 9)


def test_input_that_the_runtime_reads_on_the_host_is_named(load: Load) -> None:
    plain = load(models.mlp())

    class Placed(HostDevice):
        name = "cuda"

    assert plain._opened is not None
    with pytest.raises(ModelLoadError, match="input 'x' is read on the host"):
        staging.check_bindable(plain._opened.session, Placed(), plain._graph_inputs, plain._graph_outputs)


# --- the choice -------------------------------------------------------------------------------------------------------


class Broken(HostDevice):
    """Copies nothing back, or too early."""

    def copier(self) -> Any:
        copier = super().copier()
        copier.finish = lambda: None
        return copier


def test_wrong_answers_are_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "device_of", lambda providers, number: Broken())
    plain = load(models.mlp())
    with pytest.raises(ModelLoadError, match="its answers are not those of the runtime's own copies: output 0"):
        staged(plain)
    assert plain.facts["staging"].startswith("not used: its answers")
    assert plain.run(plain.sample(1), 1)


def test_answers_that_change_later_are_refused(load: Load) -> None:
    plain = load(models.mlp())
    assert plain._opened is not None
    session = plain._opened.session

    class Reusing:
        def run(self, names: Any, feeds: Any, options: Any) -> Any:
            answers = session.run(names, feeds, options)
            if not hasattr(self, "kept") or self.kept.shape != answers[0].shape:
                self.kept = answers[0]
            self.kept[:] = answers[0]
            return [self.kept]

    questions = staging_proof.trials(plain.sample, staging_proof.TRIAL_ROWS)
    feeds = [{"x": inputs[0]} for inputs in questions]
    with pytest.raises(ModelLoadError, match="output 0 is another"):
        staging_proof.prove_staged(session.run, Reusing().run, ["y"], feeds, onnx_session.elsewhere(plain.providers))


@pytest.mark.parametrize("is_quicker", [True, False])
def test_calibration_takes_the_quicker_way(
    load: Load, device: HostDevice, monkeypatch: pytest.MonkeyPatch, is_quicker: bool
) -> None:
    plain = load(models.mlp(), instances=1)
    threads = plain.layouts[0].threads
    plain.layouts = (Layout(1, threads), Layout(1, threads, is_staged=True))

    def measure(self: Any, session: Any, layout: Layout) -> tuple[float, float]:
        return (200.0 if layout.is_staged == is_quicker else 100.0), 0.001

    monkeypatch.setattr(calibration._Loads, "measure", measure)
    found = calibrate("m", plain, "auto", 4, 4.0)
    assert found.layout.is_staged == is_quicker
    assert found.session.facts["staging"].startswith("used" if is_quicker else "not used: it answers the same")
    same(found.session.run(found.session.sample(3), 1), found.session.run(found.session.sample(3), 1))
    assert (plain._session is None) == is_quicker, "what was not chosen is closed"
    found.session.close()


def test_calibration_goes_on_without_what_cannot_be_staged(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    plain = load(models.mlp(), instances=1)
    threads = plain.layouts[0].threads
    plain.layouts = (Layout(1, threads), Layout(1, threads, is_staged=True), Layout(2, threads, is_staged=True))
    with caplog.at_level("INFO"):
        found = calibrate("m", plain, "auto", 4, 4.0)
    assert (found.session, found.layout) == (plain, Layout(1, threads))
    assert [one.layout for one in found.measured] == [Layout(1, threads)]
    assert "runs are not staged: it works on CUDA" in caplog.text


def test_staging_that_must_be_and_cannot_is_an_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match='staging = "on" cannot be: it works on CUDA'):
        load(models.mlp(), staging="on")
    assert "staging" not in load(models.mlp(), staging="on", fallback="cpu").facts
    monkeypatch.setattr(onnx_session, "device_of", lambda providers, number: HostDevice())
    assert load(models.mlp(), staging="on").facts["staging"] == "used"
