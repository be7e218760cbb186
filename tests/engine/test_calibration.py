"""The choice of instances and threads at load: by what was measured, within the budget, leaving nothing behind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.fake import FakeBackend, FakeSession
from batchserve.config import ModelConfig
from batchserve.core.tensors import DATATYPES, Array, TensorSpec
from batchserve.engine import calibration, saturation
from batchserve.engine.calibration import Measured, calibrate, choose
from batchserve.engine.loading import load_model
from batchserve.engine.saturation import saturate
from batchserve.errors import BackendError, ModelLoadError

ALL, EACH, MIDDLE = Layout(1, 4), Layout(4, 1), Layout(2, 2)
LENGTHS = (TensorSpec("x", DATATYPES["INT64"], (-1, -1)),)


class Cores(FakeBackend):
    """Sessions whose runs take the time that a machine would need: `alone_s` for a row on all of its cores.

    Args:
        speedup: How many times as fast a run is on all cores as on one.
        refuses_threads: Opening a session with other threads fails.
    """

    def __init__(self, *, alone_s: float, speedup: float, refuses_threads: bool = False, **more: object) -> None:
        super().__init__(layouts=(Layout(1, 2), Layout(2, 1)), **more)  # type: ignore[arg-type]
        self.alone_s, self.speedup, self.refuses_threads = alone_s, speedup, refuses_threads
        self.whole_machine = threading.Lock()

    def open(self, layouts: Sequence[Layout]) -> FakeSession:
        session = CoresSession(self, layouts)
        self.sessions.append(session)
        return session


class CoresSession(FakeSession):
    _backend: Cores

    def reopen(self, layout: Layout) -> FakeSession:
        if self._backend.refuses_threads:
            raise ModelLoadError("no memory for a second one")
        return super().reopen(layout)

    @property
    def run_s(self) -> float:
        """What a run takes on a machine that does nothing else."""
        return self._backend.alone_s * (self._backend.speedup if self.layouts[0].threads == 1 else 1.0)

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        with contextlib.nullcontext() if self.layouts[0].threads == 1 else self._backend.whole_machine:
            time.sleep(self.run_s)  # the time that the model computes
        return super().run(inputs, output_mask)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run alone take as long as on a machine that does nothing else, whatever this one does."""

    def timed(self: object, session: CoresSession, inputs: Sequence[Array]) -> float:
        session.run(inputs, 1)
        return session.run_s

    monkeypatch.setattr(calibration._Loads, "_time", timed)


def loaded(backend: FakeBackend) -> FakeSession:
    return backend.load(ModelFile("m", 1, Path("m.onnx")), ModelConfig())


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "all_", "middle", "each", "chosen"),
    [
        # rows per second, seconds alone
        ("auto", (100, 1.0), (104, 1.5), (104, 2.0), ALL),  # not worth it
        ("auto", (100, 1.0), (103, 1.5), (106, 2.0), EACH),
        ("auto", (100, 1.0), (120, 1.9), (150, 3.5), MIDDLE),  # lone requests would pay too much
        ("auto", (100, 1.0), (104, 1.9), (150, 3.5), ALL),
        ("auto", (100, 3.0), (90, 1.5), (95, 1.0), EACH),  # one run on all is itself the slow one
        ("throughput", (100, 1.0), (103, 9.0), (104, 99.0), EACH),
        ("throughput", (100, 1.0), (99, 1.0), (98, 1.0), ALL),
        ("latency", (100, 1.0), (300, 1.2), (400, 2.0), ALL),
        ("latency", (100, 1.0), (300, 1.04), (200, 1.01), MIDDLE),  # as quick alone, and more at once
    ],
)
def test_choice_weighs_rows_per_second_against_a_lone_request(
    hint: str, all_: tuple[float, float], middle: tuple[float, float], each: tuple[float, float], chosen: Layout
) -> None:
    figures = zip((ALL, MIDDLE, EACH), (all_, middle, each), strict=True)
    assert choose(hint, [Measured(layout, *figure) for layout, figure in figures]).layout == chosen


# --- measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speedup", "hint", "chosen"),
    [
        (1.3, "auto", Layout(2, 1)),  # threads gain little: two streams give 1.5 times as much
        (3.0, "auto", Layout(1, 2)),  # threads gain more than streams would; far apart, for sleeps are never exact
        (1.3, "latency", Layout(1, 2)),
        (0.5, "latency", Layout(2, 1)),  # waking a second thread costs more than it brings
    ],
)
@pytest.mark.usefixtures("quiet")
def test_the_better_layout_is_measured_and_the_other_session_closed(speedup: float, hint: str, chosen: Layout) -> None:
    backend = Cores(alone_s=0.004, speedup=speedup)
    session = loaded(backend)
    found = calibrate("m", session, hint, 1, 60.0)
    assert found.layout == chosen
    assert [one.layout for one in found.measured] == [Layout(1, 2), Layout(2, 1)]
    assert [one.lone_s for one in found.measured] == [0.004, 0.004 * speedup]
    assert [one for one in backend.sessions if not one.closed] == [found.session]
    assert len(backend.sessions) == 2


