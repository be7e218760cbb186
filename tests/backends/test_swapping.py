"""A model serves on the next provider while its first one is built, and changes only to what answers the same."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.providers import WAIT_S, Answer, Provider, Providers

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.fake import FakeBackend, FakeSession
from batchserve.backends.swapping import SwappingBackend, SwappingSession
from batchserve.config import ModelConfig
from batchserve.core.tensors import Array
from batchserve.errors import BackendError, ModelLoadError, ProviderUnavailable

FILE = ModelFile("m", 1, Path("m.onnx"))


class Noting(FakeBackend):
    """Keeps what it was to load by."""

    def __init__(self) -> None:
        super().__init__()
        self.configs: list[ModelConfig] = []

    def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
        self.configs.append(config)
        return super().load(file, config)


def opened(backend: FakeBackend, **config: object) -> SwappingSession:
    settings = {"providers": ("openvino", "cpu"), "build": "background", **config}
    session = SwappingBackend(backend).load(FILE, ModelConfig(**settings))  # type: ignore[arg-type]
    assert isinstance(session, SwappingSession)
    return session


def ones(rows: int = 1) -> list[Array]:
    return [np.ones((rows, 4), np.float32)]


def test_serves_at_once_and_changes_when_the_build_is_done() -> None:
    gate = threading.Event()
    backend = Providers(build_gate=gate)
    session = opened(backend)
    assert session.build.state == "waiting"
    session.serve(Layout(1, 1), 8)
    assert session.providers == ("cpu",)
    assert session.run(ones(), 1)[0].tolist() == [[2.0] * 4]
    gate.set()
    assert session.wait(WAIT_S)
    assert session.providers == ("openvino",)
    assert (session.build.state, session.build.swaps) == ("swapped", 1)
    assert session.facts["build"].startswith("swapped")
    assert session.run(ones(), 1)[0].tolist() == [[2.0] * 4]
    assert [one.closed for one in backend.sessions] == [True, False]
    session.close()
    assert all(one.closed for one in backend.sessions)


def test_run_that_began_before_the_change_ends_on_the_old_session() -> None:
    backend = Providers()
    session = opened(backend)
    old = backend.sessions[0]
    assert isinstance(old, Provider)
    inside, go_on = threading.Event(), threading.Event()

    def slow(inputs: Sequence[Array]) -> list[Array]:
        if len(inputs[0]) == 5:
            inside.set()
            assert go_on.wait(WAIT_S)
            assert not old.closed, "it is closed under a run"
        return [inputs[0] * 2]

    old.answer = slow
    answers: list[Array] = []
    runner = threading.Thread(target=lambda: answers.extend(session.run(ones(5), 1)))
    runner.start()
    assert inside.wait(WAIT_S)
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert session.build.state == "swapped"
    assert not old.closed
    go_on.set()
    runner.join()
    assert answers[0].shape == (5, 4)
    assert old.closed
    session.close()


def test_only_the_session_that_a_run_is_in_is_interrupted() -> None:
    """An isolated one is killed by that, with all that runs in it."""
    inside, go_on = [threading.Event(), threading.Event()], threading.Event()

    def answer(number: int) -> Answer:
        def answered(inputs: Sequence[Array]) -> list[Array]:
            if len(inputs[0]) == 5:
                inside[number].set()
                assert go_on.wait(WAIT_S)
            return [inputs[0] * 2]

        return answered

    backend = Providers(answer(1))
    session = opened(backend)
    before = backend.sessions[0]
    assert isinstance(before, Provider)
    before.answer = answer(0)
    runners = [threading.Thread(target=session.run, args=(ones(5), 1)) for _ in inside]
    runners[0].start()
    assert inside[0].wait(WAIT_S)
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert session.build.state == "swapped", session.build.why
    runners[1].start()
    assert inside[1].wait(WAIT_S)
    session.interrupt(runners[0].ident or 0)
    assert backend.interrupted == [runners[0].ident]
    go_on.set()
    for runner in runners:
        runner.join()
    session.close()


@pytest.mark.parametrize(
    ("backend", "state", "why"),
    [
        (Providers(trouble=ModelLoadError("no engine for this graph")), "failed", "no engine for this graph"),
        (Providers(trouble=BackendError("it runs out of memory")), "failed", "out of memory"),
        (Providers(trouble=ZeroDivisionError("a bug")), "failed", "a bug in the server"),
        (Providers(lambda inputs: [inputs[0] * 2.2]), "refused", "for random inputs its output 0 is another"),
        (Providers(lambda inputs: [inputs[0][:, :2]]), "refused", r"output 0 is float32\[1, 2\] in place of"),
        (Providers(lambda inputs: [inputs[0].astype(np.float64)]), "refused", "output 0 is float64"),
        (Providers(lambda inputs: [inputs[0] * np.nan]), "refused", "elements differ"),
    ],
)
def test_build_that_fails_or_answers_otherwise_changes_nothing(backend: Providers, state: str, why: str) -> None:
    backend.sessions.clear()
    session = opened(backend)
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert session.build.state == state
    assert re.search(why, session.build.why)
    assert session.providers == ("cpu",)
    assert session.run(ones(), 1)[0].tolist() == [[2.0] * 4]
    assert [one.closed for one in backend.sessions] == [False, True][: len(backend.sessions)]
    session.close()


def test_wrong_answers_that_only_real_inputs_show_are_found() -> None:
    """Random inputs are small; what was recorded while the build ran is not."""
    gate = threading.Event()
    backend = Providers(lambda inputs: [np.minimum(inputs[0] * 2, 1000)], build_gate=gate)
    session = opened(backend)
    session.serve(Layout(1, 1), 8)
    large = [np.full((1, 4), 700, np.float32)]
    session.run(large, 1)
    large[0][:] = 0  # the buffer of a body is used again
    gate.set()
    assert session.wait(WAIT_S)
    assert session.build.state == "refused"
    assert "for recorded inputs its output 0 is another" in session.build.why
    session.close()


def test_slower_session_is_refused() -> None:
    def slowly(inputs: Sequence[Array]) -> list[Array]:
        time.sleep(0.003)  # the time that it computes
        return [inputs[0] * 2]

    session = opened(Providers(slowly))
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert session.build.state == "refused"
    assert "times as long as cpu" in session.build.why
    session.close()


def test_one_slow_try_on_a_busy_machine_speaks_against_nobody() -> None:
    runs = 0

    def slowly_at_first(inputs: Sequence[Array]) -> list[Array]:
        nonlocal runs
        runs += 1
        if runs <= 4 + 2 * 7:  # the questions, and the first try's runs
            time.sleep(0.003)
        return [inputs[0] * 2]

    session = opened(Providers(slowly_at_first))
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert session.build.state == "swapped", session.build.why
    session.close()


def test_rows_that_behave_otherwise_are_refused() -> None:
    class Moody(Providers):
        def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
            self.batchable = config.providers[0] == "cpu"
            return super().load(file, config)

    session = opened(Moody())
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert "its rows behave otherwise" in session.build.why
    session.close()


def test_model_that_leaves_while_it_is_built_leaves_nothing() -> None:
    gate = threading.Event()
    backend = Providers(build_gate=gate)
    session = opened(backend)
    session.serve(Layout(1, 1), 8)
    session.close()
    gate.set()
    assert session.wait(WAIT_S)
    assert all(one.closed for one in backend.sessions)
    assert session.build.swaps == 0
    with pytest.raises(BackendError, match="closed"):
        session.run(ones(), 1)


@pytest.mark.parametrize(
    ("config", "is_beside"),
    [
        ({"providers": ("tensorrt", "cuda")}, True),
        ({"providers": ("TensorrtExecutionProvider", "cuda"), "build": "wait"}, False),
        ({"providers": ("cuda", "cpu")}, False),
        ({"providers": ("cuda",), "build": "background"}, True),
        ({"providers": ("cpu",), "build": "background"}, False),
        ({"providers": ("auto",), "build": "background"}, False),
    ],
)
def test_which_providers_are_built_beside(config: dict[str, object], is_beside: bool) -> None:
    backend = Noting()
    options = (("cpu", ()), ("tensorrt", (("a", "b"),)))
    session = SwappingBackend(backend).load(FILE, ModelConfig(**config, provider_options=options))  # type: ignore[arg-type]
    assert isinstance(session, SwappingSession) == is_beside
    if is_beside and "tensorrt" in str(config).lower():
        assert backend.configs[-1].providers == ("cuda",)
        assert backend.configs[-1].provider_options == (("cpu", ()),), "options of what is left out would reach nobody"


def test_provider_that_the_runtime_does_not_have_is_an_error_at_load_unless_the_cpu_may_take_its_place() -> None:
    inner = Providers()
    backend = SwappingBackend(inner, lambda: ["CPUExecutionProvider"])
    config = ModelConfig(providers=("openvino", "cpu"), build="background")
    with pytest.raises(ProviderUnavailable, match="'openvino' is not in the installed ONNX Runtime"):
        backend.load(FILE, config)
    assert not inner.sessions
    assert not isinstance(backend.load(FILE, replace(config, fallback="cpu")), SwappingSession)


@pytest.mark.parametrize(
    ("answer", "state"), [(lambda inputs: [inputs[0] * 2], "swapped"), (lambda inputs: [inputs[0] * 3], "declined")]
)
def test_what_auto_brings_in_proves_itself_beside_the_serving(answer: Answer, state: str) -> None:
    backend = SwappingBackend(Providers(answer), lambda: ["OpenVINOExecutionProvider", "CPUExecutionProvider"])
    session = backend.load(FILE, ModelConfig())
    assert isinstance(session, SwappingSession)
    assert session.providers == ("cpu",)
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert session.build.state == state, session.build.why
    assert session.providers == ("cpu" if state == "declined" else "OpenVINOExecutionProvider",)
    session.close()


@pytest.mark.parametrize(
    ("config", "available"),
    [
        ({}, ["AzureExecutionProvider", "CPUExecutionProvider"]),
        ({"build": "wait"}, ["OpenVINOExecutionProvider", "CPUExecutionProvider"]),
        ({"device": "cpu"}, ["OpenVINOExecutionProvider", "CPUExecutionProvider"]),
        ({"providers": ("cpu",)}, ["OpenVINOExecutionProvider", "CPUExecutionProvider"]),
        ({"cuda_graphs": True}, ["OpenVINOExecutionProvider", "CPUExecutionProvider"]),
        ({"staging": "on"}, ["OpenVINOExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_auto_builds_nothing_where_nothing_may_be_tried(config: dict[str, object], available: list[str]) -> None:
    session = SwappingBackend(FakeBackend(), lambda: available).load(FILE, ModelConfig(**config))  # type: ignore[arg-type]
    assert not isinstance(session, SwappingSession)


def test_what_must_be_on_the_first_provider_need_not_be_before() -> None:
    class Noting(FakeBackend):
        def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
            configs.append(config)
            return super().load(file, config)

    configs: list[ModelConfig] = []
    config = ModelConfig(providers=("cuda",), build="background", cuda_graphs=True, staging="on")
    SwappingBackend(Noting()).load(FILE, config).close()
    assert [(one.providers, one.cuda_graphs, one.staging) for one in configs] == [(("cpu",), False, "auto")]


def test_session_that_fell_back_to_another_provider_takes_no_place() -> None:
    class Falling(Providers):
        def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
            session = super().load(file, config)
            session.providers = ("CPUExecutionProvider",)
            return session

    session = opened(Falling(), fallback="cpu")
    session.serve(Layout(1, 1), 8)
    assert session.wait(WAIT_S)
    assert session.build.state == "refused"
    assert session.build.why == "openvino is not used: it could not be started, and CPUExecutionProvider took its place"
    session.close()


def test_model_on_a_numbered_device_serves_there_meanwhile() -> None:
    backend = Noting()
    SwappingBackend(backend).load(FILE, ModelConfig(providers=("tensorrt",), device="cuda:1"))
    assert (backend.configs[-1].providers, backend.configs[-1].device) == (("CUDAExecutionProvider",), "cuda:1")
    SwappingBackend(backend).load(FILE, ModelConfig(providers=("tensorrt", "cpu"), device="cuda:1"))
    assert (backend.configs[-1].providers, backend.configs[-1].device) == (("cpu",), None)


def test_build_is_told_how_many_batches_run_at_once() -> None:
    class Seen(Providers):
        config: ModelConfig

        def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
            self.config = config
            return super().load(file, config)

    backend = Seen()
    session = opened(backend)
    session.serve(Layout(3, 1), 8)
    assert session.wait(WAIT_S)
    assert backend.config.instances == 3
    session.close()


def test_session_opened_again_has_the_same_build_before_it() -> None:
    backend = Providers()
    backend.sessions.clear()
    session = opened(backend)
    again = session.reopen(Layout(1, 1))
    assert again.build.state == "waiting"
    session.close()
    again.close()
