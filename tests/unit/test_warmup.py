"""The runs at load, on a clock of the test's: which sizes are run how often, and what is believed afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from batchserve.engine import warmup
from batchserve.engine.profiles import Profile
from batchserve.engine.warmup import WarmUp, warm_up
from batchserve.errors import BackendError, ModelLoadError

SIZES = [1, 2, 3, 4, 6, 8]


def curve(rows: int) -> float:
    return 0.001 + 0.0005 * rows


class Session:
    """Runs take as long as `seconds` says, on the test's clock.

    Attributes:
        runs: How often each size was run.
    """

    outputs = ("y",)

    def __init__(self, seconds: Callable[[int], float], most: int = 1 << 20) -> None:
        self.now = 0.0
        self.runs: Counter[int] = Counter()
        self._seconds = seconds
        self._most = most

    def sample(self, rows: int, length: int = 0) -> list[np.ndarray]:
        return [np.zeros((rows, 1))]

    def run(self, inputs: list[np.ndarray], mask: int) -> list[np.ndarray]:
        rows = len(inputs[0])
        self.runs[rows] += 1
        if rows > self._most:
            raise BackendError("too many rows")
        self.now += self._seconds(rows)
        return inputs


def run(monkeypatch: pytest.MonkeyPatch, session: Session, most: int = 8, **arguments: object) -> WarmUp:
    monkeypatch.setattr(warmup, "time", SimpleNamespace(monotonic=lambda: session.now))
    return warm_up("m", session, most, **{"budget_s": 5.0, **arguments})  # type: ignore[arg-type]


def profile_of(seconds: Callable[[int], float], *sizes: int, learnt: float = 1.0) -> Profile:
    """What an earlier process knew, if runs took so long at load; in service they took `learnt` times as long."""
    measured = tuple((rows, seconds(rows)) for rows in sizes or SIZES)
    return Profile(tuple((float(rows), time * learnt) for rows, time in measured), measured, 1.1)


def test_without_a_profile_every_size_is_run_twice_and_the_second_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(curve)
    found = run(monkeypatch, session)
    assert session.runs == dict.fromkeys(SIZES, 2)
    assert found.points == found.measured == tuple((rows, pytest.approx(curve(rows))) for rows in SIZES)
    assert (found.profile, found.safe_rows) == (None, 8)


def test_sizes_that_a_profile_knows_are_run_once_and_two_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learnt curve is kept, although runs in service took longer than those at load."""
    session, profile = Session(curve), profile_of(curve, learnt=1.8)
    found = run(monkeypatch, session, profile=profile)
    assert session.runs == {1: 2 + 5, 2: 1, 3: 1, 4: 1, 6: 1, 8: 2 + 4}  # four runs of 5 ms are 20 ms
    assert (found.profile, found.points, found.measured) == (profile, profile.points, profile.measured)


@pytest.mark.parametrize("factor", [0.71, 0.9, 1.1, 1.29])
def test_profile_that_is_about_right_is_kept(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = profile_of(curve)
    assert run(monkeypatch, Session(lambda rows: factor * curve(rows)), profile=profile).profile is profile


@pytest.mark.parametrize(
    "seconds",
    [
        lambda rows: 1.35 * curve(rows),
        lambda rows: 0.65 * curve(rows),
        lambda rows: curve(rows) * (1.35 if rows == 1 else 1),
        lambda rows: curve(rows) * (1.35 if rows == 8 else 1),
    ],
)
def test_stale_profile_is_thrown_away_and_everything_measured(
    seconds: Callable[[int], float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="batchserve"):
        found = run(monkeypatch, Session(seconds), profile=profile_of(curve))
    assert found.profile is None
    assert found.points == found.measured == tuple((rows, pytest.approx(seconds(rows))) for rows in SIZES)
    assert "model m: its profile is thrown away and it is measured anew" in caplog.text


def test_one_slow_run_does_not_make_a_profile_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run of one row, the first that counts, takes ten times as long as the others."""
    session = Session(lambda rows: curve(rows) * (10 if session.runs[rows] == 2 else 1))
    profile = profile_of(curve)
    assert run(monkeypatch, session, profile=profile).profile is profile


@pytest.mark.parametrize(("run_s", "runs"), [(0.001, 5), (0.01, 3), (0.15, 2), (0.5, 1)])
def test_long_runs_are_checked_by_fewer_of_them(run_s: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session, profile = Session(lambda rows: run_s), profile_of(lambda rows: run_s, 1)
    assert run(monkeypatch, session, most=1, profile=profile).profile is profile
    assert session.runs[1] == 1 + runs + 1


def test_sizes_that_a_profile_does_not_know_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    session, profile = Session(curve), profile_of(curve, 1, 2, 3, 4, learnt=1.5)
    found = run(monkeypatch, session, profile=profile)
    assert (session.runs[6], session.runs[8]) == (2, 2)
    assert [rows for rows, _ in found.measured] == SIZES
    assert found.points == (*profile.points, (6, pytest.approx(curve(6))), (8, pytest.approx(curve(8))))


def test_sizes_above_the_present_largest_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(curve)
    found = run(monkeypatch, session, most=3, profile=profile_of(curve))
    assert sorted(session.runs) == [1, 2, 3]
    assert [rows for rows, _ in found.measured] == [1, 2, 3]


def test_without_a_budget_a_profile_is_believed_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    session, profile = Session(curve), profile_of(curve)
    assert run(monkeypatch, session, profile=profile, budget_s=0.0) == WarmUp(profile.measured, 8, profile)
    assert not session.runs
    assert run(monkeypatch, session, budget_s=0.0) == WarmUp((), 8)


def test_checks_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of 8 rows takes half the budget, so it is not checked, and not run."""

    def slow(rows: int) -> float:
        return 0.01 if rows < 8 else 2.5

    session, profile = Session(slow), profile_of(slow)
    assert run(monkeypatch, session, profile=profile).profile is profile
    assert session.runs[8] == 0
    assert session.now < 5


@pytest.mark.parametrize("with_profile", [False, True])
def test_size_that_fails_lowers_the_largest(with_profile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, Session(curve, most=4), profile=profile_of(curve) if with_profile else None)
    assert found.safe_rows == 4
    assert [rows for rows, _ in found.measured] == [1, 2, 3, 4]


@pytest.mark.parametrize("with_profile", [False, True])
def test_one_row_that_fails_fails_the_load(with_profile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match="a warm-up run of one random row failed"):
        run(monkeypatch, Session(curve, most=0), profile=profile_of(curve) if with_profile else None)
