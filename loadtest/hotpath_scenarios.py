"""The contests of loadtest/hotpath.py: who takes part, with which requests, and what is wanted of the figures."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from batchserve.config import SERVER_KEYS
from loadtest.contest import HOST, Contest, Entrant
from loadtest.conversation import Conversation
from loadtest.findings import Finding, Sample, Wanted, compare
from loadtest.models import model_folder
from loadtest.questions import Array, Questions, WrongAnswerError
from loadtest.responsiveness import responsiveness
from loadtest.server import Process, Server
from loadtest.wire import WireError, get_request, json_outputs, read_head

__all__ = [
    "FAST_PATH_KEY",
    "Options",
    "Round",
    "Scenario",
    "batchserve",
    "contests",
    "large_questions",
    "small_questions",
]

BASELINES = Path(__file__).parent / "baselines"
FAST_PATH_KEY = "http_fast_path"
LARGE_CONNECTIONS = 8
JSON_CONNECTIONS = 4

Round = Callable[[int, int], list[Sample]]
"""Runs one round of so many seconds a measurement: `(turn, seconds)`."""


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        mosec_python: A Python that has mosec; None to leave it out.
        minutes: Length of the soak.
        settings: Configuration of batchserve by key, as for `--set`.
    """

    mosec_python: Path | None = None
    minutes: float = 10.0
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """One part of the benchmark.

    Attributes:
        summary: One line for people.
        prepare: Makes what runs its rounds.
        findings: Draws the figures that matter from the samples of all rounds.
        is_repeated: False if it runs once, whatever the number of rounds.
    """

    summary: str
    prepare: Callable[[Options], Round]
    findings: Callable[[Sequence[Sample]], list[Finding]]
    is_repeated: bool = True


def batchserve(folders: Sequence[Path], **settings: str) -> Server:
    """Make a server as it comes, but for one thread a run, as on every other side."""
    return Server(folders, {"defaults.intra_op_threads": "1", **settings})


def contests() -> dict[str, Scenario]:
    """All scenarios that compare variants under wrk, by name."""
    return {
        "small": Scenario("small model, small bodies, 64, 8 and 1 connections", _small, _small_findings),
        "latency": Scenario("small model, one connection, against the bare echo", _latency, _latency_findings),
        "large": Scenario("bodies of 614 kB, read once", _large, _large_findings),
        "json": Scenario("JSON bodies of 3 MB", _json, _json_findings),
        "mixed": Scenario("a GET after every ten infer requests, same connections", _mixed, _mixed_findings),
    }


# Who takes part


@functools.cache
def small_questions() -> Questions:
    """64 questions to the small perceptron."""
    return Questions("mlp-small", model_folder("mlp-small"), "x", _normal(64, 64))


@functools.cache
def large_questions() -> Questions:
    """Questions to the model that reads a large row once."""
    return Questions("largest", model_folder("largest"), "x", _normal(LARGE_CONNECTIONS, 153600))


def _normal(count: int, width: int) -> Array:
    return np.random.default_rng(0).standard_normal((count, width), np.float32)


def _ours(questions: Questions, settings: Mapping[str, str], name: str = "batchserve") -> Entrant:
    requests = questions.requests(len(questions.rows), HOST)
    start = functools.partial(batchserve, [questions.folder], **settings)
    return Entrant(name, name, start, requests[:1], requests, questions.check)


def _baseline(name: str, script: str, answer_bytes: int, requests: Sequence[bytes], *arguments: str) -> Entrant:
    """Let a server that answers fixed bytes take part: its answers are right if they are of that length."""
    command = [sys.executable, str(BASELINES / script), "--answer-bytes", str(answer_bytes), *arguments]
    check = functools.partial(_check_length, answer_bytes)
    return Entrant(name, name, functools.partial(Process, command), requests[:1], requests, check)


def _check_length(expected: int, answers: Sequence[bytes]) -> None:
    for answer in answers:
        given = len(answer.partition(b"\r\n\r\n")[2])
        if given != expected:
            raise WrongAnswerError(f"expected a body of {expected} bytes, got {given}")


def _answer_bytes(entrant: Entrant) -> int:
    """Ask the real server once how long its answer's body is."""
    with entrant.start() as server, Conversation(server.port) as conversation:
        return len(conversation.ask(entrant.questions[0]).partition(b"\r\n\r\n")[2])


