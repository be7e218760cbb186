"""`cpu_affinity` below the engine: what it may name, how cores are counted, where the runtime keeps its threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import onnx_models as models

from batchserve.backends import cores
from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.cores import cores_for, layouts_on_cores
from batchserve.backends.isolated import IsolatingBackend
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ModelConfig, show_cores
from batchserve.errors import ModelLoadError

HERE = tuple(sorted(os.sched_getaffinity(0)))


def allowed_cores(status: Path) -> str:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("Cpus_allowed_list:"))
    return line.split()[1]


def threads() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    return ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))


def test_cores_are_those_named_within_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    assert cores_for(ModelConfig()) == 3
    assert cores_for(ModelConfig(cpu_affinity=(4, 5))) == 2
    assert cores_for(ModelConfig(cpu_affinity=(2, 3, 4, 5, 6))) == 3


def test_cores_that_are_not_ours_are_named(monkeypatch: pytest.MonkeyPatch, file: ModelFile) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4})
    with pytest.raises(ModelLoadError, match=r"names the cores 5-6,9, but this process may only use 0-1,4: correct it"):
        OnnxBackend().load(file, ModelConfig(cpu_affinity=(4, 5, 6, 9)))


def test_system_without_affinity_refuses_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(ModelLoadError, match="cpu_affinity needs a system that keeps threads on cores"):
        cores_for(ModelConfig(cpu_affinity=(0,)))


def test_throughput_leaves_none_of_the_named_cores_to_the_event_loop() -> None:
    config = ModelConfig(hint="throughput", cpu_affinity=(0, 1, 2, 3))
    assert [(one.instances, one.threads) for one in layouts_on_cores(4, config)] == [(1, 4), (2, 2), (4, 1)]


def test_threads_of_the_runtime_are_kept_on_the_cores(file: ModelFile) -> None:
    """Two threads that it starts beside the caller's, each of them on the one core named."""
    OnnxBackend().load(file, ModelConfig(instances=1, intra_op_threads=1)).close()  # what the first load of all starts
    before = threads()
    config = ModelConfig(cpu_affinity=HERE[-1:], instances=1, intra_op_threads=3)
    session = OnnxBackend().load(file, config)
    started = [Path(f"/proc/self/task/{name}/status") for name in threads() - before]
    assert [allowed_cores(status) for status in started] == [str(HERE[-1])] * 2
    assert not session.may_run_in_place, "the event loop's thread is elsewhere"
    assert session.facts["cpu_affinity"] == str(HERE[-1])
    assert session.facts["cores"] == "1"
    again = session.reopen(Layout(1, 1))
    assert again.providers == session.providers
    again.close()
    session.close()


def test_worker_process_is_kept_on_the_cores(file: ModelFile) -> None:
    config = ModelConfig(isolation="process", cpu_affinity=HERE[-1:])
    session = IsolatingBackend(OnnxBackend()).load(file, config)
    session.run(session.sample(1), 1)  # its lane has a thread by now
    tasks = sorted(Path(f"/proc/{session.worker_pid}/task").iterdir(), key=lambda task: int(task.name))  # type: ignore[attr-defined]
    first, last = tasks[0], tasks[-1]  # numpy's own threads were there before
    assert [allowed_cores(task / "status") for task in (first, last)] == [str(HERE[-1])] * 2
    session.close()


def test_worker_process_names_cores_that_are_not_ours(file: ModelFile) -> None:
    config = ModelConfig(isolation="process", cpu_affinity=(16000,))
    with pytest.raises(ModelLoadError, match="names the cores 16000, but this process may only use"):
        IsolatingBackend(OnnxBackend()).load(file, config)


def test_cores_are_written_in_the_order_given() -> None:
    assert show_cores((0, 1, 2, 6, 4, 5)) == "0-2,6,4-5"
