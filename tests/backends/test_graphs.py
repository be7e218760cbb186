"""Graphs of batch sizes, on the host's memory: addresses and shapes are as fixed as a captured graph needs them."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import onnx_models as models
from support.answers import same, same_error
from support.host_device import HostDevice
from support.slow_model import slow_echo

from batchserve.backends import graphs, onnx, providers
from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.cuda import CudaError
from batchserve.backends.onnx import OnnxBackend, OnnxSession
from batchserve.config import DeclaredTensor, ModelConfig
from batchserve.errors import ModelLoadError

Load = Callable[..., OnnxSession]
SIZES = (2, 5, 8)
WAIT_S = 10.0
WITH_GRAPHS = providers.with_graphs


@pytest.fixture(autouse=True)
def device() -> Iterator[HostDevice]:
    """What graphs are captured on: the CPU, which `cuda_graphs` otherwise refuses."""
    host = HostDevice()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "device_of", lambda names, number: host)
        patch.setattr(providers, "with_graphs", lambda configured, wanted: configured)
        yield host


class Runtime:
    """A runtime's session that replays as strictly as CUDA's: it notes graphs, addresses and threads."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seen: list[tuple[str, tuple[Any, ...]]] = []
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Any, feeds: Any, options: Any) -> Any:
        self._note(options, ())
        return self._session.run(names, feeds, options)

    def io_binding(self) -> Any:
        """Note what is bound where."""
        binding = self._session.io_binding()
        binding.places = {}
        for kind in ("bind_input", "bind_output"):
            setattr(binding, kind, self._noting(binding, getattr(binding, kind)))
        return binding

    def _noting(self, binding: Any, bind: Callable[..., None]) -> Callable[..., None]:
        def call(name: str, *place: Any) -> None:
            binding.places[name] = place
            bind(name, *place)

        return call

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self._note(options, tuple(binding.places.items()))
        self._session.run_with_iobinding(binding, options)

    def _note(self, options: Any, place: tuple[Any, ...]) -> None:
        graph = "" if options is None else options.get_run_config_entry("gpu_graph_id")
        self.threads.add(threading.get_ident())
        self.seen.append((graph, place))

    def check(self) -> None:
        """Every graph was run at one place only, and on one thread."""
        places: dict[str, set[Any]] = {}
        for graph, place in self.seen:
            places.setdefault(graph, set()).add(place)
        captured = {graph: at for graph, at in places.items() if graph != graphs.NO_GRAPH}
        assert "" not in captured, "a run that names no graph is captured as graph 0"
        assert "0" not in captured
        assert all(len(at) == 1 for at in captured.values()), captured
        for (place,) in captured.values():
            assert all(len(where) == 5 and where[-1] for _, where in place), "every tensor has an address of its own"
        assert len(self.threads) == 1, "the runtime keeps graphs for the thread that captured them"


def threads() -> set[threading.Thread]:
    """Those of graphs; others that tests before this one began may end at any time."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("graphs ")}


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> list[Runtime]:
    """Watch the runtime's sessions of graphs."""
    made: list[Runtime] = []

    class Watched(graphs.GraphRuns):
        def __init__(self, name: str, session: Any, *rest: Any) -> None:
            made.append(Runtime(session))
            super().__init__(name, made[-1], *rest)

    monkeypatch.setattr(onnx, "GraphRuns", Watched)
    return made


def test_batches_are_filled_up_and_answers_cut(load: Load, strict: list[Runtime]) -> None:
    plain = load(models.several_tensors())
    session = load(models.several_tensors(), cuda_graphs=True, preferred_batch_sizes=SIZES)
    assert session.facts["cuda_graphs"] == "2, 5, 8"
    (runtime,) = strict
    for rows in (1, 8, 3, 2, 5, 7, 1, 9, 30, 4):
        before = len(runtime.seen)
        for mask in (7, 2, 5):
            inputs = plain.sample(rows)
            same(session.run(inputs, mask), plain.run(inputs, mask))
        expected = {1: "1", 2: "1", 3: "2", 4: "2", 5: "2", 7: "3", 8: "3"}.get(rows, graphs.NO_GRAPH)
        assert [graph for graph, _ in runtime.seen[before:]] == [expected] * 3
    runtime.check()
    assert {graph for graph, _ in runtime.seen} == {"1", "2", "3", graphs.NO_GRAPH}


