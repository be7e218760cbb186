"""The load client speaks to a real socket: it counts what was answered, and fails where there is nothing to report."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.benchmarks import client

Reply = Callable[[bytes, int], list[bytes]]
Listen = Callable[[Reply], int]


class _Handler(socketserver.StreamRequestHandler):
    """Answers each request of a connection with what the server's `reply` says, a write for each piece."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        asked = 0
        while head := self._head():
            body = self.rfile.read(int(head.lower().split("content-length: ")[1].split("\r\n")[0]))
            for piece in self.server.reply(body, asked):
                if not piece:
                    return
                self.wfile.write(piece)
            asked += 1

    def _head(self) -> str:
        lines = []
        try:
            while (line := self.rfile.readline()) not in {b"\r\n", b""}:
                lines.append(line)
        except ConnectionError:
            return ""
        return b"".join(lines).decode()


class _Server(socketserver.ThreadingTCPServer):
    """A server whose connections end with their clients, so that closing it waits for every thread."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64
    reply: Reply


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Starts a server that answers with `reply(body, number of requests before it on the connection)`.

    An empty piece closes the connection. Gives the port.
    """
    servers: list[tuple[_Server, threading.Thread]] = []

    def start(reply: Reply) -> int:
        server = _Server(("127.0.0.1", 0), _Handler)
        server.reply = reply
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return int(server.server_address[1])

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def request(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def job(port: int, *bodies: bytes, seconds: float = 0.1, stall_s: float = 20.0) -> client.Job:
    return client.Job("127.0.0.1", port, [request(body) for body in bodies], seconds, warmup_s=0.02, stall_s=stall_s)


def test_every_connection_gets_the_answer_to_its_own_request(listen: Listen) -> None:
    port = listen(lambda body, asked: [answer(b"you sent " + body)])
    result = client.run(job(port, b"a", b"bb", b"ccc"))
    assert result.last_answers == [answer(b"you sent a"), answer(b"you sent bb"), answer(b"you sent ccc")]
    assert result.answered > 3
    assert 0 < result.latency_s["p50"] <= result.latency_s["p99"] <= result.latency_s["max"] < result.elapsed_s


def test_answer_that_comes_in_pieces_is_put_together(listen: Listen) -> None:
    whole = answer(b"x" * 100)
    port = listen(lambda body, asked: [whole[:5], whole[5:40], whole[40:]])
    result = client.run(job(port, b"a", b"b"))
    assert result.last_answers == [whole, whole]
    assert result.answered > 0


def test_request_and_answer_larger_than_the_socket_holds_are_sent_whole(listen: Listen) -> None:
    port = listen(lambda body, asked: [answer(body[::-1])])
    big = bytes(range(256)) * 40_000
    result = client.run(job(port, big))
    assert result.last_answers == [answer(big[::-1])]


def test_refusals_are_counted_apart_and_have_no_latency(listen: Listen) -> None:
    port = listen(lambda body, asked: [answer(b"full", b"429 Too Many Requests")])
    result = client.run(job(port, b"a"))
    assert set(result.statuses) == {429}
    assert (result.answered, result.latency_s) == (0, {})


def test_measured_in_a_process_of_its_own_the_result_is_the_same(listen: Listen) -> None:
    port = listen(lambda body, asked: [answer(body, b"200 OK" if body == b"a" else b"503 Gone")])
    result = client.measure(job(port, b"a", b"\x00\xff"))
    assert set(result.statuses) == {200, 503}
    assert result.last_answers == [answer(b"a"), answer(b"\x00\xff", b"503 Gone")]
    assert result.client_cpu_s > 0


def test_processor_time_of_a_busy_server_is_counted(listen: Listen) -> None:
    """This process serves, so what it has used up itself bounds what may be counted; /proc counts in ticks of 10 ms."""
    port = listen(lambda body, asked: [answer(b"%d" % sum(range(20_000)))])
    asked = replace(job(port, b"a", seconds=0.3), server_pid=os.getpid())
    before_s = time.process_time()
    result = client.measure(asked)
    assert 0 < result.server_cpu_s <= time.process_time() - before_s + 0.02
    assert result.machine_cpu_s >= result.server_cpu_s


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda body, asked: [answer(b"")] if asked < 3 else [b""], "closed a connection"),
        (lambda body, asked: [answer(b"a") + b"surplus"], "7 bytes longer"),
        (lambda body, asked: [], "no answer for"),
    ],
    ids=["closed", "surplus", "silent"],
)
def test_server_that_misbehaves_fails_the_run(reply: Reply, message: str, listen: Listen) -> None:
    with pytest.raises(client.LoadError, match=message):
        client.run(job(listen(reply), b"a", stall_s=0.2))


def test_server_that_is_not_there_fails_the_run() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port, and nobody answers
        with pytest.raises(client.LoadError, match=r"no connection to 127\.0\.0\.1"):
            client.measure(job(taken.getsockname()[1], b"a"))
