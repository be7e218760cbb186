"""Which requests are recorded, and what their spans say."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.telemetry_fakes import FakeClock, FakeModel, batch

from batchserve.core.trace import Trace
from batchserve.engine.events import TracedRequest
from batchserve.telemetry.tracing import Span, Tracing

WALL_NS = 1_700_000_000_000_000_000


def tracing(ratio: float = 1.0) -> tuple[Tracing, list[Span]]:
    sent: list[Span] = []
    return Tracing(ratio, sent.append, FakeClock(1000.5), lambda: WALL_NS, random.Random(7)), sent


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_share_of_recorded_requests_is_the_ratio(ratio: float) -> None:
    """Within four standard deviations of the binomial distribution."""
    tracer, _ = tracing(ratio)
    draws = 100_000
    recorded = sum(tracer.sample(None) is not None for _ in range(draws))
    assert recorded == pytest.approx(draws * ratio, abs=4 * (draws * ratio * (1 - ratio)) ** 0.5)


def test_all_or_none() -> None:
    every, _ = tracing(1.0)
    assert all(every.sample(None) for _ in range(100))
    none, _ = tracing(0.0)
    assert not any(none.sample(None) for _ in range(100))


def test_the_caller_decides_about_its_own_trace() -> None:
    for ratio in (0.0, 1.0):
        tracer, _ = tracing(ratio)
        sampled = tracer.sample(Trace("r", "a" * 32, "b" * 16, is_sampled=True))
        assert sampled is not None
        assert len(sampled.span_id) == 16
        left = tracer.sample(Trace("r", "a" * 32, "b" * 16, is_sampled=False))
        assert left is not None
        assert left.span_id == ""


def test_a_request_that_is_recorded_gets_a_trace_and_keeps_its_name() -> None:
    tracer, _ = tracing(1.0)
    named = tracer.sample(Trace("order-7"))
    assert named is not None
    assert named.request_id == "order-7"
    assert int(named.trace_id, 16)
    unnamed = tracer.sample(None)
    assert unnamed is not None
    assert unnamed.request_id == unnamed.trace_id != named.trace_id


def test_batch_is_in_the_trace_of_its_first_request_and_linked_with_all() -> None:
    tracer, sent = tracing()
    first, second = Trace("1", "1" * 32, "", True, "a" * 16), Trace("2", "2" * 32, "", True, "b" * 16)
    event = replace(
        batch(3, start_s=1000.0), traced=[TracedRequest(first, 999.998, 1), TracedRequest(second, 999.999, 2)]
    )
    tracer.batch_ended(FakeModel(), event)  # type: ignore[arg-type]
    spans = {(span[0], span[1]): span for span in sent}
    assert set(spans) == {("queue", "1" * 32), ("queue", "2" * 32), ("batch", "1" * 32), ("run", "1" * 32)}
    whole, run = spans["batch", "1" * 32], spans["run", "1" * 32]
    assert whole[3] == "a" * 16
    assert list(whole[8]) == [("1" * 32, "a" * 16), ("2" * 32, "b" * 16)]
    assert run[3] == whole[2]
    for key, parent in (("1" * 32, "a" * 16), ("2" * 32, "b" * 16)):
        queue = spans["queue", key]
        assert queue[3] == parent
        assert list(queue[8]) == [("1" * 32, whole[2])]
    assert whole[7]["batchserve.batch.rows"] == 3
    assert whole[7]["batchserve.batch.reason"] == "full"
    ns = {name: (span[5] - WALL_NS, span[6] - WALL_NS) for (name, trace), span in spans.items() if trace == "1" * 32}
    # The clock stood at 1000.5 when the wall clock showed WALL_NS; a float has some 100 ns to spare there.
    assert ns["queue"] == pytest.approx((-502e6, -500e6), abs=1e3)
    assert ns["batch"] == pytest.approx((-500e6, -483e6), abs=1e3)
    assert ns["run"] == pytest.approx((-497e6, -487e6), abs=1e3)


def test_batch_without_recorded_requests_leaves_no_span() -> None:
    tracer, sent = tracing()
    tracer.batch_ended(FakeModel(), batch(3))  # type: ignore[arg-type]
    assert sent == []


@pytest.mark.parametrize(
    ("status", "problem"), [(200, ""), (400, ""), (429, ""), (499, "the client left"), (500, "answered 500")]
)
def test_request_span_says_how_it_ended(status: int, problem: str) -> None:
    """The caller's mistakes are no failure of the server's (OpenTelemetry's rule for server spans)."""
    tracer, sent = tracing()
    tracer.request_ended(Trace("r", "a" * 32, "c" * 16, True, "b" * 16), "m", "1", status, 1000.25)
    (span,) = sent
    assert span[:5] == ("POST /v2/models/{model}/infer", "a" * 32, "b" * 16, "c" * 16, "server")
    assert span[6] - span[5] == pytest.approx(0.25e9, abs=1e3)
    assert span[7]["http.response.status_code"] == status
    assert span[7]["batchserve.request_id"] == "r"
    assert span[9] == problem