def _mosec(python: Path, questions: Questions) -> Entrant:
    requests = []
    for row in questions.rows:
        body = row.tobytes()
        head = f"POST /inference HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n"
        requests.append(head.encode() + body)
    (output,) = questions.expected[0]

    def read(answer: bytes) -> dict[str, Array]:
        head, _, body = answer.partition(b"\r\n\r\n")
        if read_head(head + b"\r\n\r\n")[0] != 200:
            raise WireError(f"mosec answered {answer[:200]!r}")
        return {output: np.frombuffer(body, np.float32)[None]}

    def start() -> Process:
        with socket.create_server((HOST, 0)) as free:  # mosec takes no port 0
            port = free.getsockname()[1]
        script, model = str(BASELINES / "mosec_mlp.py"), str(questions.model_file)
        return Process([str(python), script, "--model", model, "--port", str(port), "--address", HOST], "/")

    return Entrant("mosec", "mosec", start, requests[:1], requests, functools.partial(questions.check, read=read))


# Scenarios


def _small(options: Options) -> Round:
    questions = small_questions()
    ours = _ours(questions, options.settings)
    answer_bytes, path = _answer_bytes(ours), f"/v2/models/{questions.name}/infer"
    entrants = [
        ours,
        _baseline("aiohttp", "aiohttp_fixed.py", answer_bytes, ours.questions, "--path", path),
        _baseline("echo", "echo.py", answer_bytes, ours.questions),
    ]
    if options.mosec_python is not None:
        entrants.append(_mosec(options.mosec_python, questions))
    off = options.settings | {f"server.{FAST_PATH_KEY}": "off"}
    if FAST_PATH_KEY in SERVER_KEYS and off != options.settings:
        entrants.append(_ours(questions, off, "batchserve, fast path off"))
    return Contest("small", entrants, (64, 8, 1)).run_round


def _small_findings(samples: Sequence[Sample]) -> list[Finding]:
    wanted = {
        ("aiohttp", 64): Wanted(4),
        ("echo", 64): Wanted(0.3),
        ("echo", 8): Wanted(0.4),
        ("mosec", 64): Wanted(1.25),
    }
    findings = []
    for base in dict.fromkeys(sample.variant for sample in samples if sample.variant != "batchserve"):
        for count in (64, 8, 1):
            ratios = compare(samples, "batchserve", base, count)
            what = f"requests/s over {base}, {count} connections"
            findings.append(Finding("small", what, "x", ratios, wanted.get((base, count))))
    most = compare(samples, "echo", "aiohttp", 64)
    return [*findings, Finding("small", "requests/s of the echo over aiohttp, 64 connections", "x", most)]


def _latency(options: Options) -> Round:
    ours = _ours(small_questions(), options.settings)
    return Contest("latency", [ours, _baseline("echo", "echo.py", _answer_bytes(ours), ours.questions)], (1,)).run_round


def _latency_findings(samples: Sequence[Sample]) -> list[Finding]:
    more = compare(samples, "batchserve", "echo", 1, "p50_us", lambda ours, theirs: ours - theirs)
    return [Finding("latency", "p50 over the echo's, 1 connection", "µs", more, Wanted(50, is_least=False))]


def _large(options: Options) -> Round:
    questions = large_questions()
    ours = _ours(questions, options.settings)
    path = f"/v2/models/{questions.name}/infer"
    theirs = _baseline("aiohttp", "aiohttp_fixed.py", _answer_bytes(ours), ours.questions, "--path", path)
    return Contest("large", [ours, theirs], (LARGE_CONNECTIONS,)).run_round


def _large_findings(samples: Sequence[Sample]) -> list[Finding]:
    body = len(large_questions().requests(1, HOST)[0].partition(b"\r\n\r\n")[2])
    rates = {
        variant: tuple(s.values["requests_per_s"] * body / 1e9 for s in samples if s.variant == variant)
        for variant in ("batchserve", "aiohttp")
    }
    either = "(one of these two suffices)"
    return [
        Finding("large", "bodies received, batchserve", "GB/s", rates["batchserve"], Wanted(3), either),
        Finding(
            "large",
            "bodies received over aiohttp",
            "x",
            compare(samples, "batchserve", "aiohttp", LARGE_CONNECTIONS),
            Wanted(4),
            either,
        ),
        Finding("large", "bodies received, aiohttp", "GB/s", rates["aiohttp"]),
    ]


