"""Load from a process of its own: a closed loop over raw sockets that costs a few microseconds a request.

Every connection sends its own fixed request, waits for the whole answer and sends it again. `measure` starts the
process and reads its result; the process gets its job as JSON on stdin and writes the result as JSON to stdout:

    python loadtest/client.py < job.json

Linux only: it waits with epoll and reads the server's processor time from /proc.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest import procfs
from loadtest.wire import WireError, read_head

__all__ = ["Job", "LoadError", "Result", "measure", "run"]

RECEIVE_BYTES = 1 << 18


class LoadError(Exception):
    """The load could not be applied, so there is nothing to report; the text says why."""


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        host: The server's address.
        port: The server's port.
        requests: One whole HTTP request for each connection; there are as many connections as requests.
        seconds: Length of the measured window.
        warmup_s: Seconds of load before it.
        server_pid: Whose processor time to count; 0 for nobody's.
        stall_s: Seconds without any answer after which the run fails.
    """

    host: str
    port: int
    requests: Sequence[bytes]
    seconds: float
    warmup_s: float = 0.5
    server_pid: int = 0
    stall_s: float = 30.0


@dataclass(frozen=True)
class Result:
    """What happened in the measured window.

    Attributes:
        elapsed_s: Its length.
        statuses: Number of answers by status.
        latency_s: `p50`, `p90`, `p99`, `p999`, `max` and `mean` of the 200 answers, in seconds from the moment before
            a request was sent until its whole answer was there. Empty without any.
        server_cpu_s: Processor time of the server's process, all threads.
        client_cpu_s: Processor time of the load's own process.
        machine_cpu_s: Busy time of all processors, by anybody.
        last_answers: The last whole answer of each connection, in the order of the job's requests.
    """

    elapsed_s: float
    statuses: dict[int, int]
    latency_s: dict[str, float]
    server_cpu_s: float
    client_cpu_s: float
    machine_cpu_s: float
    last_answers: list[bytes] = field(repr=False)

    @property
    def answered(self) -> int:
        """Number of 200 answers."""
        return self.statuses.get(200, 0)


def measure(job: Job) -> Result:
    """Apply a job from a process of its own. Blocks for the warm-up, the window, and at most `stall_s` more.

    Raises:
        LoadError: The server was not there, closed a connection, or stopped answering.
    """
    fields = dataclasses.asdict(job) | {"requests": [base64.b64encode(request).decode() for request in job.requests]}
    process = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(fields),
        capture_output=True,
        text=True,
        timeout=job.warmup_s + job.seconds + 3 * job.stall_s,
        check=False,
    )
    if process.returncode != 0:
        raise LoadError(process.stderr.strip() or f"the load process ended with {process.returncode}")
    fields = json.loads(process.stdout)
    fields["statuses"] = {int(status): count for status, count in fields["statuses"].items()}
    fields["last_answers"] = [base64.b64decode(answer) for answer in fields["last_answers"]]
    return Result(**fields)


@dataclass
class _Times:
    """Moments and processor times at one edge of the window, in seconds."""

    clock_s: float
    server_s: float
    client_s: float
    machine_s: float

    @classmethod
    def read(cls, server_pid: int) -> _Times:
        server_s = procfs.process_s(server_pid) if server_pid else 0.0
        return cls(time.perf_counter(), server_s, time.process_time(), procfs.machine_s())


class _Connection:
    """One connection and where it stands: a request is under way from `send` until `take` says it is answered."""

    __slots__ = ("answer", "parts", "request", "sent_s", "socket", "unsent")

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        try:
            self.socket = socket.create_connection(address, timeout=10)
        except OSError as error:
            raise LoadError(f"no connection to {address[0]}:{address[1]}: {error}") from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.request = request
        self.unsent = memoryview(b"")
        self.parts: list[bytes] = []
        self.answer = b""
        self.sent_s = 0.0

    def send(self, now: float) -> bool:
        """Send the request; False if the socket takes the rest of it later."""
        self.sent_s = now
        sent = self.socket.send(self.request)
        if sent == len(self.request):
            return True
        self.unsent = memoryview(self.request)[sent:]
        return False

    def send_rest(self) -> bool:
        """Send more of a request that did not fit; True when all of it is out."""
        self.unsent = self.unsent[self.socket.send(self.unsent) :]
        return not self.unsent

    def take(self, buffer: memoryview, heads: dict[bytes, tuple[int, int]]) -> int:
        """Take in what has arrived.

        Args:
            buffer: Where to receive it. One for all: to allocate as much for every answer costs 12 µs.
            heads: Status and body length by head, kept by the caller: servers repeat the same few heads, so each is
                parsed once.

        Returns:
            The status if the answer is whole, else 0.
        """
        data = bytes(buffer[: self.socket.recv_into(buffer)])
        if not data:
            raise LoadError("the server closed a connection that was to be kept open")
        if self.unsent:
            raise LoadError(f"an answer came before its request was sent: {data[:80]!r}")
        if self.parts:
            self.parts.append(data)
            data = b"".join(self.parts)
            self.parts.clear()
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self.parts.append(data)
            return 0
        head = data[:end]
        known = heads.get(head)
        if known is None:
            status, headers = read_head(head)
            known = heads[head] = (status, int(headers["content-length"]))
        missing = end + known[1] - len(data)
        if missing > 0:
            self.parts.append(data)
            return 0
        if missing < 0:
            raise LoadError(f"an answer is {-missing} bytes longer than its Content-Length says")
        self.answer = data
        return known[0]


