"""One model on several devices: a session on each, or a reason why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import onnx_models as models
from support.by_device import ByDevice

from batchserve.backends.base import Batchability, Build, Layout, ModelFile
from batchserve.backends.fake import FakeBackend, FakeSession
from batchserve.backends.onnx import OnnxBackend, OnnxSession
from batchserve.backends.several import SessionPerDevice, SeveralDevices
from batchserve.config import ModelConfig
from batchserve.errors import ModelLoadError, ProviderUnavailable

FILE = ModelFile("m", 1, Path("m.onnx"))
BOTH = ModelConfig(device="cuda:0,cuda:1")


class OnCpus:
    """ONNX Runtime's CPU in the place of every device."""

    def load(self, file: ModelFile, config: ModelConfig) -> OnnxSession:
        return OnnxBackend().load(file, replace(config, device="cpu"))


def test_one_device_is_loaded_as_ever() -> None:
    session = SeveralDevices(FakeBackend()).load(FILE, ModelConfig(device="cuda:1"))
    assert isinstance(session, FakeSession)


def test_each_device_has_a_session_of_its_own_and_all_are_closed() -> None:
    backends = FakeBackend(), FakeBackend()
    session = SeveralDevices(ByDevice(*backends)).load(FILE, BOTH)
    assert isinstance(session, SessionPerDevice)
    assert session.devices == ("cuda:0", "cuda:1")
    assert session.facts["devices"] == "cuda:0, cuda:1"
    assert list(session.sessions) == [backend.sessions[0] for backend in backends]
    opened = session.reopen(Layout(1, 1))
    assert [len(backend.sessions) for backend in backends] == [2, 2]
    session.serve(Layout(1, 1), 8)
    assert [backend.sessions[0].serves for backend in backends] == [True, True]
    session.close()
    opened.close()
    assert all(one.closed for backend in backends for one in backend.sessions)


def test_answers_are_the_same_on_every_device(tmp_path: Path) -> None:
    file = ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))
    session = SeveralDevices(OnCpus()).load(file, BOTH)
    assert isinstance(session, SessionPerDevice)
    inputs = session.sample(5)
    expected = session.run(inputs, 1)[0]
    for one in session.sessions:
        np.testing.assert_allclose(one.run(inputs, 1)[0], expected, rtol=1e-6)
    session.close()


def test_failure_names_the_device_and_leaves_nothing_open() -> None:
    good, bad = FakeBackend(), FakeBackend(load_error="there is no such device")
    with pytest.raises(ModelLoadError, match="on device cuda:1: there is no such device"):
        SeveralDevices(ByDevice(good, bad)).load(FILE, BOTH)
    assert good.sessions[0].closed


def test_kind_of_a_failure_stays() -> None:
    class Missing:
        def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
            raise ProviderUnavailable("no such provider")

    with pytest.raises(ProviderUnavailable, match="on device cuda:0"):
        SeveralDevices(Missing()).load(FILE, BOTH)


def test_devices_must_serve_the_same_model() -> None:
    good, other = FakeBackend(), FakeBackend(batchable=False)
    with pytest.raises(ModelLoadError, match=r"cuda:1 does not serve the model as cuda:0 does.* batching"):
        SeveralDevices(ByDevice(good, other)).load(FILE, BOTH)
    assert good.sessions[0].closed
    assert other.sessions[0].closed


def test_shares_of_a_device_are_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"device_slots .* leave it out"):
        SeveralDevices(ByDevice(FakeBackend(), FakeBackend())).load(FILE, replace(BOTH, device_slots=2))


def test_command_for_one_device_says_so(tmp_path: Path) -> None:
    file = ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))
    with pytest.raises(ModelLoadError, match="device names several, cuda:0,cuda:1"):
        OnnxBackend().load(file, BOTH)


def test_build_is_told_of_until_it_is_over_on_all_devices() -> None:
    backends = FakeBackend(), FakeBackend()
    session = SeveralDevices(ByDevice(*backends)).load(FILE, BOTH)
    assert session.build is None
    over, under_way = Build("swapped", "over", 3.0, 1), Build("building", "under way")
    for backend, build in zip(backends, (over, under_way), strict=True):
        backend.sessions[0].build = build
    assert session.build == under_way
    backends[1].sessions[0].build = over
    assert session.build == over


def test_starts_of_all_processes_are_counted() -> None:
    backends = FakeBackend(), FakeBackend()
    session = SeveralDevices(ByDevice(*backends)).load(FILE, BOTH)
    for backend, restarts in zip(backends, ("1", "2"), strict=True):
        backend.sessions[0].facts = {"restarts": restarts}
    assert session.facts["restarts"] == "3"


def test_other_kinds_of_devices_keep_their_threads() -> None:
    layouts = []

    class Noting(FakeSession):
        def reopen(self, layout: Layout) -> FakeSession:
            layouts.append(layout)
            return self

    backend = FakeBackend()
    first, other = Noting(backend, (Layout(1, 1),)), Noting(backend, (Layout(1, 6),))
    first.providers, other.providers = ("CUDAExecutionProvider",), ("CPUExecutionProvider",)
    SessionPerDevice(("cuda:0", "cpu"), (first, other)).reopen(Layout(2, 1, is_staged=True))
    assert layouts == [Layout(2, 1, is_staged=True), Layout(2, 6)]
    assert first.batchability == Batchability(True, "the test says so")
