"""A server whose delays are known: what a load generator reports can be held against what was.

    python loadtest/baselines/delays.py --least-ms 50 --mean-ms 100 [--stall-after-s 3 --stall-s 1]

Every request is answered after a delay drawn from an exponential distribution above a least one. The server measures
each delay as it was, from reading the request to writing the answer, and prints all of them as JSON when it gets
SIGTERM. So many seconds after the first request it stands still for a while, once.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import cast

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop

from batchserve.timer import Timer

__all__ = ["Delays"]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\0\0\0\0"


class Delays:
    """Holds answers until their time has come. Event loop only.

    Args:
        least_s: No delay is shorter.
        mean_s: Mean of the delays.
        stall_after_s: The moment of the stall, counted from the first request; infinite for none.
        stall_s: Its length.
    """

    def __init__(self, least_s: float, mean_s: float, stall_after_s: float, stall_s: float) -> None:
        self._least_s, self._mean_s = least_s, mean_s
        self._stall_after_s, self._stall_s = stall_after_s, stall_s
        self._random = random.Random(0)
        self._held: list[tuple[float, int, float, asyncio.Transport]] = []
        self._count = 0
        self._timer = Timer(asyncio.get_running_loop(), self._answer)
        self._loop = asyncio.get_running_loop()
        self.delays_s: list[float] = []

    def hold(self, transport: asyncio.Transport) -> None:
        """Take a request that has just been read."""
        now = time.monotonic()
        if not self._count and self._stall_after_s < float("inf"):
            self._loop.call_later(self._stall_after_s, time.sleep, self._stall_s)
        self._count += 1
        delay_s = self._least_s + self._random.expovariate(1 / (self._mean_s - self._least_s))
        heapq.heappush(self._held, (now + delay_s, self._count, now, transport))
        self._timer.wake_at(self._held[0][0])

    def _answer(self) -> None:
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, read_s, transport = heapq.heappop(self._held)
            transport.write(HEAD)
            self.delays_s.append(time.monotonic() - read_s)
        if self._held:
            self._timer.wake_at(self._held[0][0])


class _Connection(asyncio.Protocol):
    """Reads requests that carry a Content-Length; one at a time, as the generator sends them."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = int(self._data[:end].lower().rpartition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(self._data) >= end + length:
            self._data = self._data[end + length :]
            self._delays.hold(self._transport)


async def serve(delays: Delays) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: _Connection(delays), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()
    print(json.dumps(delays.delays_s), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Answer after delays that are known.")
    parser.add_argument("--least-ms", type=float, default=50.0, help="(%(default)s)")
    parser.add_argument("--mean-ms", type=float, default=100.0, help="(%(default)s)")
    parser.add_argument("--stall-after-s", type=float, default=float("inf"), help="after the first request (never)")
    parser.add_argument("--stall-s", type=float, default=1.0, help="(%(default)s)")
    one = parser.parse_args()
    await serve(Delays(one.least_ms / 1e3, one.mean_ms / 1e3, one.stall_after_s, one.stall_s))


if __name__ == "__main__":
    uvloop.run(main())
