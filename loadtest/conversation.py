"""One connection to a server, asked one thing after the other. Blocks; one thread."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

from loadtest.client import LoadError
from loadtest.wire import read_head

__all__ = ["Conversation"]

RECEIVE_BYTES = 1 << 18


class Conversation:
    """A connection over which requests are sent and answered in turn; a context manager that closes it.

    Args:
        port: Where the server listens on this machine.
        timeout_s: Seconds that connecting, and each wait for bytes, may take.

    Raises:
        LoadError: There is no server.
    """

    def __init__(self, port: int, timeout_s: float = 20.0) -> None:
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        except OSError as error:
            raise LoadError(f"no connection to 127.0.0.1:{port}: {error}") from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, whatever was asked."""
        self.socket.close()

    def reset(self) -> None:
        """Close it as a crash or an impatient proxy does: what is under way is thrown away, and the server is told."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def ask(self, request: bytes) -> bytes:
        """Send a request and return its whole answer, head and body.

        Raises:
            LoadError: The connection broke, or no answer came in time.
            WireError: What came is no HTTP.
        """
        try:
            self.socket.sendall(request)
            return self.answer()
        except OSError as error:
            raise LoadError(f"no answer to {request[:60]!r}: {error}") from error

    def answer(self) -> bytes:
        """Receive one whole answer.

        Raises:
            LoadError: The server closed the connection before its end.
            OSError: The connection broke, or nothing came in time.
            WireError: What came is no HTTP.
        """
        received, wanted = bytearray(), 0
        while not wanted or len(received) < wanted:
            data = self.socket.recv(RECEIVE_BYTES)
            if not data:
                raise LoadError(f"the server closed the connection after {bytes(received[:200])!r}")
            received += data
            if not wanted:
                end = received.find(b"\r\n\r\n") + 4
                if end >= 4:
                    wanted = end + int(read_head(bytes(received[:end]))[1]["content-length"])
        return bytes(received)

    def status(self, request: bytes) -> int:
        """Send a request and return the status of its answer. Raises what `ask` does."""
        return int(self.ask(request)[9:12])
