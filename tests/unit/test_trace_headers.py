"""What a request says of itself: read strictly, cut out of its head, and never remembered."""

from __future__ import annotations

import pytest

from batchserve.errors import BadFraming, HeadTooLarge
from batchserve.frontend.heads import MAX_HEADERS, MOST_CACHED, HeadCache, parse_head
from batchserve.frontend.trace_headers import MOST_CUT, cut_trace, names, new_request_id, read_trace

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v2/models/m/infer HTTP/1.1", "Host: a", "Content-Length: 12", *lines, "", ""]).encode()


def test_traceparent_is_read_and_names_the_request() -> None:
    trace = read_trace([PARENT], [])
    assert trace is not None
    assert (trace.request_id, trace.trace_id, trace.parent_id) == (TRACE_ID, TRACE_ID, SPAN_ID)
    assert trace.is_sampled
    assert trace.span_id == ""
    unsampled = read_trace([f"00-{TRACE_ID}-{SPAN_ID}-00"], [])
    assert unsampled is not None
    assert not unsampled.is_sampled


def test_what_the_caller_calls_it_comes_before_the_trace_id() -> None:
    trace = read_trace([PARENT], ["order-7"])
    assert trace is not None
    assert (trace.request_id, trace.trace_id) == ("order-7", TRACE_ID)
    assert names(trace) == {"request_id": "order-7", "trace_id": TRACE_ID}
    assert names(read_trace([], ["order-7"])) == {"request_id": "order-7"}
    assert names(None) == {}


def test_a_later_version_may_say_more() -> None:
    trace = read_trace([f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-holds"], [])
    assert trace is not None
    assert trace.trace_id == TRACE_ID


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [""],
        [PARENT, PARENT],
        [PARENT.upper()],
        [PARENT[:-1]],
        [PARENT + "-more"],
        [PARENT + "0"],
        [f"ff-{TRACE_ID}-{SPAN_ID}-01"],
        [f"00-{'0' * 32}-{SPAN_ID}-01"],
        [f"00-{TRACE_ID}-{'0' * 16}-01"],
        [f"00-{TRACE_ID}-{SPAN_ID}-0g"],
    ],
)
def test_malformed_traceparent_counts_as_none(parents: list[str]) -> None:
    assert read_trace(parents, []) is None


@pytest.mark.parametrize("identifiers", [[], [""], ["a b"], ["a\tb"], ["é"], ["x" * 129], ["a", "b"]])
def test_malformed_request_id_counts_as_none(identifiers: list[str]) -> None:
    assert read_trace([], identifiers) is None


@pytest.mark.parametrize(
    "lines",
    [
        (f"traceparent: {PARENT}",),
        (f"Traceparent:{PARENT}", "tracestate: a=b,c=d", "baggage: k=v", "X-Request-ID: r1"),
        (f"TRACEPARENT: \t{PARENT} ", "x-request-id: r1"),
    ],
)
def test_lines_of_tracing_are_cut_out_wherever_they_stand(lines: tuple[str, ...]) -> None:
    rest, trace, cuts = cut_trace(head("Accept: */*", *lines, "User-Agent: t"))
    assert rest == head("Accept: */*", "User-Agent: t")
    assert trace is not None
    assert trace.trace_id == TRACE_ID
    assert len(cuts) == len(lines)


def test_a_head_without_them_is_left_alone() -> None:
    raw = head("X-Trace: 1", "X-Request-Identity: 2", "Traceparents: 3", "a: traceparent: 4")
    rest, trace, cuts = cut_trace(raw)
    assert rest is raw
    assert trace is None
    assert cuts == ()


@pytest.mark.parametrize(
    "line", ["traceparent: \x01", "traceparent: é", "traceparent:", "traceparent : x", "traceparent: a\nb"]
)
def test_a_line_that_is_not_plain_is_not_cut(line: str) -> None:
    """It is for the checks of the whole head to say what becomes of it."""
    raw = head(line)
    assert cut_trace(raw)[0] is raw


def test_heads_that_differ_in_their_trace_alone_are_one_in_memory_and_parsed_once() -> None:
    cache = HeadCache()
    plain = cache.find(head("Accept: */*"))
    for number in range(3 * MOST_CACHED):
        found = cache.find(head("Accept: */*", f"X-Request-Id: r{number}", f"traceparent: {PARENT}"))
        assert found.trace is not None
        assert found.trace.request_id == f"r{number}"
        assert (found.route, found.length, found.path) == (plain.route, plain.length, plain.path)
    assert len(cache._heads) == 1
    assert cache.find(head("Accept: */*")) is plain
    assert plain.trace is None


def test_nothing_gets_past_the_checks_by_being_cut() -> None:
    """A head that is refused as a whole is refused, whether or not what is left of it is known."""
    cache = HeadCache()
    cache.find(head("Accept: */*"))
    for bad in (
        head("Accept: */*", f"traceparent: {PARENT}", " folded"),
        head("Accept: */*", f"traceparent: {PARENT}\n"),
        head("Accept: */*", "X-Request-Id: a", "Content-Length: 12"),
        head("Accept: */*", "X-Request-Id: a\rb"),
    ):
        with pytest.raises(BadFraming):
            cache.find(bad)
        with pytest.raises(BadFraming):
            parse_head(bad)


def test_too_many_lines_are_refused_although_some_can_be_cut() -> None:
    cache = HeadCache()
    many = [f"X-{number}: 1" for number in range(MAX_HEADERS - 4)]
    cache.find(head(*many))
    for _ in range(2):
        with pytest.raises(HeadTooLarge):
            cache.find(head(*many, *["baggage: a"] * MOST_CUT))
        with pytest.raises(HeadTooLarge):
            cache.find(head(*many, "baggage: a", "baggage: b", "baggage: c"))


def test_ids_made_here_differ_and_look_like_trace_ids() -> None:
    made = {new_request_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(each) == 32 and int(each, 16) for each in made)
