"""Whom an earlier prediction assures, or rules out, is exactly who a prediction of their own would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.core_requests import make_request
from support.policies import DEAR, LINE, make_policy

from batchserve.core import admission
from batchserve.core.batch import Batch
from batchserve.core.policy import Policy
from batchserve.errors import RequestError, TargetMissed

arrivals = st.tuples(
    st.just("arrive"),
    st.integers(1, 60),  # how many of them
    st.sampled_from([1, 1, 1, 2, 5, 33, 40]),  # rows: the largest are split
    st.integers(0, 3),  # priority
    st.sampled_from([None, None, 0.01, 0.02, 0.04]),  # the client's time-out
    st.sampled_from([4, 4, 4, 4, 9]),  # width: mostly the same shape
)
events = st.one_of(arrivals, arrivals, st.tuples(st.just("finish"), st.floats(0.5, 2.0)), st.tuples(st.just("decide")))


class Pair:
    """Two policies that see the same; one works every prediction out anew."""

    def __init__(self, **limits: object) -> None:
        self.quick, self.exact = (make_policy(**limits) for _ in range(2))  # type: ignore[arg-type]
        self.running: list[tuple[Batch, Batch]] = []

    def arrive(self, now: float, rows: int, priority: int, timeout_s: float | None, width: int) -> None:
        outcomes = []
        self.exact.assured = self.exact.missed = None
        for policy in (self.quick, self.exact):
            request = make_request(rows, arrival_s=now, priority=priority, timeout_s=timeout_s, width=width)
            outcomes.append(_outcome(policy, request, now))
        assert outcomes[0] == outcomes[1]

    def decide(self, now: float) -> None:
        quick, exact = self.quick.decide(now), self.exact.decide(now)
        assert [batch.rows for batch in quick.batches] == [batch.rows for batch in exact.batches]
        self.running += zip(quick.batches, exact.batches, strict=True)

    def finish(self, now: float, scatter: float) -> None:
        if not self.running:
            return
        for policy, batch in zip((self.quick, self.exact), self.running.pop(0), strict=True):
            policy.finish(batch, now, ok=True, took_s=batch.predicted_s * scatter, overhead_s=1e-4)
        self.decide(now)


def _outcome(policy: Policy, request: object, now: float) -> tuple[str, int | None]:
    try:
        policy.arrive(request, now)  # type: ignore[arg-type]
    except RequestError as error:
        return type(error).__name__, error.retry_after_s
    return "admitted", None


def test_who_is_like_one_that_was_just_refused_is_told_the_same_without_a_prediction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = make_policy(points=DEAR, slots=2, latency_target_s=0.02)
    for now in (0.0, 1e-6):
        policy.arrive(make_request(32, arrival_s=now), now)
        policy.decide(now)
    predictions = 0
    refused = set()

    def counted(*arguments: object) -> tuple[float, float]:
        nonlocal predictions
        predictions += 1
        return finish_s(*arguments)  # type: ignore[arg-type]

    finish_s = admission._finish_s
    monkeypatch.setattr(admission, "_finish_s", counted)
    for number in range(200):
        now = 1e-5 * number
        with pytest.raises(TargetMissed) as caught:
            policy.arrive(make_request(1, arrival_s=now), now)
        refused.add(str(caught.value))
    assert predictions == 1
    assert len(refused) == 1
    assert policy.counters.refused["target"] == 200


@given(
    steps=st.lists(events, max_size=60),
    curve=st.sampled_from([LINE, DEAR]),
    slots=st.integers(1, 3),
    target_s=st.sampled_from([0.02, 0.05, 0.2]),
    levels=st.integers(1, 3),
    pauses=st.lists(st.floats(0, 0.02), min_size=60, max_size=60),
)
def test_shortcuts_let_in_and_refuse_whom_the_prediction_would(
    steps: list[tuple], curve: tuple, slots: int, target_s: float, levels: int, pauses: list[float]
) -> None:
    pair = Pair(points=curve, slots=slots, latency_target_s=target_s, priority_levels=levels)
    now = 0.0
    for (kind, *rest), pause_s in zip(steps, pauses, strict=False):
        if kind == "arrive":
            for _ in range(rest[0]):
                now += pause_s / 100
                pair.arrive(now, *rest[1:])
        elif kind == "finish":
            now += pause_s
            pair.finish(now, *rest)
        else:
            pair.decide(now)
