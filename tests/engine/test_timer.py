"""The one-shot timer, on both event loops and with and without a timerfd."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from batchserve import timer as timer_module
from batchserve.timer import Timer


@pytest.fixture(params=["timerfd", "loop"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "loop":
        monkeypatch.setattr(timer_module, "_create_timerfd", lambda: None)
    elif not sys.platform.startswith("linux"):
        pytest.skip("timerfd is Linux's")
    return str(request.param)


async def fired(timer_at: float, *, also: float | None = None) -> list[float]:
    """Arm a timer (and arm it again) and return when it called, once it has."""
    loop = asyncio.get_running_loop()
    called: list[float] = []
    done = asyncio.Event()

    def callback() -> None:
        called.append(time.monotonic())
        done.set()

    timer = Timer(loop, callback)
    timer.wake_at(timer_at)
    if also is not None:
        timer.wake_at(also)
    await asyncio.wait_for(done.wait(), 5)
    timer.close()
    return called


async def test_timer_calls_at_its_moment_not_before(kind: str) -> None:
    at = time.monotonic() + 0.003
    (called,) = await fired(at)
    assert called >= at - 0.001  # asyncio's own timer may be up to its clock's resolution early


async def test_past_moment_calls_at_once(kind: str) -> None:
    assert await fired(time.monotonic() - 10)
    assert await fired(0.0)


async def test_earlier_moment_replaces_a_later_one(kind: str) -> None:
    now = time.monotonic()
    (called,) = await fired(now + 60, also=now + 0.002)
    assert called < now + 30


async def test_later_moment_leaves_the_earlier_one_armed(kind: str) -> None:
    now = time.monotonic()
    (called,) = await fired(now + 0.002, also=now + 60)
    assert called < now + 30


async def test_closed_timer_never_calls_and_leaves_no_descriptor(kind: str) -> None:
    loop = asyncio.get_running_loop()
    called: list[float] = []
    timer = Timer(loop, lambda: called.append(0.0))
    timer.wake_at(time.monotonic())
    timer.close()
    timer.close()
    await fired(time.monotonic() + 0.002)
    assert called == []
    assert not timer.is_precise


async def test_linux_keeps_time_with_a_timerfd() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("timerfd is Linux's")
    timer = Timer(asyncio.get_running_loop(), lambda: None)
    assert timer.is_precise
    timer.close()


def test_timerfd_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(fired(time.monotonic() + 0.002))
