"""One connection of the load: sends a request, takes its answer, says what became of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from batchserve.load.answers import CHUNKED, Head, MalformedAnswer, dechunked, read_head

if TYPE_CHECKING:
    from batchserve.load.generator import Generator
    from batchserve.load.questions import Question

__all__ = ["RECEIVE_BYTES", "Connection", "Heads"]

RECEIVE_BYTES = 1 << 18

MOST_HEADS = 1024

clock = time.monotonic


class Heads:
    """Heads by their bytes: a server sends the same few again and again, unless they tell times."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, head: bytes) -> Head:
        """Return what a head says.

        Raises:
            MalformedAnswer: It is none.
        """
        known = self._known.get(head)
        if known is None:
            known = read_head(head)
            if known.phases_s is None:
                if len(self._known) >= MOST_HEADS:
                    self._known.clear()
                self._known[head] = known
        return known


class Connection(asyncio.BufferedProtocol):
    """One connection, with at most one request under way. Event loop only.

    All connections receive into one buffer, which is empty between two calls of the loop.

    Args:
        generator: Hears what becomes of each request.
    """

    __slots__ = (
        "_generator",
        "_is_timed",
        "_missing",
        "_parts",
        "_scratch",
        "due_s",
        "is_open",
        "question",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._scratch = generator.scratch
        self._parts: list[bytes] = []
        self._missing = 0
        self._is_timed = False
        self.is_open = False
        self.question: Question | None = None
        self.due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that it is there; the generator uses it once its own call returns."""
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def ask(self, question: Question, due_s: float, *, is_timed: bool) -> None:
        """Send a request.

        Args:
            question: Which.
            due_s: When it was to be sent (monotonic): its latency counts from then.
            is_timed: True if the server is to say where the time went.
        """
        self.question = question
        self.due_s = due_s
        self._is_timed = is_timed
        self.transport.write(question.timed if is_timed else question.plain)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the room that all connections share."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what came."""
        data = self._scratch[:nbytes].tobytes()
        question = self.question
        if question is not None and data == question.answer and not self._parts:
            self.question = None
            self._generator.succeeded(self, question, clock())
            return
        self._parts.append(data)
        self._missing -= nbytes
        if self._missing > 0:
            return
        self._missing = 0
        try:
            self._take(b"".join(self._parts) if len(self._parts) > 1 else data)
        except MalformedAnswer as error:
            self._fail("malformed", str(error))

    def _take(self, data: bytes) -> None:
        """Go on with an answer, all of which that has come is given.

        Raises:
            MalformedAnswer: It is none.
        """
        question = self.question
        if question is None:
            raise MalformedAnswer(f"something came that was not asked for: {data[:80]!r}")
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self._generator.heads.find(data[:end])
        if head.length == CHUNKED:
            whole = dechunked(data[end:])
            if whole is None:
                return
            body, surplus = whole[0], len(data) - end - whole[1]
        else:
            surplus = len(data) - end - head.length
            if surplus < 0:
                self._missing = -surplus
                return
            body = data[end:]
        if surplus > 0:
            raise MalformedAnswer(f"an answer is {surplus} bytes longer than it says")
        self._parts.clear()
        now = clock()
        self.question = None
        if head.closes:
            self.abandon()
        if head.status != 200:
            self._generator.failed(self, question, f"status {head.status}", now, body[:300])
        elif not question.is_right(head, body):
            self._generator.failed(self, question, "wrong answer", now, body[:300])
        else:
            if self._is_timed:
                self._generator.timed(head)
            else:
                question.answer = data
            self._generator.succeeded(self, question, now)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up what was under way."""
        self._fail("closed", "the server closed a connection with a request under way")
        self._generator.lost(self)

    def give_up(self) -> None:
        """End a request that takes too long, and the connection with it: its answer may still come."""
        self._fail("timeout", "")

    def _fail(self, kind: str, text: str) -> None:
        self._parts.clear()
        self._missing = 0
        question, self.question = self.question, None
        self.abandon()
        if question is not None:
            self._generator.failed(self, question, kind, clock(), text.encode())

    def abandon(self) -> None:
        """Close it; what is under way is not waited for."""
        if self.is_open:
            self.is_open = False
            self.transport.abort()
