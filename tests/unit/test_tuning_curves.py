"""What is measured for a tuning, what follows from it, and what is kept of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.core.curves import Run
from batchserve.errors import BackendError, ModelLoadError
from batchserve.tuning import measure as measuring
from batchserve.tuning.budget import Budget
from batchserve.tuning.confirm import Probe
from batchserve.tuning.curves import Curves, Sample, settings_of
from batchserve.tuning.measure import estimate_s, is_worth_doubling, measure, opened
from batchserve.tuning.settings import Setting, Way, layouts_on, server_target_s
from batchserve.tuning.state import State, state_file

ONE, TWO = Way("cpu", Layout(1, 2)), Way("cpu", Layout(2, 1))
PROBE = Probe(2.0, 3.0, 100.0, 0.99, 99.0, 0.01, 1, is_load_late=False)


def curves(**by_way: dict[int, float]) -> Curves:
    """Curves of `one` and `two`: seconds by rows, alone as when busy."""
    found = Curves()
    for name, seconds in by_way.items():
        for rows, busy_s in seconds.items():
            found.add({"one": ONE, "two": TWO}[name], rows, Sample(busy_s, busy_s, 0.05))
    return found


# --- ways ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 256))
def test_no_layout_takes_more_cores_than_there_are(cores: int) -> None:
    layouts = layouts_on(cores)
    assert all(one.instances * one.threads <= cores for one in layouts)
    assert {Layout(1, cores), Layout(cores, 1), Layout(1, 1)} <= set(layouts)
    assert len(layouts) == len(set(layouts))
    assert len({one.threads for one in layouts}) <= 4


@given(st.floats(1e-6, 1e3))
def test_server_has_less_time_than_its_clients(target_s: float) -> None:
    assert 0 < server_target_s(target_s) <= target_s
    if target_s >= 0.005:
        assert server_target_s(target_s) == pytest.approx(0.9 * target_s, abs=1e-6)
    assert server_target_s(0.002) == 0.0015


# --- curves -------------------------------------------------------------------------------------------------------


def test_bound_counts_only_runs_that_fit_into_the_target() -> None:
    known = curves(one={1: 0.01, 2: 0.012, 4: 0.02})
    assert known.bound(Setting(ONE, 4), 1.0) == pytest.approx(200)
    assert known.bound(Setting(ONE, 2), 1.0) == pytest.approx(2 / 0.012)
    assert known.bound(Setting(ONE, 4), 0.015) == pytest.approx(2 / 0.012)
    assert known.bound(Setting(ONE, 4), 0.005) == 0


def test_median_of_the_samples_counts() -> None:
    known = curves(two={4: 0.01})
    known.add(TWO, 4, Sample(0.05, 0.05, 0.5))
    known.add(TWO, 4, Sample(0.011, 0.02, 0.05))
    assert known.busy_s(TWO, 4) == 0.011
    assert known.run_s(TWO, 4) == 0.02
    assert known.rows_per_s(TWO, 4) == pytest.approx(2 * 4 / 0.011)
    assert known.noise == 0.05


def test_batch_sizes_that_gain_nothing_are_no_settings() -> None:
    known = curves(one={1: 0.01, 2: 0.0199, 4: 0.03, 8: 0.061})
    assert settings_of(known, [ONE, TWO], is_batching=True) == [Setting(ONE, 1), Setting(ONE, 4)]
    assert settings_of(known, [ONE], is_batching=False) == [Setting(ONE, 0)]
    assert known.best(ONE) == 4


def test_curve_goes_from_alone_to_busy_with_the_runs_beside() -> None:
    known = Curves()
    known.add(TWO, 1, Sample(0.03, 0.01, 0.0))
    curve = known.curve(TWO, 0.001)
    assert curve(Run(1, beside=0)) == pytest.approx(0.01)
    assert curve(Run(1, beside=1)) == pytest.approx(0.029)
    assert known.curve(TWO, 0.001, 4)(Run(1, beside=1)) == pytest.approx(0.01 + 0.019 / 3)


times = st.floats(1e-6, 100.0)
cells = st.dictionaries(
    st.tuples(st.sampled_from(["cpu", "cuda"]), st.integers(1, 8), st.integers(1, 8), st.integers(1, 256)),
    st.lists(st.builds(Sample, times, times, st.floats(0, 1)), min_size=1, max_size=3),
    max_size=5,
)


@given(cells)
def test_curves_survive_the_way_to_disk(known: dict[tuple[str, int, int, int], list[Sample]]) -> None:
    first = Curves()
    for (provider, instances, threads, rows), samples in known.items():
        for sample in samples:
            first.add(Way(provider, Layout(instances, threads)), rows, sample)
    again = Curves.from_json(json.loads(json.dumps(first.to_json())))
    assert again.to_json() == first.to_json()


# --- what is measured ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "is_worth_it"),
    [
        ([(1, 0.01)], True),
        ([(1, 0.3)], False),  # two rows would take longer than the target and than is of interest
        ([(1, 0.01), (2, 0.011), (4, 0.05)], False),  # fewer rows per second than before
        ([(1, 0.01), (2, 0.02), (4, 0.04)], True),  # the same: up to the usual size it is worth a look
        ([(1, 0.001), (16, 0.016), (32, 0.032)], False),  # the same, and beyond it is not
        ([(1, 0.001), (16, 0.010), (32, 0.016)], True),
        ([(128, 0.05), (256, 0.06)], False),  # there is an end
    ],
)
def test_batch_sizes_are_doubled_while_that_may_gain(points: list[tuple[int, float]], is_worth_it: bool) -> None:
    assert is_worth_doubling(points, 0.05) is is_worth_it


def test_longer_targets_allow_longer_runs() -> None:
    assert not is_worth_doubling([(1, 0.2)], 0.3)
    assert is_worth_doubling([(1, 0.2)], 0.5)


def test_larger_runs_are_guessed_on_the_line_through_the_last_two() -> None:
    assert estimate_s([(1, 0.01)], 2) == 0.02
    assert estimate_s([(1, 0.01), (2, 0.012)], 4) == pytest.approx(0.016)
    assert estimate_s([(1, 0.01), (2, 0.009)], 4) == 0.009


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WINDOW_S": 1e-4, "LONE_S": 1e-4, "MOST_ROWS": 4, "ROUNDS": 2}.items():
        monkeypatch.setattr(measuring, name, value)


def run_measure(
    backend: FakeBackend, known: Curves, *, left_s: Callable[[], float] = lambda: 60.0
) -> tuple[bool, list[tuple[Way, int]]]:
    said: list[tuple[Way, int]] = []
    with opened(backend, ModelFile("m", 1, Path("m.onnx")), ModelConfig(), ["cpu"]) as model:
        is_complete = measure(
            model,
            known,
            length=0,
            target_s=1.0,
            left_s=left_s,
            tell=lambda way, rows: said.append((way, rows)),
            keep=lambda: None,
        )
    return is_complete, said


LAYOUTS = (Layout(1, 2), Layout(2, 1))


@pytest.mark.usefixtures("quick")
def test_every_way_is_measured_at_every_size_in_every_round() -> None:
    known = Curves()
    is_complete, _ = run_measure(FakeBackend(layouts=LAYOUTS), known)
    assert is_complete
    assert known.ways == [ONE, TWO]
    for way in (ONE, TWO):
        assert 1 in known.sizes(way)
        assert all(known.count(way, rows) == 2 for rows in known.sizes(way))


@pytest.mark.usefixtures("quick")
def test_what_is_known_is_not_measured_again() -> None:
    known = curves(one={1: 0.001, 2: 0.001, 4: 0.001}, two={1: 0.001, 2: 0.001, 4: 0.001})
    _, said = run_measure(FakeBackend(layouts=LAYOUTS), known)
    assert len(said) == 6  # the second round
    _, said = run_measure(FakeBackend(layouts=LAYOUTS), known)
    assert said == []


@pytest.mark.usefixtures("quick")
def test_without_time_only_the_first_cell_is_measured() -> None:
    known = Curves()
    is_complete, said = run_measure(FakeBackend(layouts=LAYOUTS), known, left_s=lambda: 0.0)
    assert not is_complete
    assert said == [(ONE, 1)]


@pytest.mark.usefixtures("quick")
def test_size_that_fails_ends_the_doubling_and_one_row_that_fails_ends_all() -> None:
    known = Curves()
    backend = FakeBackend(layouts=LAYOUTS, fails=lambda inputs: inputs[0].shape[0] > 1)
    assert run_measure(backend, known)[0]
    assert known.sizes(ONE) == [1]
    with pytest.raises(BackendError):
        run_measure(FakeBackend(fails=lambda inputs: True), Curves())


@pytest.mark.usefixtures("quick")
def test_model_that_does_not_batch_is_measured_at_one_row() -> None:
    known = Curves()
    run_measure(FakeBackend(batchable=False), known)
    assert known.sizes(Way("cpu", Layout(1, 1))) == [1]


def test_provider_that_does_not_start_is_left_out_unless_it_is_the_only_one() -> None:
    class Cuda(FakeBackend):
        def load(self, file: ModelFile, config: ModelConfig):  # type: ignore[no-untyped-def]
            if config.providers == ("cuda",):
                raise ModelLoadError("no such device")
            return super().load(file, config)

    file = ModelFile("m", 1, Path("m.onnx"))
    with opened(Cuda(), file, ModelConfig(), ["cuda", "cpu"]) as model:
        assert {way.provider for way in model.ways} == {"cpu"}
        assert model.skipped == {"cuda": "no such device"}
    with pytest.raises(ModelLoadError), opened(Cuda(), file, ModelConfig(), ["cuda"]):
        pass


# --- what is kept -------------------------------------------------------------------------------------------------


def test_state_goes_on_where_it_was(tmp_path: Path) -> None:
    path = state_file(tmp_path / "tune", {"model": "abc"})
    state = State(path)
    assert not state.has_known
    state.curves.add(ONE, 1, Sample(0.01, 0.01, 0.1))
    state.add_probe("key", PROBE)
    again = State(path)
    assert again.has_known
    assert again.curves.count(ONE, 1) == 1
    assert again.probes("key") == [PROBE]
    assert again.probes("other") == []
    assert not State(path, is_fresh=True).has_known
    again.forget_probes()
    assert State(path).probes("key") == []
    assert State(path).has_known
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_another_machine_or_runtime_is_another_file(tmp_path: Path) -> None:
    assert state_file(tmp_path, {"runtime": "1"}) != state_file(tmp_path, {"runtime": "2"})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"curves": [], "probes": []}', '{"curves": [{"rows": 1}], "probes": {}}']
)
def test_spoilt_file_is_not_used(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert not State(path).has_known
    assert "not used" in caplog.text


def test_measurement_that_cannot_be_is_not_used(tmp_path: Path) -> None:
    cell = {"provider": "cpu", "instances": 1, "threads": 1, "rows": 1, "samples": [[0.0, 0.1, 0.1]]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"curves": [cell], "probes": {}}))
    assert not State(path).has_known


def test_place_that_cannot_be_written_costs_only_the_going_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        State(tmp_path / "file" / "a.json").write()
    assert "cannot be kept" in caplog.text


def test_budget_is_counted_from_its_beginning() -> None:
    now = [100.0]
    budget = Budget(10.0, lambda: now[0])
    now[0] = 103.0
    assert budget.spent_s == 3.0
    assert budget.left_s == 7.0
    assert budget.left_of(0.4) == pytest.approx(1.0)
