"""What it costs to be watched: requests with a trace of their own, traces recorded at 1 %, a console that is open."""

from __future__ import annotations

import contextlib
import functools
import http.client
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from loadtest.contest import HOST, Contest, Entrant
from loadtest.findings import Finding, Sample, Wanted, compare
from loadtest.hotpath_scenarios import Options, Round, Scenario, batchserve, small_questions
from loadtest.server import Process, ServerError

__all__ = ["WATCHING_SCENARIO"]

PLAIN, NAMED, TRACED, LOOKED_AT = "batchserve", "a traceparent each", "traces at 1 %", "console open"
CONNECTIONS = (64, 8)


def _prepare(options: Options) -> Round:
    questions = small_questions()
    plain = questions.requests(len(questions.rows), HOST)
    named = [_with_trace(request, number) for number, request in enumerate(plain, 1)]
    settings = {"server.tracing": "true", "server.trace_ratio": "0.01", "server.trace_endpoint": _collector()}
    folders = [questions.folder]
    start = functools.partial(batchserve, folders, **options.settings)
    watched = functools.partial(batchserve, folders, **{**options.settings, **settings})

    def entrant(name: str, server: str, how: Callable[[], Process], load: Sequence[bytes]) -> Entrant:
        return Entrant(name, server, how, load, plain, questions.check)

    entrants = [
        entrant(PLAIN, PLAIN, start, plain),
        entrant(NAMED, PLAIN, start, named),
        entrant(TRACED, TRACED, watched, plain),
        entrant(LOOKED_AT, PLAIN, start, plain),
    ]
    return Contest("watching", entrants, CONNECTIONS, _look).run_round


def _with_trace(request: bytes, number: int) -> bytes:
    """Give a request a trace that its caller does not record, so that no other work comes with it."""
    return request.replace(b"\r\n", b"\r\ntraceparent: 00-%032x-%016x-00\r\n" % (number, number), 1)


def _findings(samples: Sequence[Sample]) -> list[Finding]:
    findings = []
    for name in (NAMED, TRACED, LOOKED_AT):
        for count in CONNECTIONS:
            goal = Wanted(0.98) if name == TRACED else None
            what = f"requests/s with {name}, {count} connections"
            findings.append(Finding("watching", what, "x", compare(samples, name, PLAIN, count), goal))
    return findings


@functools.cache
def _collector() -> str:
    """Start a collector that takes spans and forgets them, for as long as this process lives; return its URL."""
    server = ThreadingHTTPServer((HOST, 0), _Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{HOST}:{server.server_port}"


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _look(entrant: Entrant, server: Process) -> Iterator[Mapping[str, float]]:
    """Read the console's events while the entrant is measured that is looked at."""
    if entrant.name != LOOKED_AT:
        yield {}
        return
    found = {"events": 0.0}
    is_over = threading.Event()
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    connection.request("GET", "/console/events")
    response = connection.getresponse()
    if response.status != 200:
        raise ServerError(f"expected the console's events, got status {response.status}")

    def read() -> None:
        while not is_over.is_set() and (line := response.readline()):
            found["events"] += line.startswith(b"event: now")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        is_over.set()
        reader.join()
        connection.close()


WATCHING_SCENARIO = Scenario("small model, watched in three ways", _prepare, _findings)
