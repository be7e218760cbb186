"""Clients of a soak: those that behave, those that send nonsense, and those that leave in the middle.

Each is a step that takes one connection's worth of requests and returns how many answers it has checked. A step raises
`WrongAnswerError`, `WireError` or `LoadError` if the server did anything but what it should.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loadtest.client import LoadError
from loadtest.contest import HOST
from loadtest.conversation import Conversation
from loadtest.questions import Questions
from loadtest.wire import get_request, json_outputs

__all__ = ["Client", "Step", "clients"]

Step = Callable[[int], int]
"""Takes the server's port, returns the number of answers that it has checked."""

CHUNKED = (
    "POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\nInference-Header-Content-Length: {length}\r\n"
    "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True)
class Client:
    """One kind of client.

    Attributes:
        step: What it does, again and again.
        pause_s: Seconds between two steps.
    """

    step: Step
    pause_s: float


def clients(small: Questions, large: Questions, image: Questions, waiting: Questions) -> Mapping[str, Client]:
    """Make the clients, by name.

    Args:
        small: Questions with small bodies and answers.
        large: Questions with large bodies.
        image: Questions with large bodies and large answers.
        waiting: Questions to a model that keeps its requests waiting, so that a client can leave meanwhile.
    """
    return {
        "binary": Client(_asking(small, image, large), 0.02),
        "json": Client(lambda port: _ask_json(port, small), 0.02),
        "large json": Client(lambda port: _ask_json(port, large), 0.5),
        "mixed": Client(lambda port: _mix(port, small), 0.05),
        "nonsense": Client(_nonsense(small), 0.05),
        "left waiting": Client(lambda port: _leave_waiting(port, waiting), 0.02),
        "left sending": Client(_leaving_while_sending(small, large), 0.1),
        "left reading": Client(_leaving_while_reading(image), 0.1),
    }


def _asking(*all_questions: Questions) -> Step:
    """Ask everything in turn over one connection."""
    all_requests = [(questions, questions.requests(len(questions.rows), HOST)) for questions in all_questions]

    def step(port: int) -> int:
        with Conversation(port) as conversation:
            for questions, requests in all_requests:
                questions.check([conversation.ask(request) for request in requests])
        return sum(len(requests) for _, requests in all_requests)

    return step


def _ask_json(port: int, questions: Questions) -> int:
    requests = questions.json_requests(2, HOST)
    with Conversation(port) as conversation:
        questions.check([conversation.ask(request) for request in requests], read=json_outputs)
    return len(requests)


def _mix(port: int, questions: Questions) -> int:
    """Ask about the server and the model between inferences, over one connection."""
    paths = ("/v2/health/live", "/v2/health/ready", "/v2", f"/v2/models/{questions.name}", "/v2/models/stats")
    infers = questions.requests(len(paths), HOST)
    with Conversation(port) as conversation:
        for i, path in enumerate(paths):
            _expect(conversation, get_request(path, HOST), 200)
            questions.check_one(i, conversation.ask(infers[i]))
    return 2 * len(paths)


def _nonsense(questions: Questions) -> Step:
    model, good = questions.name, questions.requests(1, HOST)[0]
    path = f"/v2/models/{model}/infer"
    stays = (
        (_post(path, b"{"), 400),
        (_post(path, b'{"inputs":[]}'), 400),
        (_post(path, b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}'), 400),
        (_post("/v2/models/no-such-model/infer", b'{"inputs":[]}'), 404),
        (get_request("/no/such/path", HOST), 404),
        (get_request(path, HOST), 405),
        (_chunked(good, model), 200),
    )
    closes = (
        (f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n{{}}".encode(), 400),
        (f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999999999\r\n\r\n".encode(), 413),
        (b"NONSENSE\r\n\r\n", 400),
        (f"GET /v2 HTTP/1.1\r\nHost: {HOST}\r\nX-Long: {'x' * 70000}\r\n\r\n".encode(), 431),
    )

    def step(port: int) -> int:
        with Conversation(port) as conversation:
            for request, status in stays:
                _expect(conversation, request, status)
            questions.check([conversation.ask(good)])
        for request, status in closes:
            with Conversation(port) as conversation:
                _expect(conversation, request, status)
        return len(stays) + len(closes) + 1

    return step


def _leave_waiting(port: int, questions: Questions) -> int:
    """Leave while the request waits in the queue: half of the time politely, half by a reset."""
    for request in questions.requests(8, HOST):
        conversation = Conversation(port)
        conversation.socket.sendall(request)
        _leave(conversation)
    return 0


def _leaving_while_sending(small: Questions, large: Questions) -> Step:
    """Leave in the middle of a head, of a small body and of a large one."""
    requests = (*small.requests(2, HOST), *large.requests(1, HOST), *large.json_requests(1, HOST))

    def step(port: int) -> int:
        for request in requests:
            head = request.index(b"\r\n\r\n") + 4
            for cut in (random.randrange(1, head), random.randrange(head, len(request))):
                conversation = Conversation(port)
                conversation.socket.sendall(request[:cut])
                _leave(conversation)
        return 0

    return step


def _leaving_while_reading(questions: Questions) -> Step:
    """Leave as soon as the first bytes of an answer are there, with a second request sent behind the first."""
    request = questions.requests(1, HOST)[0]

    def step(port: int) -> int:
        conversation = Conversation(port)
        try:
            conversation.socket.sendall(request + request)
            if not conversation.socket.recv(12).startswith(b"HTTP/1.1 200"):
                raise LoadError("expected the beginning of an answer of status 200")
        except OSError as error:
            raise LoadError(f"no answer to pipelined requests: {error}") from error
        finally:
            _leave(conversation)
        return 1

    return step


def _leave(conversation: Conversation) -> None:
    if random.random() < 0.5:
        conversation.reset()
    else:
        conversation.close()


def _expect(conversation: Conversation, request: bytes, status: int) -> None:
    given = conversation.status(request)
    if given != status:
        raise LoadError(f"expected status {status} for {request[:100]!r}, got {given}")


def _post(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _chunked(request: bytes, model: str) -> bytes:
    """Write a binary request's body in chunks."""
    head, _, body = request.partition(b"\r\n\r\n")
    length = head.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0].decode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:50], body[50:]))
    return CHUNKED.format(model=model, host=HOST, length=length).encode() + chunks + b"0\r\n\r\n"
