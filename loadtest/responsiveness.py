"""How responsive a server is while it is loaded: its own measure of its event loop's lag, and a client that knocks."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator

from loadtest.conversation import Conversation
from loadtest.scrape import quantile, scrape
from loadtest.wire import get_request

__all__ = ["responsiveness"]

LAG = "batchserve_event_loop_lag_seconds"
PING_EVERY_S = 0.01


@contextlib.contextmanager
def responsiveness(port: int) -> Iterator[dict[str, float]]:
    """Watch a server for as long as the context lasts.

    Yields:
        A dict that is filled at the end: `lag_p99_ms`, the 99th percentile of the lag that the server measured;
        `lag_max_ms`, the upper bound of the highest bucket that grew; `ping_p99_ms`, the 99th percentile of how long
        `GET /v2/health/live` took, asked every 10 ms over one connection; `pings`, how often.

    Raises:
        LoadError: The server does not answer.
    """
    found: dict[str, float] = {}
    before = scrape(port).buckets(LAG)
    took_s: list[float] = []
    is_over = threading.Event()
    with Conversation(port) as conversation:
        pinger = threading.Thread(target=_ping, args=(conversation, is_over, took_s), daemon=True)
        pinger.start()
        try:
            yield found
        finally:
            is_over.set()
            pinger.join()
    after = scrape(port).buckets(LAG)
    found["lag_p99_ms"] = quantile(0.99, before, after) * 1e3
    found["lag_max_ms"] = quantile(1.0, before, after) * 1e3
    found["ping_p99_ms"] = sorted(took_s)[math.ceil(0.99 * len(took_s)) - 1] * 1e3 if took_s else math.nan
    found["pings"] = len(took_s)


def _ping(conversation: Conversation, is_over: threading.Event, took_s: list[float]) -> None:
    request = get_request("/v2/health/live", "127.0.0.1")
    while not is_over.wait(PING_EVERY_S):
        start = time.perf_counter()
        conversation.ask(request)
        took_s.append(time.perf_counter() - start)