def test_threads_run_one_after_the_other(load: Load, strict: list[Runtime]) -> None:
    session = load(slow_echo(10), cuda_graphs=True, preferred_batch_sizes=SIZES, instances=3)
    assert session.layouts == (Layout(3, session.layouts[0].threads),)
    questions = [[np.full((1 + rows % 9, 1), rows, np.int64)] for rows in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for inputs, (echo,) in zip(questions, pool.map(lambda one: session.run(one, 1), questions), strict=True):
            np.testing.assert_array_equal(echo, inputs[0])
    strict[0].check()


def test_model_of_one_shape_needs_no_sizes(load: Load, strict: list[Runtime]) -> None:
    plain = load(models.fixed_batch())
    session = load(models.fixed_batch(), cuda_graphs=True)
    for seed in (1, 2, 3):
        same(session.run(plain.sample(seed), 1), plain.run(plain.sample(seed), 1))
    assert session.facts["cuda_graphs"] == "of the whole run"
    assert strict[0].seen[-1][0] == "1"
    strict[0].check()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OnnxSession, OnnxSession]]:
    """A session with graphs and one without."""
    path = models.save(models.several_tensors(), tmp_path_factory.mktemp("graphs") / "model.onnx")
    file = ModelFile("m", 1, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "device_of", lambda names, number: HostDevice())
        patch.setattr(providers, "with_graphs", lambda configured, wanted: configured)
        session = OnnxBackend().load(file, ModelConfig(cuda_graphs=True, preferred_batch_sizes=SIZES))
    plain = OnnxBackend().load(file, ModelConfig())
    yield session, plain
    session.close()
    plain.close()


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 7)), min_size=1, max_size=12))
def test_no_answer_is_overwritten_by_a_later_run(
    pair: tuple[OnnxSession, OnnxSession], runs: list[tuple[int, int]]
) -> None:
    session, plain = pair
    kept = []
    for rows, mask in runs:
        random = np.random.default_rng(len(kept))
        shapes = [(rows, *array.shape[1:]) for array in plain.sample(1)]
        inputs = [
            random.integers(-99, 99, shape).astype(array.dtype)
            for shape, array in zip(shapes, plain.sample(1), strict=True)
        ]
        kept.append((session.run(inputs, mask), plain.run(inputs, mask)))
    for got, expected in kept:
        same(got, expected)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proto", "config", "problem"),
    [
        (models.mlp, {}, r"which sizes to capture: set preferred_batch_sizes"),
        (
            models.masked_mean,
            {"preferred_batch_sizes": (2,)},
            r"'ids' has \[-1, -1\], with a free axis",
        ),
        (models.string_upper, {"preferred_batch_sizes": (2,)}, "holds strings"),
        (models.batch_softmax, {"preferred_batch_sizes": (2,)}, "fills batches up, but this model has none: output"),
    ],
)
def test_what_cannot_be_captured_is_refused(load: Load, proto: Any, config: dict[str, Any], problem: str) -> None:
    before = threads()
    with pytest.raises(ModelLoadError, match=problem):
        load(proto(), cuda_graphs=True, **config)
    assert threads() == before


