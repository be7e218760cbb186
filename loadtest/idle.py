"""What idle connections cost: memory of the server, and throughput of the connections that are active among them."""

from __future__ import annotations

import contextlib
import resource
import select
from collections.abc import Iterator, Sequence

from loadtest import procfs, wrk
from loadtest.client import LoadError
from loadtest.contest import HOST, say
from loadtest.conversation import Conversation
from loadtest.findings import Finding, Sample, Wanted, compare
from loadtest.hotpath_scenarios import Options, Round, Scenario, batchserve, small_questions
from loadtest.questions import Questions
from loadtest.server import Server

__all__ = ["IDLE_SCENARIO"]

IDLE_CONNECTIONS = 5000
ACTIVE_CONNECTIONS = 64
DESCRIPTORS = IDLE_CONNECTIONS + 1000

IDLE, ALONE = f"{IDLE_CONNECTIONS:,} idle ones", "no idle ones"

WARMUP_S = 2
"""Seconds of load before anything is measured, so that buffers made once are there."""


def _prepare(options: Options) -> Round:
    questions = small_questions()
    return lambda turn, seconds: _run_round(questions, options, turn, seconds)


def _run_round(questions: Questions, options: Options, turn: int, seconds: int) -> list[Sample]:
    """Measure with and without idle connections on one server; odd rounds begin with them.

    Raises:
        LoadError: Too few descriptors are allowed, a connection broke, or the server closed an idle one.
    """
    _allow_descriptors()
    load = questions.requests(1, HOST)
    samples = []
    with batchserve([questions.folder], **options.settings) as server:
        wrk.measure(server.port, load, ACTIVE_CONNECTIONS, WARMUP_S, [server.pid])
        for is_idle in (False, True) if turn % 2 == 0 else (True, False):
            around: contextlib.AbstractContextManager[dict[str, float]] = contextlib.nullcontext({})
            with _idle(server, questions) if is_idle else around as extra:
                rate = wrk.measure(server.port, load, ACTIVE_CONNECTIONS, seconds, [server.pid])
            samples.append(
                Sample("idle", IDLE if is_idle else ALONE, ACTIVE_CONNECTIONS, turn, {**rate.values(), **extra})
            )
            say(samples[-1])
    return samples


@contextlib.contextmanager
def _idle(server: Server, questions: Questions) -> Iterator[dict[str, float]]:
    """Hold idle connections open, each after one request; the first answers are checked.

    Yields:
        `growth_kb`: how much the server's memory grew for each, in units of 1000 bytes.

    Raises:
        LoadError: The server closed one of them before the context's end, or kept one after it.
    """
    requests = questions.requests(len(questions.rows), HOST)
    open_before = server.settled_descriptors()
    before = procfs.resident_bytes([server.pid])
    idle: list[Conversation] = []
    try:
        answers = []
        for i in range(IDLE_CONNECTIONS):
            idle.append(Conversation(server.port))
            answers.append(idle[-1].ask(requests[i % len(requests)]))
        questions.check(answers[: len(requests)])
        server.settled_descriptors()
        yield {"growth_kb": (procfs.resident_bytes([server.pid]) - before) / IDLE_CONNECTIONS / 1000}
        closed = _count_readable(idle)
        if closed:
            raise LoadError(f"expected {IDLE_CONNECTIONS} idle connections to stay open, {closed} were closed")
    finally:
        for conversation in idle:
            conversation.close()
    left = server.settled_descriptors() - open_before
    if left > 0:
        raise LoadError(f"expected no descriptor to be left of {IDLE_CONNECTIONS} closed connections, {left} are")


def _count_readable(conversations: Sequence[Conversation]) -> int:
    """Count connections with something to read: nothing was asked, so that is their end."""
    poll = select.poll()
    for conversation in conversations:
        poll.register(conversation.socket, select.POLLIN)
    return len(poll.poll(0))


def _allow_descriptors() -> None:
    """Let this process, and the servers it starts from now on, open enough of them.

    Raises:
        LoadError: The hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise LoadError(f"{hard} descriptors may be open at most; expected {DESCRIPTORS} or more (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def _findings(samples: Sequence[Sample]) -> list[Finding]:
    growth = tuple(sample.values["growth_kb"] for sample in samples if "growth_kb" in sample.values)
    ratios = compare(samples, IDLE, ALONE, ACTIVE_CONNECTIONS)
    return [
        Finding("idle", "memory for each idle connection", "kB", growth, Wanted(8, is_least=False)),
        Finding("idle", "requests/s among idle ones over without", "x", ratios, Wanted(0.9)),
    ]


IDLE_SCENARIO = Scenario(f"{IDLE_CONNECTIONS:,} idle connections beside the active ones", _prepare, _findings)
