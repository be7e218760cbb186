"""The end of a server under load: nothing that was admitted is lost, and a second signal does not wait."""

from __future__ import annotations

import http.client
import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import PATIENCE_S, ServeProcess

Serve = Callable[..., ServeProcess]

CLIENTS = 24
INFER = "/v2/models/slow/infer"


def body_of(*values: int) -> str:
    """A request whose rows are the given numbers; both outputs are asked for, so it takes its time."""
    tensor = {"name": "x", "shape": [len(values), 1], "datatype": "INT64", "data": list(values)}
    return json.dumps({"inputs": [tensor]})


class Client:
    """Sends one request after the other, each with a number of its own, until the server sends it away.

    Attributes:
        outcomes: How each request ended: `ok` or `refused`; anything else is a lost or wrong answer.
        after_signal: How many were answered `ok` after the signal.
    """

    def __init__(self, process: ServeProcess, index: int, signalled: threading.Event) -> None:
        self.outcomes: Counter[str] = Counter()
        self.after_signal = 0
        self._process = process
        self._index = index
        self._signalled = signalled
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        number = self._index * 1_000_000
        connection = self._process.connect()
        was_told_to_leave = False
        while True:
            number += 1
            outcome, is_closing = self._send(connection, number, was_told_to_leave=was_told_to_leave)
            self.outcomes[outcome] += 1
            if outcome == "ok" and self._signalled.is_set():
                self.after_signal += 1
            if outcome != "ok":
                connection.close()
                return
            if is_closing:
                connection.close()
                connection = self._process.connect()
                was_told_to_leave = True

    def _send(
        self, connection: http.client.HTTPConnection, number: int, *, was_told_to_leave: bool
    ) -> tuple[str, bool]:
        try:
            connection.request("POST", INFER, body_of(number))
            response = connection.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            # A connection that was kept alive and never told to close may not be cut. One that is opened anew after
            # that may come too late: nobody listens any more.
            return "refused" if was_told_to_leave else f"lost: {error!r}", True
        if response.status == 503:
            is_clean = response.headers["Retry-After"] and response.will_close and "shutting down" in content["error"]
            return "refused" if is_clean else f"odd refusal: {dict(response.headers)} {content}", True
        if response.status != 200:
            return f"status {response.status}: {content}", True
        answer = content["outputs"][0]["data"]
        return "ok" if answer == [number] else f"wrong: {answer} for {number}", response.will_close


def queued(process: ServeProcess) -> int:
    """How many rows wait, by the server's own metrics."""
    connection = process.connect()
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.search(r'^batchserve_queue_rows\{model="slow",version="1"\} (\d+)', page, re.MULTILINE)
    assert found is not None, page
    return int(found[1])


def wait_for_queue(process: ServeProcess, rows: int) -> None:
    """Look, over and over, until so many rows wait."""
    end = time.monotonic() + PATIENCE_S
    while queued(process) < rows:
        assert time.monotonic() < end, "the queue never filled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("max_batch_size", [1, 4])
def test_no_admitted_request_is_lost_when_a_signal_comes_under_load(
    number: signal.Signals, max_batch_size: int, serve: Serve, slow: Path
) -> None:
    """All requests end with their own answer, or with a clean 503 if they came after the signal; exit status 0.

    The signal comes when most clients' requests are known to wait: those must all be answered.
    """
    process = serve(slow, "--set", f"models.slow.max_batch_size={max_batch_size}", "--set", "server.drain_timeout=20s")
    process.loaded()
    signalled = threading.Event()
    clients = [Client(process, index, signalled) for index in range(CLIENTS)]
    for client in clients:
        client.thread.start()
    waiting = CLIENTS // 2
    wait_for_queue(process, waiting)
    signalled.set()
    process.signal(number)
    began = time.monotonic()
    for client in clients:
        client.thread.join(PATIENCE_S)
        assert not client.thread.is_alive()
    assert process.wait() == 0
    assert time.monotonic() - began < 20 + 5
    outcomes = sum((client.outcomes for client in clients), Counter())
    assert set(outcomes) == {"ok", "refused"}, outcomes
    assert outcomes["refused"] == CLIENTS
    assert sum(client.after_signal for client in clients) >= waiting
    assert process.err.wait_for("Traceback|ERROR") is None


def test_what_waits_beyond_the_drain_timeout_is_refused_and_the_exit_is_clean(serve: Serve, slow: Path) -> None:
    """2000 rows one by one would take most of a minute; the server gives them up after its drain_timeout."""
    process = serve(
        slow,
        "--set",
        "models.slow.max_batch_size=1",
        "--set",
        "server.drain_timeout=300ms",
        "--set",
        "defaults.max_queue_size=4000",
    )
    process.loaded()
    answers: list[tuple[int, object]] = []
    thread = threading.Thread(target=lambda: answers.append(send(process, *range(2000))), daemon=True)
    thread.start()
    wait_for_queue(process, 1)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    thread.join(PATIENCE_S)
    ((status, content),) = answers
    assert status == 503
    assert "error" in str(content)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_at_once(second: signal.Signals, serve: Serve, slow: Path) -> None:
    """The queue holds work for most of a minute and might be drained for as long; the process is gone in a moment."""
    process = serve(slow, "--set", "models.slow.max_batch_size=1", "--set", "defaults.max_queue_size=4000")
    process.loaded()
    connection = process.connect()
    connection.request("POST", INFER, body_of(*range(3000)))
    wait_for_queue(process, 1)
    process.signal(signal.SIGTERM)
    process.expect("^SIGTERM: finishing")
    began = time.monotonic()
    process.signal(second)
    assert process.wait() == 128 + second
    assert time.monotonic() - began < 5
    process.expect(f"^{second.name} again: stopped at once")
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.getresponse()
    connection.close()


def send(process: ServeProcess, *values: int) -> tuple[int, object]:
    """Send one request on a connection of its own."""
    connection = process.connect()
    try:
        connection.request("POST", INFER, body_of(*values))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
