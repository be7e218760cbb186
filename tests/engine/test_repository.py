"""Loading, replacing, failing and leaving."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.core_requests import make_request

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend, FakeSession
from batchserve.config import ModelConfig
from batchserve.core.request import Request
from batchserve.engine.events import NullListener
from batchserve.engine.model import Model
from batchserve.engine.repository import Repository
from batchserve.engine.sources import find_models
from batchserve.errors import ConfigError, Draining, ModelLoadError, ModelNotFound, ModelNotReady

QUICK = ModelConfig(warmup_budget_s=0.0)


class States(NullListener):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str, str]] = []

    def model_state(self, name: str, version: int, state: str, reason: str, model: Model | None) -> None:
        self.seen.append((name, version, state, reason))
        assert (model is not None) == (state in {"READY", "UNLOADING"} or reason in {"unloaded", "replaced"}) or (
            state == "UNAVAILABLE"
        )


class PickyBackend(FakeBackend):
    """Fails for the versions or names in `bad`."""

    def __init__(self, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.bad: set[object] = set()

    def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
        if file.version in self.bad or file.name in self.bad:
            raise ModelLoadError("it is broken")
        return super().load(file, config)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


Serve = Callable[..., Repository]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Make a repository over tmp_path; drained after the test, and nothing of it is left."""
    made: list[tuple[Repository, FakeBackend]] = []

    def make(backend: FakeBackend, config: Callable[[], ModelConfig] = lambda: QUICK, **more: object) -> Repository:
        repository = Repository(find_models([tmp_path]), lambda source: config(), backend, **more)  # type: ignore[arg-type]
        made.append((repository, backend))
        return repository

    yield make
    for repository, backend in made:
        if backend.gate is not None:
            backend.gate.set()
        await repository.drain(0.0)
        assert all(session.closed for session in backend.sessions), "memory is given back"
    assert asyncio.all_tasks() == {asyncio.current_task()}


def request(value: int = 0) -> Request:
    return make_request(value=value, arrival_s=time.monotonic())


def states(repository: Repository) -> dict[str, str]:
    return {f"{entry.name}/{entry.version}": entry.state for entry in repository.index()}


async def test_latest_version_serves_by_default(serve: Serve, tmp_path: Path) -> None:
    for version in (1, 2, 10):
        touch(tmp_path / "net" / str(version) / "model.onnx")
    repository = serve(FakeBackend())
    await repository.load_all()
    assert repository.get("net").version == 10
    assert repository.get("net", "10") is repository.get("net")
    assert states(repository) == {"net/10": "READY"}
    assert repository.readiness() == ""


