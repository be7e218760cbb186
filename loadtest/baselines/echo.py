"""A bare echo, the least that an HTTP server in Python can cost: read a request, answer fixed bytes.

    python loadtest/baselines/echo.py --answer-bytes 300

An `asyncio.BufferedProtocol` on uvloop. Every byte is received into one buffer and passed to httptools, which parses
the head and skips the body; Python runs once a chunk and once a request. Needs httptools and uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import uvloop

__all__ = ["Echo"]

RECEIVE_BYTES = 1 << 18


class Echo(asyncio.BufferedProtocol):
    """One connection. Event loop only.

    Args:
        answer: Head and body, sent for every request.
        room: Where what comes is received; all connections share it, since nothing in it is kept.
    """

    def __init__(self, answer: bytes, room: memoryview) -> None:
        self._answer = answer
        self._room = room
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give room for what comes."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what came."""
        self._parser.feed_data(self._room[:nbytes])

    def on_message_complete(self) -> None:
        """Answer; called by the parser at the end of a request."""
        self._transport.write(self._answer)


async def serve(answer_bytes: int) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {answer_bytes}\r\n\r\n"
    answer, room = head.encode() + bytes(answer_bytes), memoryview(bytearray(RECEIVE_BYTES))
    server = await asyncio.get_running_loop().create_server(lambda: Echo(answer, room), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answer every request with the same bytes.")
    parser.add_argument("--answer-bytes", type=int, required=True, help="length of the answer's body")
    uvloop.run(serve(parser.parse_args().answer_bytes))
