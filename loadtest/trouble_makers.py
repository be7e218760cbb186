"""Loads that go on until they are told to stop, and trouble of several kinds: what the incidents are made of."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np

from loadtest import traffic
from loadtest.client import LoadError
from loadtest.conversation import Conversation
from loadtest.paced import Paced
from loadtest.traffic import HOST
from loadtest.wire import infer_request

__all__ = ["Load", "bad_row", "dawdling", "identity", "largest", "loading", "lookup", "prepare", "wide"]

Load = Callable[[int], AbstractContextManager[object]]
"""Takes the server's port; the load goes on inside the block."""

LOADED = "mlp-wide"
"""The model that `loading` loads."""


def wide(per_s: float, connections: int = 16, burst: int = 1) -> Load:
    """Ask a model whose run reads 101 MB of weights, however many rows it has."""
    row = np.random.default_rng(0).standard_normal((1, 1024)).astype(np.float32)
    return lambda port: Paced(port, [infer_request("mlp-wide", {"x": row}, HOST)], per_s, connections, burst)


def identity(per_s: float) -> Load:
    """Ask a model that costs nothing."""
    row = np.arange(16, dtype=np.float32)[None]
    return lambda port: Paced(port, [infer_request("identity", {"x": row}, HOST)], per_s)


def largest(per_s: float) -> Load:
    """Ask with bodies of 614 kB."""
    return lambda port: Paced(port, [traffic.large()], per_s, reopens=True)  # who is refused is sent away


def lookup(per_s: float) -> Load:
    """Ask for numbers that the model has."""
    return lambda port: Paced(port, [traffic.lookup(number) for number in range(30)], per_s, 24)


def bad_row(per_s: float) -> Load:
    """Ask for a number that the model does not have, so that the run that it is in fails."""
    return lambda port: Paced(port, [traffic.lookup(1000)], per_s)


def dawdling(clients: int) -> Load:
    """Announce large bodies, send a half of them and then a byte now and then; begin again when the server gives up."""
    request = traffic.large()

    def dawdle(port: int, stopping: threading.Event) -> None:
        while not stopping.is_set():
            with contextlib.suppress(LoadError, OSError), Conversation(port) as conversation:
                conversation.socket.sendall(request[: len(request) // 2])
                while not stopping.wait(0.5):
                    conversation.socket.sendall(request[:1])

    return lambda port: _threads(clients, lambda stopping: dawdle(port, stopping))


def loading() -> Load:
    """Load a model that was unloaded, while three clients ask it ten times a second each."""
    row = np.zeros((1, 1024), np.float32)
    request = infer_request(LOADED, {"x": row}, HOST)

    def knock(port: int, stopping: threading.Event) -> None:
        while not stopping.wait(0.1):
            with contextlib.suppress(LoadError, OSError), Conversation(port) as conversation:
                conversation.ask(request)

    @contextlib.contextmanager
    def load(port: int) -> Iterator[object]:
        asking = threading.Thread(target=_post, args=(port, f"/v2/repository/models/{LOADED}/load"))
        with _threads(3, lambda stopping: knock(port, stopping)):
            asking.start()
            yield None
        asking.join(60)

    load.needs_unloaded = True  # type: ignore[attr-defined]
    return load


def prepare(trouble: Load, port: int) -> None:
    """Bring a server into the state that the trouble begins in.

    Raises:
        LoadError: It refuses.
    """
    if getattr(trouble, "needs_unloaded", False):
        _post(port, f"/v2/repository/models/{LOADED}/unload")


def _post(port: int, path: str) -> None:
    body = json.dumps({}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with Conversation(port, 60) as conversation:
        answer = conversation.ask(head.encode() + body)
    if answer[9:12] != b"200":
        raise LoadError(f"POST {path} was answered {answer[:300]!r}")


@contextlib.contextmanager
def _threads(count: int, work: Callable[[threading.Event], None]) -> Iterator[object]:
    """Run something on several threads until the block ends."""
    stopping = threading.Event()
    threads = [threading.Thread(target=work, args=(stopping,), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield None
    finally:
        stopping.set()
        for thread in threads:
            thread.join(30)