async def test_policy_makes_several_versions_addressable(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net" / "1" / "model.onnx")
    touch(tmp_path / "net" / "2" / "model.onnx")
    repository = serve(FakeBackend(), lambda: ModelConfig(warmup_budget_s=0.0, version_policy="all"))
    await repository.load_all()
    assert [repository.get("net", version).version for version in ("1", "2", "")] == [1, 2, 2]
    assert repository.versions("net") == [1, 2]
    assert len(repository.models()) == 2


@pytest.mark.parametrize("version", ["3", "01", "-1", "x", "1.0", "٣", "9" * 30, "9" * 5000])
async def test_unknown_version_is_not_found(serve: Serve, tmp_path: Path, version: str) -> None:
    touch(tmp_path / "net" / "1" / "model.onnx")
    repository = serve(FakeBackend())
    await repository.load_all()
    with pytest.raises(ModelNotFound, match="has no version"):
        repository.get("net", version)
    with pytest.raises(ModelNotFound, match="'nat' is not known"):
        repository.get("nat", version)


async def test_failed_model_keeps_its_reason_and_the_others_serve(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "bad.onnx")
    touch(tmp_path / "good.onnx")
    backend = PickyBackend()
    backend.bad = {"bad"}
    listener = States()
    repository = serve(backend, listeners=[listener])
    await repository.load_all()
    assert repository.get("good").name == "good"
    with pytest.raises(ModelNotReady, match="it is broken"):
        repository.get("bad")
    with pytest.raises(ModelNotReady, match="it is broken"):
        repository.get("bad", "1")
    assert states(repository) == {"bad/1": "UNAVAILABLE", "good/1": "READY"}
    assert repository.readiness() == "model 'bad': it is broken"
    assert listener.seen[:2] == [("bad", 1, "LOADING", ""), ("bad", 1, "UNAVAILABLE", "it is broken")]


async def test_allow_partial_is_ready_with_what_loaded(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "bad.onnx")
    touch(tmp_path / "good.onnx")
    backend = PickyBackend()
    backend.bad = {"bad"}
    repository = serve(backend, allow_partial=True)
    assert "loading" in repository.readiness()
    await repository.load_all()
    assert repository.readiness() == ""


async def test_allow_partial_with_nothing_loaded_is_not_ready(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "bad.onnx")
    repository = serve(FakeBackend(load_error="it is broken"), allow_partial=True)
    await repository.load_all()
    assert "it is broken" in repository.readiness()


async def test_not_ready_and_loading_until_the_load_is_done(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net.onnx")
    gate = threading.Event()
    backend = FakeBackend(load_gate=gate)
    repository = serve(backend)
    task = asyncio.create_task(repository.load_all())
    while not backend.files:  # noqa: ASYNC110  # turns of the loop until the loader thread is inside
        await asyncio.sleep(0)
    assert states(repository) == {"net/1": "LOADING"}
    with pytest.raises(ModelNotReady, match="LOADING"):
        repository.get("net")
    assert repository.readiness()
    gate.set()
    await task
    assert repository.readiness() == ""


async def test_reload_replaces_atomically_and_the_old_version_finishes_its_work(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net.onnx")
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    listener = States()
    repository = serve(backend, listeners=[listener])
    await repository.load_all()
    old = repository.get("net")
    running = asyncio.create_task(old.infer(request(1)))
    await asyncio.to_thread(backend.wait_for_runs, 1)
    waiting = asyncio.create_task(old.infer(request(2)))
    await asyncio.sleep(0)
    await repository.load("net")
    new = repository.get("net")
    assert new is not old
    assert not backend.sessions[0].closed, "memory is released after the last run"
    fresh = asyncio.create_task(new.infer(request(3)))
    gate.set()
    answers = await asyncio.gather(running, waiting, fresh)
    assert [int(answer.outputs[0][0, 0]) for answer in answers] == [1, 2, 3]
    assert [state for _, _, state, _ in listener.seen] == ["LOADING", "READY", "READY"]


async def test_reload_takes_up_a_new_version_and_lets_the_old_one_go(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net" / "1" / "model.onnx")
    repository = serve(FakeBackend())
    await repository.load_all()
    touch(tmp_path / "net" / "2" / "model.onnx")
    await repository.load("net")
    assert repository.get("net").version == 2
    with pytest.raises(ModelNotReady, match="no longer chosen"):
        repository.get("net", "1")
    assert repository.readiness() == ""


async def test_failed_reload_leaves_what_serves_serving(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net" / "1" / "model.onnx")
    backend = PickyBackend()
    repository = serve(backend, lambda: ModelConfig(warmup_budget_s=0.0, version_policy="all"))
    await repository.load_all()
    old = repository.get("net")
    touch(tmp_path / "net" / "2" / "model.onnx")
    touch(tmp_path / "net" / "3" / "model.onnx")
    backend.bad = {3}
    with pytest.raises(ModelLoadError, match="version 3: it is broken"):
        await repository.load("net")
    assert repository.get("net") is old
    assert states(repository) == {"net/1": "READY", "net/2": "UNAVAILABLE", "net/3": "UNAVAILABLE"}
    assert (await old.infer(request(4))).outputs[0][0, 0] == 4


async def test_configuration_error_on_reload_keeps_paths_from_clients(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net.onnx")
    problems: list[ConfigError] = []

    def config() -> ModelConfig:
        if problems:
            raise problems[0]
        return QUICK

    repository = serve(FakeBackend(), config)
    await repository.load_all()
    problems.append(ConfigError(f"{tmp_path}/model.toml: unknown key"))
    with pytest.raises(ModelLoadError) as caught:
        await repository.load("net")
    assert str(tmp_path) not in str(caught.value)
    assert repository.get("net")


async def test_unloaded_model_is_unavailable_and_can_be_loaded_again(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net.onnx")
    backend = FakeBackend()
    repository = serve(backend)
    await repository.load_all()
    await repository.unload("net")
    with pytest.raises(ModelNotReady):
        repository.get("net")
    assert repository.readiness() == "", "it was taken out on purpose"
    await repository.unload("net")
    await repository.load("net")
    assert (await repository.get("net").infer(request(1))).outputs[0][0, 0] == 1
    with pytest.raises(ModelNotFound):
        await repository.unload("other")


async def test_model_named_stats_is_refused(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "stats.onnx")
    repository = serve(FakeBackend())
    await repository.load_all()
    assert "cannot be named 'stats'" in repository.readiness()


async def test_folder_without_a_version_says_so(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net" / "model.toml")
    repository = serve(FakeBackend())
    await repository.load_all()
    (entry,) = repository.index()
    assert (entry.name, entry.version, entry.state) == ("net", "", "UNAVAILABLE")
    assert "no version was found" in entry.reason


async def test_failed_warm_up_fails_the_load_and_gives_the_memory_back(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net.onnx")
    backend = FakeBackend(fails=lambda inputs: True)
    repository = serve(backend, ModelConfig)
    await repository.load_all()
    assert "warm-up run of one random row failed" in repository.readiness()
    assert backend.sessions[0].closed


async def test_drained_repository_refuses_with_draining_and_finishes_what_it_has(serve: Serve, tmp_path: Path) -> None:
    touch(tmp_path / "net.onnx")
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    repository = serve(backend)
    await repository.load_all()
    running = asyncio.create_task(repository.get("net").infer(request(1)))
    await asyncio.to_thread(backend.wait_for_runs, 1)
    drain = asyncio.create_task(repository.drain(30.0))
    await asyncio.sleep(0)
    assert repository.readiness() == "the server is shutting down"
    with pytest.raises(Draining):
        await repository.get("net").infer(request(2))
    gate.set()
    await drain
    assert (await running).outputs[0][0, 0] == 1
    with pytest.raises(Draining):
        await repository.get("net").infer(request(3))