async def test_model_runs_as_many_batches_at_once_as_were_chosen(tmp_path: Path) -> None:
    backend = Cores(alone_s=0.004, speedup=1.2)
    config = ModelConfig(max_batch_size=2, warmup_budget_s=4.0)
    model = await load_model(ModelFile("m", 1, tmp_path), config, backend, executor=None)  # type: ignore[arg-type]
    assert (model.instances, model.config.intra_op_threads) == (2, 1)
    assert [one.layout for one in model.layouts] == [Layout(1, 2), Layout(2, 1)]
    assert [rows for rows, _ in model.curve] == [1, 2], "what is left of the budget measures the sizes"
    model.start_drain(0.0)
    await model.drained()
    await model.close()
    assert all(session.closed for session in backend.sessions)


def test_rows_of_any_length_are_measured_at_a_usual_one_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Cores(alone_s=0.001, speedup=1.5, inputs=LENGTHS, outputs=LENGTHS)
    calibrate("m", loaded(backend), "auto", 4, 4.0)
    assert {run.inputs[0].shape[1] for run in backend.runs} == {64}
    assert {run.rows for run in backend.runs} == {1}, "rows of other lengths are no company"


def test_length_that_the_model_refuses_is_not_used() -> None:
    backend = Cores(alone_s=0.001, speedup=1.5, inputs=LENGTHS, outputs=LENGTHS)
    backend.fails = lambda inputs: inputs[0].shape[1] > 10
    found = calibrate("m", loaded(backend), "auto", 1, 4.0)
    assert len(found.measured) == 2
    assert {run.inputs[0].shape[1] for run in backend.runs[1:]} == {3}


@pytest.mark.parametrize(("budget_s", "alone_s"), [(0.0, 0.001), (0.05, 0.03)])
def test_without_time_the_first_layout_stays(budget_s: float, alone_s: float) -> None:
    backend = Cores(alone_s=alone_s, speedup=1.0)
    session = loaded(backend)
    found = calibrate("m", session, "auto", 32, budget_s)
    assert (found.session, found.layout, found.measured) == (session, Layout(1, 2), ())
    assert [one for one in backend.sessions if not one.closed] == [session]


def test_budget_bounds_the_measurement() -> None:
    backend = Cores(alone_s=0.01, speedup=1.5)
    calibrate("m", loaded(backend), "auto", 8, 1.0)
    assert len(backend.runs) * backend.alone_s < 1.0, "in half of the budget, and two may run at once"


@pytest.mark.parametrize("trouble", ["open", "run"])
def test_trouble_while_comparing_leaves_the_first_layout(trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    backend = Cores(alone_s=0.001, speedup=1.5, refuses_threads=trouble == "open")
    session = loaded(backend)
    if trouble == "run":
        backend.fails = lambda inputs: len(backend.runs) > 20
    found = calibrate("m", session, "auto", 4, 4.0)
    assert (found.session, found.layout, found.measured) == (session, Layout(1, 2), ())
    assert [one for one in backend.sessions if not one.closed] == [session]
    assert "could not be compared, 1 x 2 stays" in caplog.text


def test_failure_to_run_even_alone_is_left_to_the_warm_up() -> None:
    backend = FakeBackend(layouts=(ALL, EACH), fails=lambda inputs: True)
    session = loaded(backend)
    assert calibrate("m", session, "auto", 4, 1.0).session is session
    with pytest.raises(BackendError):
        session.run(session.sample(1), 1)


def test_one_layout_is_no_question() -> None:
    backend = FakeBackend(layouts=(EACH,))
    assert calibrate("m", loaded(backend), "auto", 4, 1.0).layout == EACH
    assert not backend.runs


@pytest.mark.usefixtures("quiet")
def test_saturation_is_measured_at_the_largest_batch_that_pays() -> None:
    backend = Cores(alone_s=0.001, speedup=1.5)
    calibrate("m", loaded(backend), "auto", 4, 60.0)
    assert {run.rows for run in backend.runs} == {1, 2, 4}, "a run takes the same time whatever it holds"


class Interrupted(saturation.SimpleQueue[object]):
    """A queue on which the main thread is interrupted as soon as it waits, as by Ctrl-C."""

    def get(self, *arguments: object) -> object:  # type: ignore[override]
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return super().get()


def test_interrupted_measurement_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waited for its next run for ever would keep the process from ending."""
    monkeypatch.setattr(saturation, "SimpleQueue", Interrupted)
    session = FakeBackend().load(ModelFile("m", 1, Path("m.onnx")), ModelConfig())
    with pytest.raises(KeyboardInterrupt):
        saturate(session, session.sample(1), 1, 1, 2, 10.0)
    assert not [one for one in threading.enumerate() if one.name.startswith("calibrate-")]