def run(job: Job) -> Result:
    """Apply a job in this process. Blocks.

    Raises:
        LoadError: The server was not there, closed a connection, or stopped answering.
        WireError: It answered something that is no HTTP.
    """
    connections = [_Connection((job.host, job.port), request) for request in job.requests]
    try:
        return _Loop(job, connections).run()
    except OSError as error:
        raise LoadError(f"a connection failed: {error}") from error
    finally:
        for connection in connections:
            connection.socket.close()


class _Loop:
    """Drives the connections. All in one thread."""

    def __init__(self, job: Job, connections: list[_Connection]) -> None:
        self._job = job
        self._connections = connections
        self._latencies: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._heads: dict[bytes, tuple[int, int]] = {}
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._epoll = select.epoll()
        self._by_descriptor = {connection.socket.fileno(): connection for connection in connections}

    def run(self) -> Result:
        with self._epoll:
            now = time.perf_counter()
            for descriptor, connection in self._by_descriptor.items():
                self._epoll.register(descriptor, select.EPOLLIN)
                self._send(connection, now)
            self._turn_until(now + self._job.warmup_s)
            self._latencies.clear()
            self._statuses.clear()
            start = _Times.read(self._job.server_pid)
            self._turn_until(start.clock_s + self._job.seconds)
            end = _Times.read(self._job.server_pid)
            statuses, latencies = dict(self._statuses), self._latencies.copy()
            self._finish()
        return Result(
            elapsed_s=end.clock_s - start.clock_s,
            statuses=statuses,
            latency_s=_summary(latencies),
            server_cpu_s=end.server_s - start.server_s,
            client_cpu_s=end.client_s - start.client_s,
            machine_cpu_s=end.machine_s - start.machine_s,
            last_answers=[connection.answer for connection in self._connections],
        )

    def _send(self, connection: _Connection, now: float) -> None:
        if not connection.send(now):
            self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _turn_until(self, end: float) -> None:
        """Answer every answer with the next request until a moment has come."""
        clock, poll, by_descriptor = time.perf_counter, self._epoll.poll, self._by_descriptor
        heads, buffer = self._heads, self._buffer
        latencies, statuses = self._latencies, self._statuses
        last_answer = now = clock()
        while now < end:
            events = poll(end - now)
            for descriptor, event in events:
                connection = by_descriptor[descriptor]
                if event & select.EPOLLOUT and connection.send_rest():
                    self._epoll.modify(descriptor, select.EPOLLIN)
                if event & ~select.EPOLLOUT:
                    status = connection.take(buffer, heads)
                    if status:
                        last_answer = now = clock()
                        statuses[status] += 1
                        if status == 200:
                            latencies.append(now - connection.sent_s)
                        self._send(connection, now)
            now = clock()
            self._check_stall(now - last_answer)

    def _finish(self) -> None:
        """Wait for the answers still under way, so that the server is idle afterwards and every answer is whole."""
        waiting = set(self._by_descriptor)
        last_answer = time.perf_counter()
        while waiting:
            for descriptor, event in self._epoll.poll(1.0):
                connection = self._by_descriptor[descriptor]
                if event & select.EPOLLOUT and connection.send_rest():
                    self._epoll.modify(descriptor, select.EPOLLIN)
                if event & ~select.EPOLLOUT and connection.take(self._buffer, self._heads):
                    waiting.discard(descriptor)
                    last_answer = time.perf_counter()
            self._check_stall(time.perf_counter() - last_answer)

    def _check_stall(self, silence_s: float) -> None:
        if silence_s > self._job.stall_s:
            raise LoadError(f"no answer for {silence_s:.0f} s over {len(self._connections)} connections")


def _summary(latencies: list[float]) -> dict[str, float]:
    """Sum latencies up; a percentile is the smallest latency that so large a share did not exceed."""
    if not latencies:
        return {}
    ordered = sorted(latencies)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    points = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in shares.items()}
    return points | {"max": ordered[-1], "mean": sum(ordered) / len(ordered)}


def main() -> int:
    """Read a job from stdin, apply it, and write its result to stdout."""
    fields: dict[str, Any] = json.load(sys.stdin)
    fields["requests"] = [base64.b64decode(request) for request in fields["requests"]]
    try:
        result = run(Job(**fields))
    except (LoadError, WireError) as error:
        print(error, file=sys.stderr)
        return 1
    answers = [base64.b64encode(answer).decode() for answer in result.last_answers]
    json.dump(dataclasses.asdict(result) | {"last_answers": answers}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
