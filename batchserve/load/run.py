"""Applies a scenario to a server, from the first question to the figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from batchserve.load.generator import Generator
from batchserve.load.prepare import prepare
from batchserve.load.result import sum_up
from batchserve.load.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from batchserve.load.generator import Progress
    from batchserve.load.prepare import Prepared
    from batchserve.load.result import Result
    from batchserve.load.scenario import Scenario

__all__ = ["apply", "run_load", "run_on_fast_loop"]

T = TypeVar("T")

Observer = Callable[["Progress"], None]


async def apply(prepared: Prepared, scenario: Scenario | None = None, observe: Observer | None = None) -> Result:
    """Apply a prepared scenario once.

    Args:
        prepared: Requests and right answers.
        scenario: The same streams with another speed, duration or seed.
        observe: Told about the progress once a second.

    Raises:
        ConfigError: The schedule would be too long.
    """
    plan = prepared.plan(scenario)
    return sum_up(plan, await Generator(prepared.target, plan, observe).run())


def run_on_fast_loop(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine on an event loop of its own, uvloop's where there is one. Blocks."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def run_load(scenario: Scenario, url: str, *, may_be_remote: bool = False, observe: Observer | None = None) -> Result:
    """Apply a scenario to a server. Blocks until it has ended.

    Args:
        scenario: What to ask, and how fast.
        url: The server's address.
        may_be_remote: True if load may leave this machine.
        observe: Told about the progress once a second.

    Raises:
        ConfigError: The address is no such address, or the schedule would be too long.
        LoadError: The server is not there or does not answer one of the requests alone.
    """
    target = parse_target(url, may_be_remote=may_be_remote)

    async def run() -> Result:
        return await apply(await prepare(scenario, target), observe=observe)

    return run_on_fast_loop(run())
