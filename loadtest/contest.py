"""A contest: variants of the same service, loaded by wrk in turns, round after round, their answers checked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest import client, procfs, wrk
from loadtest.findings import Sample
from loadtest.server import Process

__all__ = ["HOST", "Contest", "Entrant"]

HOST = "127.0.0.1"
"""What requests say in their `Host` header; the port is not known when they are written, and nobody asks."""

CHECK_S = 0.3
"""Seconds of load by which the answers are checked, and the server is warmed up, before each measurement."""


@dataclass(frozen=True)
class Entrant:
    """One of the variants that are compared.

    Attributes:
        name: The variant's name.
        server: Key of the server it is measured on; entrants with the same key share one.
        start: Makes that server.
        load: Requests that wrk sends in turns.
        questions: Requests whose answers are checked, one for each connection at most.
        check: Takes the answers to `questions`, in their order, and raises `WrongAnswerError` or `WireError`.
    """

    name: str
    server: str
    start: Callable[[], Process]
    load: Sequence[bytes]
    questions: Sequence[bytes]
    check: Callable[[Sequence[bytes]], None]


@dataclass(frozen=True)
class Contest:
    """Entrants, and the numbers of connections at which they are measured.

    Attributes:
        around: Told of an entrant and its running server, gives a context in which each measurement runs; what the
            context yields is filled when it ends, and belongs to the sample's values.
    """

    name: str
    entrants: Sequence[Entrant]
    connections: Sequence[int]
    around: Callable[[Entrant, Process], contextlib.AbstractContextManager[Mapping[str, float]]] | None = None

    def run_round(self, turn: int, seconds: int) -> list[Sample]:
        """Start the servers, and measure each entrant at each point right after the other; odd rounds go backwards.

        Raises:
            client.LoadError: A server could not be loaded, or answered something else than successes.
            ServerError: One did not start.
            WireError: One answered what is no HTTP or no protocol.
            WrongAnswerError: One gave a wrong answer.
        """
        samples = []
        order = list(self.entrants) if turn % 2 == 0 else list(reversed(self.entrants))
        with contextlib.ExitStack() as stack:
            servers: dict[str, Process] = {}
            for entrant in order:
                if entrant.server not in servers:
                    servers[entrant.server] = stack.enter_context(entrant.start())
            for count in self.connections:
                for entrant in order:
                    values = self._measure(entrant, servers[entrant.server], count, seconds)
                    samples.append(Sample(self.name, entrant.name, count, turn, values))
                    say(samples[-1])
        return samples

    def _measure(self, entrant: Entrant, server: Process, connections: int, seconds: int) -> dict[str, float]:
        check_answers(entrant, server, connections)
        around: contextlib.AbstractContextManager[Mapping[str, float]] = contextlib.nullcontext({})
        if self.around is not None:
            around = self.around(entrant, server)
        with around as extra:
            rate = wrk.measure(server.port, entrant.load, connections, seconds, procfs.family(server.pid))
        return {**rate.values(), **extra}


def check_answers(entrant: Entrant, server: Process, connections: int) -> None:
    """Ask an entrant's questions over as many connections at once for a moment, and check the last answers.

    Raises:
        client.LoadError: An answer was no success, or there was none.
        WireError: It is not what the protocol says.
        WrongAnswerError: It is wrong.
    """
    questions = [entrant.questions[i % len(entrant.questions)] for i in range(connections)]
    result = client.measure(client.Job(HOST, server.port, questions, CHECK_S, warmup_s=0.0))
    if set(result.statuses) - {200}:
        raise client.LoadError(f"{entrant.name}: expected answers of status 200 alone, got {result.statuses}")
    entrant.check(result.last_answers[: len(entrant.questions)])


def say(sample: Sample, **more: Any) -> None:
    """Print one line about a sample, so that somebody who waits sees progress."""
    values = {**sample.values, **more}
    others = "".join(f"  {name} {value:,.3g}" for name, value in values.items() if name in SHOWN)
    print(
        f"round {sample.round + 1}  {sample.scenario:8}{sample.connections:4} connections  {sample.variant:24}"
        f"{values['requests_per_s']:10,.0f} requests/s{others}",
        file=sys.stderr,
        flush=True,
    )


SHOWN = ("p50_us", "server_cpu_us", "others_share", "lag_p99_ms", "ping_p99_ms", "growth_kb")