def _json(options: Options) -> Round:
    questions = large_questions()
    requests = questions.json_requests(JSON_CONNECTIONS, HOST)
    start = functools.partial(batchserve, [questions.folder], **options.settings)
    check = functools.partial(questions.check, read=json_outputs)
    ours = Entrant("batchserve", "batchserve", start, requests[:1], requests, check)
    path = f"/v2/models/{questions.name}/infer"
    name, script = "aiohttp, json.loads", "aiohttp_fixed.py"
    theirs = _baseline(name, script, _answer_bytes(ours), requests, "--path", path, "--decode-json")
    body = requests[0].partition(b"\r\n\r\n")[2]
    around = functools.partial(_watch, body)
    return Contest("json", [ours, theirs], (JSON_CONNECTIONS, 1), around).run_round


@contextlib.contextmanager
def _watch(body: bytes, entrant: Entrant, server: Process) -> Iterator[Mapping[str, float]]:
    """Watch batchserve's event loop, and time what a program without a server would do with the body."""
    if entrant.name != "batchserve":
        yield {}
        return
    alone_s = _decode_s(body)
    with responsiveness(server.port) as found:
        yield found
    found["decode_ms"] = alone_s * 1e3


def _decode_s(body: bytes) -> float:
    """Time `json.loads` and `np.array`: median of five."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.array(json.loads(body)["inputs"][0]["data"], np.float32)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _json_findings(samples: Sequence[Sample]) -> list[Finding]:
    ours = [sample.values for sample in samples if sample.variant == "batchserve"]
    alone = [s.values for s in samples if s.variant == "batchserve" and s.connections == 1]
    base, soon = "aiohttp, json.loads", Wanted(5, is_least=False)
    findings = [
        Finding(
            "json",
            f"requests/s over {base}, {count} connections",
            "x",
            compare(samples, "batchserve", base, count),
            goal,
        )
        for count, goal in ((JSON_CONNECTIONS, Wanted(4)), (1, None))
    ]
    times = tuple(values["decode_ms"] for values in alone)
    over = tuple(values["decode_ms"] / values["p50_us"] * 1e3 for values in alone)
    findings += [
        Finding("json", "json.loads + np.array alone", "ms", times),
        Finding("json", "that over p50 of a whole request, 1 connection", "x", over),
        Finding("json", "event loop lag p99", "ms", tuple(v["lag_p99_ms"] for v in ours), soon),
        Finding("json", "GET /v2/health/live meanwhile, p99", "ms", tuple(v["ping_p99_ms"] for v in ours)),
    ]
    return findings


def _mixed(options: Options) -> Round:
    questions = small_questions()
    pure = _ours(questions, options.settings)
    infer = pure.load[0]
    gets = [get_request(path, HOST) for path in ("/v2/health/ready", f"/v2/models/{questions.name}")]
    alone = Entrant("infer alone", "batchserve", pure.start, [infer] * 22, pure.questions, pure.check)
    load = [*[infer] * 10, gets[0], *[infer] * 10, gets[1]]
    mixed = Entrant("a GET in eleven", "batchserve", pure.start, load, pure.questions, pure.check)

    @contextlib.contextmanager
    def around(entrant: Entrant, server: Process) -> Iterator[Mapping[str, float]]:
        """Check a connection that mixes before it is loaded."""
        with Conversation(server.port) as conversation:
            answers = [conversation.ask(request) for request in entrant.load]
        questions.check([answers[0]])
        for i, answer in enumerate(answers):
            if entrant.load[i] == infer:
                questions.check([answer])
            elif read_head(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")[0] != 200:
                raise WireError(f"expected 200 for {entrant.load[i]!r}, got {answer[:200]!r}")
        yield {}

    return Contest("mixed", [alone, mixed], (64,), around).run_round


def _mixed_findings(samples: Sequence[Sample]) -> list[Finding]:
    ratios = compare(samples, "a GET in eleven", "infer alone", 64)
    return [
        Finding("mixed", "requests/s over infer alone", "x", ratios, Wanted(0.85)),
        Finding("mixed", "infer requests/s over infer alone", "x", tuple(ratio * 10 / 11 for ratio in ratios)),
    ]
