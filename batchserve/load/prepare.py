"""Makes a scenario ready: asks the server about its models, draws the requests, and asks each once, alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import numpy as np

from batchserve.core.tensors import DATATYPES, TensorSpec
from batchserve.errors import LoadError
from batchserve.load.answers import CHUNKED, Head, MalformedAnswer, dechunked, read_head
from batchserve.load.plan import Plan, choose, schedule
from batchserve.load.questions import Question, draw_arrays, write_request

if TYPE_CHECKING:
    from batchserve.load.arrivals import Arrivals
    from batchserve.load.scenario import Scenario, Stream
    from batchserve.load.target import Target

__all__ = ["Prepared", "ask", "prepare"]

TRIES = 5
RETRY_S = 0.2
CLOSED_LOOP_ROUND = 1 << 14


@dataclass(frozen=True)
class Prepared:
    """A scenario whose requests are drawn and whose right answers are known.

    Attributes:
        scenario: What it was made from.
        target: The server.
        questions: All requests.
        by_stream: Indices of each stream's questions.
    """

    scenario: Scenario
    target: Target
    questions: Sequence[Question]
    by_stream: Sequence[Sequence[int]]

    def plan(self, scenario: Scenario | None = None) -> Plan:
        """Draw a run.

        Args:
            scenario: The scenario with another speed, duration or seed, if it is not the one prepared; same streams.

        Raises:
            ConfigError: It would be too long.
        """
        asked = scenario or self.scenario
        random = np.random.default_rng([asked.seed, 1])
        parts = self._parts(asked)
        if asked.is_open_loop:
            times_s, which = schedule(parts, asked.duration_s, asked.most_requests, random)
        else:
            times_s = None
            which = choose(*self._mixed(asked, range(len(asked.streams))), CLOSED_LOOP_ROUND, random)
        return Plan(
            questions=self.questions,
            streams=[stream.name for stream in asked.streams],
            which=which,
            times_s=times_s,
            connections=asked.connections,
            duration_s=asked.duration_s,
            warmup_s=asked.warmup_s,
            timeout_s=asked.timeout_s,
            target_s=asked.target_s,
            most_requests=asked.most_requests,
            timing_every=asked.timing_every,
            tick_s=asked.tick_s,
            targets_s=[stream.target_s for stream in asked.streams],
        )

    def _parts(self, scenario: Scenario) -> list[tuple[Arrivals, Sequence[int], Sequence[float]]]:
        """List the independent arrivals and what each chooses among."""
        own = [index for index, stream in enumerate(scenario.streams) if stream.arrivals is not None]
        parts: list[tuple[Arrivals, Sequence[int], Sequence[float]]] = [
            (arrivals, *self._mixed(scenario, [i])) for i in own if (arrivals := scenario.streams[i].arrivals)
        ]
        shared = [index for index in range(len(scenario.streams)) if index not in own]
        if shared and scenario.arrivals is not None:
            parts.append((scenario.arrivals, *self._mixed(scenario, shared)))
        return parts

    def _mixed(self, scenario: Scenario, streams: Sequence[int]) -> tuple[list[int], list[float]]:
        """List the questions of some streams and how often each is to be chosen."""
        questions: list[int] = []
        weights: list[float] = []
        for index in streams:
            ours = self.by_stream[index]
            questions += ours
            weights += [scenario.streams[index].weight / len(ours)] * len(ours)
        return questions, weights


async def prepare(scenario: Scenario, target: Target) -> Prepared:
    """Draw a scenario's requests and learn the right answer of each.

    Raises:
        LoadError: The server is not there, does not know a model, or does not answer one of the requests.
    """
    questions: list[Question] = []
    by_stream = []
    random = np.random.default_rng(scenario.seed)
    for index, stream in enumerate(scenario.streams):
        specs = await _specs(stream, target)
        ours = [_question(index, stream, specs, target, random) for _ in range(stream.variants)]
        by_stream.append(list(range(len(questions), len(questions) + len(ours))))
        for question in ours:
            await _learn(question, stream, target)
        questions += ours
    return Prepared(scenario, target, questions, by_stream)


async def _specs(stream: Stream, target: Target) -> list[TensorSpec]:
    """Ask the server what a model takes.

    Raises:
        LoadError: It does not say.
    """
    if stream.form == "raw":
        return [TensorSpec("", stream.raw_datatype, (-1, *stream.raw_shape))]
    path = f"{target.prefix}/v2/models/{quote(stream.model, safe='')}"
    if stream.version:
        path += f"/versions/{stream.version}"
    request = f"GET {path} HTTP/1.1\r\nHost: {target.authority}\r\nConnection: close\r\n\r\n"
    head, body = await ask(target, request.encode())
    if head.status != 200:
        raise LoadError(f"{target.url}: model {stream.model!r}: GET {path} answered {head.status}: {_text(body)}")
    try:
        return [_spec(entry) for entry in msgspec.json.decode(body)["inputs"]]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise LoadError(f"{target.url}: model {stream.model!r}: its metadata cannot be read: {_text(body)}") from error


def _spec(entry: Any) -> TensorSpec:
    datatype = DATATYPES.get(entry["datatype"])
    if datatype is None:
        raise LoadError(f"input {entry['name']!r} is {entry['datatype']}, which cannot be drawn")
    return TensorSpec(entry["name"], datatype, tuple(entry["shape"]))


def _question(
    index: int, stream: Stream, specs: Sequence[TensorSpec], target: Target, random: np.random.Generator
) -> Question:
    arrays = draw_arrays(stream, specs, random)
    quoted = replace(stream, model=quote(stream.model, safe=""))
    return Question(
        index,
        write_request(quoted, specs, arrays, target),
        write_request(quoted, specs, arrays, target, asks_timing=True),
        rows=arrays[0].shape[0] if arrays[0].ndim else 1,
        is_raw=stream.form == "raw",
        answer_dtype=stream.raw_datatype.dtype if stream.form == "raw" and not stream.raw_json else None,
    )


async def _learn(question: Question, stream: Stream, target: Target) -> None:
    """Ask a question alone and take its answer as the right one.

    Raises:
        LoadError: There is no answer with outputs, several times over.
    """
    head, body = Head(0, 0), b""
    for _ in range(TRIES):
        head, body = await ask(target, question.plain)
        if head.status == 200:
            break
        await asyncio.sleep(RETRY_S)  # it may be busy with somebody else's requests, and cannot call us
    if head.status != 200:
        raise LoadError(f"{target.url}: stream {stream.name!r}: a request alone gave {head.status}: {_text(body)}")
    if not stream.is_checked:
        return
    try:
        question.learn(head, body)
    except MalformedAnswer as error:
        raise LoadError(f"{target.url}: stream {stream.name!r}: {error}") from error


async def ask(target: Target, request: bytes, timeout_s: float = 60.0) -> tuple[Head, bytes]:
    """Send one request over a connection of its own.

    Returns:
        The head and the body of its answer.

    Raises:
        LoadError: There is none.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(target.host, target.port, limit=1 << 20)
            try:
                writer.write(request)
                head = read_head(await reader.readuntil(b"\r\n\r\n"))
                if head.length != CHUNKED:
                    return head, await reader.readexactly(head.length)
                data = b""
                while (whole := dechunked(data)) is None:
                    piece = await reader.read(1 << 16)
                    if not piece:
                        raise MalformedAnswer("the answer ended before its last chunk")
                    data += piece
                return head, whole[0]
            finally:
                writer.close()
    except TimeoutError as error:
        raise LoadError(f"{target.url} did not answer within {timeout_s:g} s") from error
    except (OSError, EOFError, MalformedAnswer, asyncio.LimitOverrunError) as error:
        raise LoadError(f"{target.url} cannot be asked: {error or type(error).__name__}") from error


def _text(body: bytes) -> str:
    return body[:300].decode("utf-8", "replace")
