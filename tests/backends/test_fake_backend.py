"""The backend that tests of the engine use."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.core.tensors import DATATYPES, TensorSpec
from batchserve.errors import BackendError, ModelLoadError

FILE = ModelFile("m", 1, Path("nowhere"))


def test_runs_are_echoed_and_recorded():
    backend = FakeBackend()
    session = backend.load(FILE, ModelConfig())
    rows = np.arange(8).reshape(2, 4)
    (output,) = session.run([rows], 1)
    np.testing.assert_array_equal(output, rows)
    assert output is not rows
    (run,) = backend.runs
    assert (run.rows, run.output_mask, run.thread) == (2, 1, threading.get_ident())
    assert run.inputs[0] is rows
    assert session.batchability.is_batchable
    assert backend.files == [FILE]


def test_gate_holds_a_run_until_it_opens():
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    session = backend.load(FILE, ModelConfig())
    done = threading.Event()
    thread = threading.Thread(target=lambda: (session.run(session.sample(2), 1), done.set()))
    thread.start()
    assert backend.wait_for_runs(1)
    assert not done.is_set()
    gate.set()
    thread.join(10)
    assert done.is_set()
    assert not backend.wait_for_runs(2, timeout_s=0)


def test_gate_that_nobody_opens_fails_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("batchserve.backends.fake.GATE_TIMEOUT_S", 0.0)
    session = FakeBackend(gate=threading.Event()).load(FILE, ModelConfig())
    with pytest.raises(BackendError, match="gate stayed shut"):
        session.run(session.sample(1), 1)
    with pytest.raises(ModelLoadError, match="load gate stayed shut"):
        FakeBackend(load_gate=threading.Event()).load(FILE, ModelConfig())


def test_runs_fail_where_they_are_told_to():
    backend = FakeBackend(fails=lambda inputs: bool((inputs[0] == 13).any()))
    session = backend.load(FILE, ModelConfig())
    session.run([np.zeros((1, 4), np.int64)], 1)
    with pytest.raises(BackendError):
        session.run([np.full((1, 4), 13)], 1)
    assert len(backend.runs) == 2


def test_loads_fail_or_wait_where_they_are_told_to():
    with pytest.raises(ModelLoadError, match="broken"):
        FakeBackend(load_error="broken").load(FILE, ModelConfig())
    gate = threading.Event()
    gate.set()
    assert FakeBackend(load_gate=gate).load(FILE, ModelConfig()).facts == {"runtime": "fake"}


def test_samples_have_the_specs_form():
    specs = [TensorSpec("a", DATATYPES["FP16"], (-1, -1)), TensorSpec("b", DATATYPES["BYTES"], (-1,))]
    session = FakeBackend(inputs=specs).load(FILE, ModelConfig())
    a, b = session.sample(5)
    assert (a.dtype, a.shape) == (np.float16, (5, 3))
    assert {type(word) for word in b} == {str}
    alone = FakeBackend(inputs=specs, batchable=False).load(FILE, ModelConfig())
    assert alone.sample(5)[0].shape == (1, 3)


def test_closed_session_refuses_to_run():
    session = FakeBackend().load(FILE, ModelConfig())
    session.close()
    assert session.closed
    with pytest.raises(BackendError, match="closed"):
        session.run(session.sample(1), 1)
