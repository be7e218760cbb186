"""The load generator against servers that do as they are told, on the loop that it runs on."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from batchserve.errors import LoadError
from batchserve.load.arrivals import Steady, Volleys
from batchserve.load.prepare import prepare
from batchserve.load.result import Result
from batchserve.load.run import apply
from batchserve.load.scenario import Scenario, Stream
from batchserve.load.target import Target, parse_target

Reply = Callable[[int, bytes], Awaitable[bytes]]
"""Answers a request, given how many came before it and its bytes; b"" closes the connection."""

RAW = Stream("raw", form="raw", raw_shape=(2,), variants=2)
QUICK = Scenario([RAW], Steady(200.0, is_even=True), duration_s=0.5, warmup_s=0.0, timing_every=0)
"""100 requests."""

ALONE = 2
"""Requests that are sent before the load begins: one for each variant."""


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def serving(reply: Reply) -> AsyncIterator[Target]:
    """Serve `reply`; the number that it is given counts all requests."""
    count = 0
    open_ones: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        open_ones[asyncio.current_task()] = writer
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().rpartition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                number, count = count, count + 1
                given = await reply(number, head + body)
                if not given:
                    break
                writer.write(given)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield parse_target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        for writer in open_ones.values():
            writer.close()
        await asyncio.gather(*[task for task in open_ones if task is not None])


async def applied(reply: Reply, scenario: Scenario = QUICK) -> Result:
    async with serving(reply) as target:
        return await apply(await prepare(scenario, target))


def echo(request: bytes) -> bytes:
    return answer(request.partition(b"\r\n\r\n")[2])


async def test_every_request_of_the_schedule_is_answered_and_counted_once() -> None:
    seen: Counter[bytes] = Counter()

    async def reply(number: int, request: bytes) -> bytes:
        seen[request] += 1
        return echo(request)

    result = await applied(reply)
    assert (result.loop, result.offered, result.total.answered, result.total.failed) == ("open", 100, 100, {})
    assert sum(seen.values()) == 100 + ALONE
    assert len(seen) == 2
    assert result.offered_per_s == 200
    assert sum(count for _, count in result.to_json()["histogram"]) == 100


async def test_closed_loop_has_one_request_on_each_connection() -> None:
    under_way: set[int] = set()
    most = 0

    async def reply(number: int, request: bytes) -> bytes:
        nonlocal most
        under_way.add(number)
        most = max(most, len(under_way))
        await asyncio.sleep(0.005)
        under_way.discard(number)
        return echo(request)

    result = await applied(reply, QUICK.with_(arrivals=None, connections=3))
    assert (result.loop, most, result.connections) == ("closed", 3, 3)
    assert 20 < result.total.answered <= 3 * 100
    assert result.total.latency_s["min"] >= 0.005


async def test_closed_loop_ends_after_the_requests_it_may_send() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        return echo(request)

    scenario = QUICK.with_(arrivals=None, connections=3, most_requests=17, duration_s=30.0)
    assert (await applied(reply, scenario)).total.answered == 17


async def test_latency_counts_from_when_a_request_was_due_not_from_when_it_could_be_sent() -> None:
    """16 requests are due at once and one connection takes 10 ms for each: the last waits for all others."""

    async def reply(number: int, request: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return echo(request)

    result = await applied(reply, QUICK.with_(arrivals=Volleys(16, 10.0), connections=1))
    assert result.total.answered == 16
    assert result.total.latency_s["max"] >= 0.16
    assert result.total.latency_s["p50"] >= 0.08
    assert result.most_waiting == 15


async def test_what_is_due_in_the_warm_up_is_sent_and_not_counted() -> None:
    count = 0

    async def reply(number: int, request: bytes) -> bytes:
        nonlocal count
        count += 1
        return echo(request)

    result = await applied(reply, QUICK.with_(warmup_s=0.25))
    assert count == 100 + ALONE
    assert result.offered == result.total.answered == 50
    assert result.window_s == 0.25


async def test_failures_are_told_apart_by_kind() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        kinds = {
            0: answer(b'{"error": "full"}', "429 Too Many Requests"),
            1: b"",
            2: answer(b"12345678"),
            3: b"FTP/1.1 oops\r\n\r\n",
            4: answer(b"x") + b"y",
        }
        return echo(request) if number < ALONE or number % 10 >= 5 else kinds[number % 10]

    result = await applied(reply)
    assert result.total.failed == {"status 429": 10, "closed": 10, "wrong answer": 10, "malformed": 20}
    assert result.total.answered == 50
    assert result.examples["status 429"] == '{"error": "full"}'
    assert "1 bytes longer" in result.examples["malformed"] or "FTP" in result.examples["malformed"]
    assert result.total.within_share == 0.5


async def test_request_without_an_answer_fails_when_its_time_is_up_and_the_run_ends() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        if number == ALONE + 5:
            await asyncio.sleep(1.0)  # longer than the request's time
        return echo(request)

    result = await applied(reply, QUICK.with_(timeout_s=0.3))
    assert result.total.failed == {"timeout": 1}
    assert result.total.answered == 99


async def test_requests_that_find_no_connection_in_time_fail_too() -> None:
    """One connection and one request that holds it: all behind it run out of time where they wait."""

    async def reply(number: int, request: bytes) -> bytes:
        if number >= ALONE:
            await asyncio.sleep(1.0)  # longer than the request's time
        return echo(request)

    result = await applied(reply, QUICK.with_(connections=1, timeout_s=0.2))
    assert result.total.failed == {"timeout": 100}


async def test_server_that_goes_away_refuses_connections() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        return echo(request)

    async with serving(reply) as target:
        prepared = await prepare(QUICK, target)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((target.host, target.port))  # bound but not listening: nobody else gets the port
        result = await apply(prepared)
    assert result.total.failed == {"refused connection": 100}
    assert result.total.latency_s == {}


async def test_server_that_is_not_there_fails_before_any_load() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = parse_target(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(LoadError, match="cannot be asked"):
            await prepare(QUICK, target)


async def test_server_that_refuses_a_request_alone_fails_before_any_load() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        return answer(b"no such thing", "404 Not Found")

    with pytest.raises(LoadError, match="stream 'raw': a request alone gave 404: no such thing"):
        await applied(reply)


async def test_answers_in_pieces_and_in_chunks_are_put_together() -> None:
    large = bytes(range(256)) * 4000

    async def reply(number: int, request: bytes) -> bytes:
        if number % 2:
            return answer(large)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfa000\r\n" + large + b"\r\n0\r\n\r\n"

    result = await applied(reply)
    assert (result.total.answered, result.total.failed) == (100, {})


async def test_connection_that_the_server_closes_behind_an_answer_is_replaced() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        return answer(request.partition(b"\r\n\r\n")[2], headers="Connection: close\r\n")

    result = await applied(reply, QUICK.with_(arrivals=None, connections=2, most_requests=20))
    assert (result.total.answered, result.total.failed) == (20, {})


async def test_phases_and_batch_sizes_come_from_the_requests_that_ask() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        if b"X-Server-Timing: 1\r\n" not in request:
            return echo(request)
        headers = "Server-Timing: queue;dur=2.000, run;dur=8.000\r\nX-Batch-Rows: 4\r\n"
        return answer(request.partition(b"\r\n\r\n")[2], headers=headers)

    result = await applied(reply, QUICK.with_(timing_every=5))
    assert result.batch_rows == {4: 20}
    assert result.phases_s["queue"]["p50"] == pytest.approx(0.002, rel=0.01)
    assert result.phases_s["run"]["mean"] == pytest.approx(0.008)


async def test_streams_keep_their_own_targets_and_figures() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        if b"X-Slow" in request:
            await asyncio.sleep(0.03)
        return echo(request)

    slow = Stream("slow", form="raw", raw_shape=(2,), variants=1, headers={"X-Slow": "1"}, arrivals=Steady(50.0, True))
    quick = Stream("quick", form="raw", raw_shape=(2,), variants=1, target_s=10.0, arrivals=Steady(100.0, True))
    result = await applied(reply, QUICK.with_(streams=[slow, quick], arrivals=None, target_s=0.02))
    by_name = {stream.name: stream for stream in result.streams}
    assert (by_name["slow"].answered, by_name["slow"].within) == (25, 0)
    assert (by_name["quick"].answered, by_name["quick"].within) == (50, 50)
    assert result.goodput_per_s == 100


async def test_ticks_send_the_whole_schedule() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        return echo(request)

    result = await applied(reply, QUICK.with_(tick_s=0.007))
    assert (result.total.answered, result.total.failed) == (100, {})
    assert 0.0005 < result.lag_s["mean"] < 0.1
    assert result.tick_s == 0.007


async def test_ticks_begin_by_themselves_where_answers_take_long_and_requests_are_many() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        await asyncio.sleep(0.05)
        return echo(request)

    many = await applied(reply, QUICK.with_(arrivals=Steady(1200.0, is_even=True)))
    assert (many.total.answered, many.total.failed) == (600, {})
    assert many.tick_s == 0.001
    few = await applied(reply, QUICK)
    assert few.total.answered == 100
    assert few.tick_s == 0


async def test_requests_are_sent_at_the_tick_that_is_nearest() -> None:
    """As many are sent too early, which counts as no lag, as too late."""

    async def reply(number: int, request: bytes) -> bytes:
        return echo(request)

    result = await applied(reply, QUICK.with_(tick_s=0.02))
    assert result.lag_s["p50"] < 0.004  # without rounding it would be 0.01
    assert result.lag_s["p90"] > 0.004


async def test_timeline_shows_the_second_in_which_requests_were_due() -> None:
    async def reply(number: int, request: bytes) -> bytes:
        return echo(request)

    result = await applied(reply, QUICK.with_(arrivals=Volleys(10, 1.0), duration_s=1.5))
    assert [(one.second, one.due, one.answered) for one in result.timeline] == [(0, 10, 10), (1, 10, 10)]
