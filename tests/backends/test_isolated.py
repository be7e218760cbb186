"""A model in a process of its own: answers are the same, and a crash costs the run that caused it and no more."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import onnx_models as models
from support.crashing import EXIT, FAIL, KILL, LOADING, MEMORY, SEGV, SLOW

from batchserve.backends import isolated
from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.backends.isolated import IsolatedSession, IsolatingBackend, load_apart
from batchserve.backends.lanes import send
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ModelConfig
from batchserve.core.tensors import Array
from batchserve.errors import BackendError, ModelLoadError, WorkerDied

Open = Callable[..., IsolatedSession]


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open the model of `support.crashing` in a worker; it is closed after the test, and no process of it is left."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    sessions: list[IsolatedSession] = []

    def make(name: str = "m", **config: object) -> IsolatedSession:
        settings = ModelConfig(isolation="process", **config)  # type: ignore[arg-type]
        backend = IsolatingBackend(FakeBackend(), "support.crashing:CrashingBackend")
        session = backend.load(ModelFile(name, 1, Path("m.onnx")), settings)
        assert isinstance(session, IsolatedSession)
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        pid = session.worker_pid
        session.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 2**22 + 1, 0)


def test_load_apart_leaves_no_process_and_says_why_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    factory = "support.crashing:CrashingBackend"
    started, popen = [], subprocess.Popen

    def noted(*arguments: Any, **settings: Any) -> Any:
        started.append(popen(*arguments, **settings))
        return started[-1]

    monkeypatch.setattr(isolated.subprocess, "Popen", noted)
    load_apart(ModelFile("m", 1, Path("m.onnx")), ModelConfig(), factory)
    for name, why in (("bad", "it cannot be loaded"), ("fatal", "died while it loaded .killed by SIGSEGV")):
        with pytest.raises(ModelLoadError, match=why):
            load_apart(ModelFile(name, 1, Path("m.onnx")), ModelConfig(), factory)
    assert [process.returncode is None for process in started] == [False] * 3, "each was waited for"


def test_worker_that_still_loads_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes minutes, and nobody is left to use it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    here, there = socket.socketpair()
    with there:
        command = [sys.executable, "-m", "batchserve.backends.worker", str(there.fileno())]
        worker = subprocess.Popen(command, pass_fds=[there.fileno()])
    slow = ModelFile("slow", 1, Path("m.onnx"))
    send(here, ("support.crashing:CrashingBackend", slow, ModelConfig()))
    with here.makefile("rb") as begun:
        assert begun.read(len(LOADING)) == LOADING
    here.close()
    assert worker.wait(20) == 0


def row(*values: int) -> list[Array]:
    return [np.array([[value] * 4 for value in values or (1,)], np.int64)]


def test_onnx_model_answers_as_in_the_server(tmp_path: Path) -> None:
    file = ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))
    inside = OnnxBackend().load(file, ModelConfig())
    apart = IsolatingBackend(OnnxBackend()).load(file, ModelConfig(isolation="process"))
    assert (apart.inputs, apart.outputs, apart.batchability) == (inside.inputs, inside.outputs, inside.batchability)
    assert (apart.providers, apart.layouts) == (inside.providers, inside.layouts)
    assert apart.facts["isolation"] == "process"
    for rows in (1, 5, 300, 2):
        inputs = inside.sample(rows)
        assert [one.tolist() for one in apart.sample(rows)] == [one.tolist() for one in inputs]
        for got, expected in zip(apart.run(inputs, 1), inside.run(inputs, 1), strict=True):
            assert np.allclose(got, expected)
            assert got.flags.owndata, "the next run writes where this one's answer lay"
    with pytest.raises(BackendError, match=r"(?i)invalid|dimension"):
        apart.run([np.ones((1, 1), np.float32)], 1)
    inside.close()
    apart.close()


def test_strings_and_empty_arrays_pass(crashing: Open) -> None:
    session = crashing()
    assert session.run([np.zeros((0, 4), np.int64)], 1)[0].shape == (0, 4)
    with pytest.raises(BackendError, match="told to fail"):
        session.run([np.array([["a", FAIL]], object)], 1)


def test_model_that_is_not_isolated_is_loaded_here() -> None:
    inner = FakeBackend()
    session = IsolatingBackend(inner).load(ModelFile("m", 1, Path("m")), ModelConfig())
    assert inner.sessions == [session]
    with pytest.raises(ModelLoadError, match="memory_limit bounds a worker process"):
        IsolatingBackend(inner).load(ModelFile("m", 1, Path("m")), ModelConfig(memory_limit_bytes=1))


def test_failed_run_fails_alone(crashing: Open) -> None:
    session = crashing()
    pid = session.worker_pid
    with pytest.raises(BackendError, match="told to fail"):
        session.run(row(FAIL), 1)
    assert session.run(row(), 1)[0].tolist() == [[1001] * 4]
    assert session.worker_pid == pid


@pytest.mark.parametrize(("trigger", "said"), [(SEGV, "SIGSEGV"), (KILL, "SIGKILL"), (EXIT, "exit status 3")])
def test_crash_fails_its_run_and_the_next_one_is_answered(crashing: Open, trigger: int, said: str) -> None:
    session = crashing()
    first = session.worker_pid
    with pytest.raises(WorkerDied, match=f"died during a run .*{said}"):
        session.run(row(1, trigger), 1)
    assert session.run(row(2), 1)[0].tolist() == [[1002] * 4]
    assert session.worker_pid != first
    assert session.facts["restarts"] == "1"


def test_crash_can_be_tried_once_more(crashing: Open) -> None:
    session = crashing(retry_crashed=True)
    with pytest.raises(WorkerDied):
        session.run(row(SEGV), 1)
    assert session.run(row(), 1)
    assert session.restarts == 2, "the second try crashed it as well"


def test_worker_that_keeps_dying_is_started_again_after_growing_pauses(
    crashing: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, restart = [], IsolatedSession._restart

    def at_once(session: IsolatedSession, pause_s: float) -> None:
        pauses.append(pause_s)
        restart(session, 0.0)

    monkeypatch.setattr(IsolatedSession, "_restart", at_once)
    session = crashing()
    for _ in range(4):
        with pytest.raises(WorkerDied):
            session.run(row(KILL), 1)
    assert session.run(row(), 1)
    assert pauses == [0.0, 0.25, 0.5, 1.0]
    monkeypatch.setattr(isolated, "YOUNG_S", 0.0)
    with pytest.raises(WorkerDied):
        session.run(row(KILL), 1)
    assert session.run(row(), 1)
    assert pauses[-1] == 0.0, "one that lived long enough owes no pause"


def test_worker_that_cannot_be_started_again_is_tried_until_it_can(
    crashing: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session, start, failures = crashing(), isolated._start, iter((True, True, False))

    def moody(*arguments: Any) -> Any:
        if next(failures):
            raise ModelLoadError("the disk is away")
        return start(*arguments)

    monkeypatch.setattr(isolated, "_start", moody)
    with pytest.raises(WorkerDied):
        session.run(row(KILL), 1)
    assert session.run(row(5), 1)[0][0, 0] == 1005, "it waits for the worker"
    said = [record.getMessage() for record in caplog.records if "could not be started" in record.getMessage()]
    assert [re.findall(r"next try in (\S+) s", line)[0] for line in said] == ["0.25", "0.5"]


def test_kill_under_a_run_fails_that_run_only(crashing: Open) -> None:
    """Four threads run without a pause; the worker is killed with a fifth run in it.

    Service resumes within a second and the time of a load.
    """
    session = crashing()
    start_s = time.monotonic()
    crashing().close()
    load_s = time.monotonic() - start_s
    stop, errors, answers = threading.Event(), [], []
    lock = threading.Lock()

    def stream(value: int) -> None:
        while not stop.is_set():
            try:
                (answer,) = session.run(row(value), 1)
            except WorkerDied as error:
                with lock:
                    errors.append((value, error))
            else:
                with lock:
                    answers.append((time.monotonic(), value, answer[0, 0] - 1000))

    def victim() -> None:
        with pytest.raises(WorkerDied, match="SIGKILL"):
            session.run(row(SLOW), 1)

    threads = [threading.Thread(target=stream, args=(value,)) for value in range(4)]
    slow = threading.Thread(target=victim)
    for thread in (*threads, slow):
        thread.start()
    while len(answers) < 100:
        time.sleep(0.001)  # the streams have no event of their own
    killed_s = time.monotonic()
    os.kill(session.worker_pid, signal.SIGKILL)
    slow.join(20)
    seen = len(answers)
    while len(answers) < seen + 100:
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert not slow.is_alive()
    assert len({value for value, _ in errors}) == len(errors), "each stream had at most one run in it"
    assert all(value == got for _, value, got in answers), "nobody gets another's answer"
    resumed_s = next(at for at, _, _ in answers if at > killed_s + 0.05)
    assert resumed_s - killed_s < 1.0 + 2 * load_s


def test_memory_limit_fails_the_run_that_passes_it(crashing: Open) -> None:
    session = crashing(memory_limit_bytes=700 << 20)
    with pytest.raises(BackendError, match=r"memory|allocate"):
        session.run(row(MEMORY), 1)
    assert session.run(row(), 1)
    with pytest.raises(ModelLoadError, match="does not fit into memory_limit"):
        crashing("large", memory_limit_bytes=700 << 20)


@pytest.mark.parametrize(
    ("name", "said"), [("bad", "it cannot be loaded"), ("fatal", "died while it loaded .*SIGSEGV")]
)
def test_worker_that_cannot_load_is_an_error(crashing: Open, name: str, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        crashing(name)


def test_worker_ends_with_its_server(crashing: Open) -> None:
    """Its socket ends when its parent does, however that dies."""
    session = crashing()
    worker = session._worker
    assert worker is not None
    worker.control.shutdown(2)
    assert worker.process.wait(20) == 0


def test_closed_session_refuses(crashing: Open) -> None:
    session = crashing()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(row(), 1)