def test_graph_that_answers_otherwise_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the runtime replays what it captured for another shape, or reads an input once only."""

    class Stale(graphs.GraphRuns):
        def __init__(self, name: str, session: Any, *rest: Any) -> None:
            runtime = Runtime(session)
            replay = runtime.run_with_iobinding
            seen: dict[str, int] = {}

            def run(binding: Any, options: Any) -> None:
                graph = options.get_run_config_entry("gpu_graph_id")
                seen[graph] = seen.get(graph, 0) + 1
                if graph == graphs.NO_GRAPH or seen[graph] <= graphs.RUNS_TO_CAPTURE:
                    replay(binding, options)

            runtime.run_with_iobinding = run  # type: ignore[method-assign]
            super().__init__(name, runtime, *rest)

    monkeypatch.setattr(onnx, "GraphRuns", Stale)
    with pytest.raises(ModelLoadError, match="its answers are not those of the runtime's own copies: output 0"):
        load(models.mlp(), cuda_graphs=True, preferred_batch_sizes=SIZES)


def test_capture_that_fails_names_the_size(load: Load, device: HostDevice) -> None:
    device.most_bytes = 1 << 12
    with pytest.raises(ModelLoadError, match="the graph of 500 rows cannot be captured: 32768 bytes cannot be page-l"):
        load(models.mlp(), cuda_graphs=True, preferred_batch_sizes=(2, 500), max_batch_size=500)


def test_driver_that_makes_no_stream_is_an_error_at_load(load: Load, device: HostDevice) -> None:
    def refuse() -> Any:
        raise CudaError("cuStreamCreate failed: out of memory (2)")

    device.copier = refuse  # type: ignore[method-assign]
    with pytest.raises(ModelLoadError, match="cuda_graphs: cuStreamCreate failed"):
        load(models.mlp(), cuda_graphs=True, preferred_batch_sizes=SIZES)


def test_errors_are_worded_as_without_graphs(load: Load) -> None:
    plain = load(models.mlp())
    session = load(models.mlp(), cuda_graphs=True, preferred_batch_sizes=SIZES)
    wrong = [np.ones((9, 3), np.float32)]
    same_error(session, plain, wrong)
    same(session.run(plain.sample(2), 1), plain.run(plain.sample(2), 1))


def test_closing_ends_the_thread_and_lets_go_of_the_session(load: Load) -> None:
    before = threads()
    session = load(models.mlp(), cuda_graphs=True, preferred_batch_sizes=SIZES)
    assert len(threads() - before) == 1
    assert session._opened is not None
    runtime = weakref.ref(session._opened.session)
    session.close()
    gc.collect()
    assert threads() == before
    assert runtime() is None


def test_stuck_run_does_not_hold_up_closing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose run never comes back can be unloaded all the same."""
    inside, go_on = threading.Event(), threading.Event()
    session = load(models.mlp(), cuda_graphs=True, preferred_batch_sizes=SIZES)
    assert isinstance(session._session, graphs.GraphRuns)
    runs, thread = session._session, session._session._thread

    def stuck(*_: object) -> list[Any]:
        inside.set()
        assert go_on.wait(WAIT_S)
        return []

    monkeypatch.setattr(runs, "_run", stuck)
    runner = threading.Thread(target=session.run, args=(session.sample(1), 1))
    runner.start()
    assert inside.wait(WAIT_S)
    closing = threading.Thread(target=session.close)
    closing.start()
    closing.join(WAIT_S)
    is_closed = not closing.is_alive()
    go_on.set()
    for one in (runner, closing, thread):
        one.join(WAIT_S)
    assert is_closed
    assert not thread.is_alive()
    assert runs._shared.session is None


def test_declared_sizes_are_as_good_as_exported_ones(load: Load) -> None:
    plain = load(models.running_sum(), inputs=(DeclaredTensor("x", "TYPE_FP32", (7,), leaves_out_batch=True),))
    assert graphs.sizes_of(ModelConfig(preferred_batch_sizes=(4,)), plain._graph_inputs) == (4,)


def test_another_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "with_graphs", WITH_GRAPHS)
    file = ModelFile("m", 1, models.save(models.fixed_batch(), tmp_path / "model.onnx"))
    with pytest.raises(ModelLoadError, match="cuda_graphs works on CUDA, and the model would run on CPUExecution"):
        OnnxBackend().load(file, ModelConfig(cuda_graphs=True))
    session = OnnxBackend().load(file, ModelConfig(cuda_graphs=True, fallback="cpu"))
    assert "cuda_graphs" not in session.facts
    session.close()
    assert WITH_GRAPHS({"cuda": {"a": "1"}}, (providers.CUDA, providers.CPU)) == {
        "cuda": {"a": "1"},
        providers.CUDA: {"a": "1", "enable_cuda_graph": "1"},
    }


def test_session_opened_again_or_profiled_is_one_without_graphs(load: Load) -> None:
    session = load(models.mlp(), cuda_graphs=True, preferred_batch_sizes=SIZES)
    again = session.reopen(session.layouts[0])
    assert not isinstance(again._session, graphs.GraphRuns)
    again.close()
    profiled = session.profiled()
    same(profiled.run(session.sample(3), 1), session.run(session.sample(3), 1))
    assert profiled.end()
