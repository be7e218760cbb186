"""Long work pauses now and then on helper threads, and never on an event loop."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.v2_codec import NO_PHASES, echo

from batchserve.core.request import Response
from batchserve.frontend import pauses
from batchserve.frontend.number_text import PIECE_BYTES
from batchserve.frontend.tensor_json_output import PIECE_ELEMENTS
from batchserve.frontend.v2 import Asked, decode, encode


class Clock:
    """A time that goes on by a millisecond with every look at it, and notes the pauses."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def perf_counter(self) -> float:
        self.now_s += 1e-3
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pauses, "time", clock)
    return clock


def test_pause_comes_only_when_it_is_due(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "WORK_S", 2.5e-3)
    between = pauses.Pauses()
    for _ in range(3):
        between.here()
    assert clock.slept == [pauses.PAUSE_S]
    between.here()
    between.here()
    assert clock.slept == [pauses.PAUSE_S]
    between.here()
    assert clock.slept == [pauses.PAUSE_S] * 2


def test_pause_is_a_real_sleep() -> None:
    """A sleep of zero gives the interpreter up and takes it again before anyone else has woken up."""
    assert pauses.PAUSE_S > 0


VALUES = np.linspace(0, 1, 50_000, dtype=np.float32)
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, len(VALUES)], "data": VALUES.tolist()}]}
).encode()


def read_and_write() -> None:
    model = echo("FP32", (-1, -1))
    decode(model, BODY, None, 0.0)
    encode(model, Asked("", (0,), (False,)), Response((VALUES[None],), NO_PHASES, 1))


def test_large_json_is_read_and_written_with_pauses_off_the_loop_and_without_on_it(clock: Clock) -> None:
    async def on_the_loop() -> None:
        read_and_write()

    asyncio.run(on_the_loop())
    assert clock.slept == []

    async def off_the_loop(pool: ThreadPoolExecutor) -> None:
        await asyncio.get_running_loop().run_in_executor(pool, read_and_write)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(off_the_loop(pool))
    pieces = len(BODY) // PIECE_BYTES + len(VALUES) // PIECE_ELEMENTS
    assert pieces < len(clock.slept) < 2 * pieces
