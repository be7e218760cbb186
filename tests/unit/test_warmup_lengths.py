"""The runs at load of a model that pads: points by tokens, within what the model takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from batchserve.core.padding import PadRule
from batchserve.engine import warmup, warmup_lengths
from batchserve.engine.profiles import Profile
from batchserve.engine.warmup import WarmUp
from batchserve.engine.warmup_lengths import warm_up_lengths
from batchserve.errors import BackendError, ModelLoadError


def seconds_of(tokens: int) -> float:
    return 0.001 + 1e-5 * tokens


class Session:
    """Takes 1 ms and 10 µs a token, on the test's clock."""

    outputs = ("y",)

    def __init__(self, *, most_rows: int = 1 << 20, longest: int = 1 << 20, max_tokens: int | None = None) -> None:
        self.now = 0.0
        self.pad = PadRule(((1,),), (0,), 0, ((),), max_tokens=max_tokens)
        self.shapes: list[tuple[int, ...]] = []
        self._most_rows, self._longest = most_rows, longest

    def sample(self, rows: int, length: int = 0) -> list[np.ndarray]:
        return [np.zeros((rows, length))]

    def run(self, inputs: list[np.ndarray], mask: int) -> list[np.ndarray]:
        rows, length = inputs[0].shape
        self.shapes.append((rows, length))
        if rows > self._most_rows or length > self._longest:
            raise BackendError("too large")
        self.now += seconds_of(rows * length)
        return inputs


def run(monkeypatch: pytest.MonkeyPatch, session: Session, **arguments: object) -> WarmUp:
    clock = SimpleNamespace(monotonic=lambda: session.now)
    monkeypatch.setattr(warmup, "time", clock)
    monkeypatch.setattr(warmup_lengths, "time", clock)
    return warm_up_lengths("m", session, 8, **{"budget_s": 5.0, **arguments})  # type: ignore[arg-type]


def test_length_grows_first_and_then_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    found = run(monkeypatch, session)
    assert session.shapes[::2] == session.shapes[1::2]  # each twice, the first for nothing
    assert session.shapes[::2] == [(1, 8), (1, 16), (1, 32), (1, 64), (2, 64), (3, 64), (4, 64), (6, 64), (8, 64)]
    tokens = [8, 16, 32, 64, 128, 192, 256, 384, 512]
    assert found.measured == tuple((t, pytest.approx(seconds_of(t))) for t in tokens)
    assert found.safe_rows == 8


def test_model_of_short_rows_is_measured_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(longest=40)
    found = run(monkeypatch, session)
    assert [tokens for tokens, _ in found.measured] == [8, 16, 32, 64, 96, 128, 192, 256]
    assert found.safe_rows == 8


def test_size_that_fails_lowers_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, Session(most_rows=3))
    assert found.safe_rows == 3
    assert found.measured[-1][0] == 3 * 64


def test_limit_of_tokens_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, Session(max_tokens=200))
    assert found.measured[-1][0] == 192
    assert found.safe_rows == 8


def test_budget_ends_the_runs_and_none_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    assert len(run(monkeypatch, session, budget_s=0.01).measured) < 5
    assert session.now < 0.015
    session = Session()
    assert run(monkeypatch, session, budget_s=0.0) == WarmUp((), 8)
    assert not session.shapes


def test_not_one_row_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match="a warm-up run of one random row failed"):
        run(monkeypatch, Session(most_rows=0))


@pytest.mark.parametrize(("factor", "is_kept"), [(1.0, True), (1.5, False)])
def test_profile_is_kept_if_the_runs_take_what_it_says(
    monkeypatch: pytest.MonkeyPatch, factor: float, is_kept: bool
) -> None:
    measured = tuple((tokens, seconds_of(tokens) * factor) for tokens in (8, 64, 512))
    profile = Profile(((100.0, 0.5),), measured, 1.1)
    found = run(monkeypatch, Session(), profile=profile)
    assert (found.profile is profile) == is_kept
