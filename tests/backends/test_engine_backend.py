"""Models on TensorRT, with a stand-in for its runtime: what it is given, who builds engines, when it takes over."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support import onnx_models as models
from support import sequence_models
from support.tensorrt_runtime import CPU, CUDA, PROFILE, TENSORRT, TensorRTRuntime

from batchserve.backends import objections, preferences, providers, recent_runs, runtime
from batchserve.backends.base import Layout, ModelFile, Session
from batchserve.backends.engine_backend import EngineBackend, SessionEach
from batchserve.backends.fake import FakeBackend
from batchserve.backends.onnx import OnnxBackend
from batchserve.backends.swapping import SwappingBackend, SwappingSession
from batchserve.config import ModelConfig, PadConfig
from batchserve.core.tensors import Array
from batchserve.errors import ModelLoadError

WAIT_S = 20.0
ENCODER_PAD = PadConfig(axes=(("input_ids", 1), ("attention_mask", 1)), mask="attention_mask", multiple=8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> TensorRTRuntime:
    made = TensorRTRuntime()
    monkeypatch.setattr(runtime, "require_runtime", lambda: made)
    monkeypatch.setattr(objections, "MAX_SLOWER", 1000.0)  # both are the CPU: what differs is noise
    return made


class Backends:
    """The chain of a server, with what is loaded apart written down.

    Attributes:
        apart: Configurations that were loaded in a process of their own.
        gate: Such a load waits until it is set.
    """

    def __init__(self, root: Path) -> None:
        self.apart: list[ModelConfig] = []
        self.gate = threading.Event()
        self.gate.set()
        self.machine = {"gpu": "H100"}
        self.engines = EngineBackend(OnnxBackend(), root / "engines", lambda number: self.machine, self._load_apart)
        self.whole = SwappingBackend(self.engines, profile_file=self.engines.profile_file)

    def _load_apart(self, file: ModelFile, config: ModelConfig) -> None:
        assert self.gate.wait(WAIT_S)
        self.apart.append(config)
        OnnxBackend().load(file, config).close()


@pytest.fixture
def backends(tmp_path: Path, fake: TensorRTRuntime) -> Backends:
    return Backends(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    return ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))


def config(**keys: object) -> ModelConfig:
    return ModelConfig(**{"providers": ("tensorrt", "cuda"), **keys})  # type: ignore[arg-type]


def options(fake: TensorRTRuntime) -> list[dict[str, str]]:
    """Those of the sessions on TensorRT."""
    return [own for providers, own in fake.opened if providers[0] == TENSORRT]


def swapping(session: Session) -> SwappingSession:
    assert isinstance(session, SwappingSession)
    return session


def test_model_serves_on_cuda_at_once_and_on_tensorrt_when_its_engine_is_there(
    backends: Backends, fake: TensorRTRuntime, file: ModelFile
) -> None:
    backends.gate.clear()
    session = swapping(backends.whole.load(file, config(providers=("tensorrt",), max_batch_size=16)))
    assert session.providers == (CUDA, CPU)
    before = session.run(session.sample(3), 1)
    session.serve(Layout(1, 1), 16)
    assert session.run(session.sample(3), 1)[0].tolist() == before[0].tolist()
    backends.gate.set()
    assert session.wait(WAIT_S)
    assert session.build.state == "swapped", session.build.why
    assert session.providers == (TENSORRT, CUDA, CPU)
    assert session.run(session.sample(16), 1)[0].shape == (16, 4)
    session.close()


def test_auto_tries_tensorrt_where_its_library_loads(
    backends: Backends, fake: TensorRTRuntime, file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "cuda_devices", lambda: 1)
    monkeypatch.setattr(preferences, "tensorrt_version", lambda: "10.9.0")
    monkeypatch.setattr(providers, "cuda_devices", lambda: 1)
    whole = SwappingBackend(backends.engines, fake.get_available_providers)
    session = swapping(whole.load(file, ModelConfig()))
    assert session.providers == (CUDA, CPU)
    session.serve(Layout(1, 1), 32)
    assert session.wait(WAIT_S)
    assert session.build.state == "swapped", session.build.why
    assert session.providers == (TENSORRT, CUDA, CPU)
    session.close()


def test_engine_is_built_once_in_a_process_of_its_own_and_kept(
    backends: Backends, fake: TensorRTRuntime, file: ModelFile
) -> None:
    backends.engines.load(file, config()).close()
    assert len(backends.apart) == len(fake.built) == 1
    first, second = options(fake)
    assert first == second, "this process reads what the other wrote"
    assert first["trt_profile_max_shapes"] == "x:32x16"
    backends.engines.load(file, config()).close()
    assert len(backends.apart) == len(fake.built) == 1
    backends.engines.load(file, config(max_batch_size=64)).close()
    backends.machine["gpu"] = "A100"
    backends.engines.load(file, config()).close()
    assert len(backends.apart) == len(fake.built) == 3


def test_engine_that_cannot_be_marked_as_built_is_used_all_the_same(
    tmp_path: Path, fake: TensorRTRuntime, file: ModelFile
) -> None:
    """As where the disk is full, or the folder was deleted during the minutes of a build."""

    def build(_: ModelFile, config: ModelConfig) -> None:
        options = dict(config.provider_options[-1][1])
        (Path(options["trt_engine_cache_path"]) / "built").symlink_to("nowhere/built")

    engines = EngineBackend(OnnxBackend(), tmp_path / "engines", lambda number: {}, build)
    engines.load(file, config()).close()
    assert len(fake.built) == 1


def test_what_sessions_say_of_their_workers_is_added_up() -> None:
    backend = FakeBackend()
    sessions = [backend.open((Layout(1, 1),)) for _ in range(2)]
    both = SessionEach(sessions)
    assert "restarts" not in both.facts
    for session in sessions:
        session.facts = {"restarts": "2"}
    assert (both.facts["restarts"], both.facts["sessions"]) == ("4", "2")


def test_model_in_a_worker_of_its_own_builds_there(backends: Backends, file: ModelFile) -> None:
    backends.engines.load(file, config(isolation="process")).close()
    assert not backends.apart


def test_reduced_precision_is_handed_over_and_has_an_engine_of_its_own(
    backends: Backends, fake: TensorRTRuntime, file: ModelFile
) -> None:
    half = (("tensorrt", (("trt_fp16_enable", "True"),)),)
    backends.engines.load(file, config()).close()
    backends.engines.load(file, config(provider_options=half)).close()
    assert [own.get("trt_fp16_enable") for own in options(fake)] == [None, None, "True", "True"]
    assert len(set(fake.built)) == 2


def test_flag_that_the_runtime_cannot_read_is_an_error_with_its_words(backends: Backends, file: ModelFile) -> None:
    bad = (("tensorrt", (("trt_fp16_enable", "1"),)),)
    with pytest.raises(ModelLoadError, match="'trt_fp16_enable' should be 'True' or 'False'"):
        backends.engines.load(file, config(provider_options=bad))


def test_each_instance_has_a_session(backends: Backends, fake: TensorRTRuntime, file: ModelFile) -> None:
    session = backends.engines.load(file, config(instances=3))
    assert isinstance(session, SessionEach)
    assert session.layouts == (Layout(3, 1),)
    assert len(options(fake)) == 1 + 3, "one of them apart"
    assert session.run(session.sample(2), 1)[0].shape == (2, 4)
    session.close()


def test_swap_opens_as_many_sessions_as_batches_run_at_once(backends: Backends, file: ModelFile) -> None:
    session = swapping(backends.whole.load(file, config()))
    session.serve(Layout(2, 1), 32)
    assert session.wait(WAIT_S)
    assert (session.build.state, session.facts["sessions"]) == ("swapped", "2")
    session.close()


class Encoder:
    """A padded model that serves on CUDA while its engine waits for lengths."""

    def __init__(self, backends: Backends, folder: Path, **keys: object) -> None:
        path = models.save(sequence_models.mean_encoder(), folder / "encoder.onnx")
        loaded = backends.whole.load(ModelFile("encoder", 1, path), config(**keys))
        self.session = swapping(loaded)

    def ask(self, rows: int, length: int) -> Array:
        return self.session.run(self.session.sample(rows, length), 1)[0]


def test_lengths_are_learnt_from_requests_and_others_stay_where_they_were(
    backends: Backends, fake: TensorRTRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_runs, "SHAPES", 4)
    encoder = Encoder(backends, tmp_path)
    session = encoder.session
    session.serve(Layout(1, 1), 8)
    for length in (20, 24, 28, 50):
        until(lambda: session.build.why.endswith("which lengths there are"))
        encoder.ask(2, length)
    assert session.wait(WAIT_S)
    assert session.build.state == "swapped", session.build.why
    assert session.build.why.endswith("lengths that it was not built for stay on CUDAExecutionProvider")
    least, usual, most = (options(fake)[-1][name].split(",")[0].partition("x")[2] for name in PROFILE)
    assert (usual, most) == ("24", "64")
    assert int(least) <= 20
    assert session.providers[0] == TENSORRT
    assert encoder.ask(8, 64).shape[0] == encoder.ask(1, 200).shape[0] + 7, "the stand-in fails outside of its profile"
    session.close()
    again = Encoder(backends, tmp_path).session
    again.serve(Layout(1, 1), 8)
    assert again.wait(WAIT_S)
    assert again.build.state == "swapped"
    assert len(fake.built) == 1, "the next start waits for nobody and builds nothing"
    again.close()
    larger = Encoder(backends, tmp_path).session
    larger.serve(Layout(1, 1), 16)
    until(lambda: larger.is_learning)
    larger.close()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"trt_profile_min_shapes": 1}', None])
def test_lengths_that_were_kept_but_cannot_be_used_are_learnt_anew(
    backends: Backends, tmp_path: Path, content: str | None
) -> None:
    encoder = Encoder(backends, tmp_path)
    kept = backends.engines.profile_file(encoder.session._file, encoder.session._config, 8)
    assert kept is not None
    kept.parent.mkdir(parents=True)
    if content is None:
        kept.mkdir()
    else:
        kept.write_text(content)
    encoder.session.serve(Layout(1, 1), 8)
    until(lambda: encoder.session.is_learning)
    encoder.session.close()


def until(condition: object) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_model_that_leaves_before_any_request_came_ends_the_wait(backends: Backends, tmp_path: Path) -> None:
    encoder = Encoder(backends, tmp_path)
    encoder.session.serve(Layout(1, 1), 8)
    until(lambda: encoder.session.build.why.endswith("which lengths there are"))
    assert encoder.session.build.state == "waiting"
    encoder.session.close()
    assert encoder.session.wait(WAIT_S)
    assert encoder.session.build.state == "waiting"


def test_configured_profile_waits_for_nobody(backends: Backends, fake: TensorRTRuntime, tmp_path: Path) -> None:
    shapes = ("1x1", "8x32", "8x128")
    own = tuple(
        (name, f"input_ids:{shape},attention_mask:{shape}") for name, shape in zip(PROFILE, shapes, strict=True)
    )
    encoder = Encoder(backends, tmp_path, provider_options=(("tensorrt", own),))
    encoder.session.serve(Layout(1, 1), 8)
    assert encoder.session.wait(WAIT_S)
    assert encoder.session.build.state == "swapped", encoder.session.build.why
    assert {name: options(fake)[-1][name] for name in PROFILE} == dict(own)
    assert encoder.ask(1, 500).shape[0] == 1
    encoder.session.close()


def test_free_length_without_requests_to_learn_from_is_an_error_at_load(backends: Backends, tmp_path: Path) -> None:
    path = models.save(sequence_models.mean_encoder(), tmp_path / "encoder.onnx")
    with pytest.raises(ModelLoadError, match="axis 1 of input 'input_ids' may have any"):
        backends.whole.load(ModelFile("encoder", 1, path), config(build="wait"))


def test_other_providers_are_not_touched() -> None:
    inner = FakeBackend()
    backend = EngineBackend(inner, Path("nowhere"), lambda number: {}, lambda file, config: None)
    for asked in (("cuda", "tensorrt"), ("cpu",), ("auto",)):
        assert backend.load(ModelFile("m", 1, Path("m.onnx")), ModelConfig(providers=asked)) is inner.sessions[-1]


def test_engines_that_cannot_be_kept_are_an_error_that_says_so(
    tmp_path: Path, fake: TensorRTRuntime, file: ModelFile
) -> None:
    (tmp_path / "engines").write_text("a file in the way")
    with pytest.raises(ModelLoadError, match=r"its engines cannot be kept: .*; set server.cache_dir"):
        Backends(tmp_path).engines.load(file, config())


def test_sessions_of_one_model_run_side_by_side_and_are_closed_together() -> None:
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    sessions = [backend.open((Layout(1, 1),)) for _ in range(2)]
    both = SessionEach(sessions)
    runners = [threading.Thread(target=both.run, args=([np.zeros((1, 4), np.int64)], 1)) for _ in range(2)]
    for runner in runners:
        runner.start()
    assert backend.wait_for_runs(2, WAIT_S), "the second waits for the first"
    both.interrupt(runners[0].ident or 0)
    assert backend.interrupted == [runners[0].ident], "a worker would be killed, whatever runs in it"
    gate.set()
    for runner in runners:
        runner.join()
    both.close()
    assert all(session.closed for session in sessions)
