"""Finds the largest rate at which a server still answers in time, and says how sure that is.

The rate is doubled until the target is missed, then the gap is halved (on a logarithmic scale) until it is small. One
short run proves little, so the rate found is run again with other seeds; only if all of those together hold the target,
and all but one in three do alone, does it stand. Otherwise the next lower one is tried.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchserve.config.units import BadValueError, parse_duration
from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from batchserve.load.result import Result

__all__ = ["Found", "Goal", "Probe", "find_rate", "parse_goal"]

Apply = Callable[[float, int], Awaitable["Result"]]
"""Applies a rate with a seed."""

_GOAL = re.compile(r"p(?P<percent>[0-9]{1,2}(\.[0-9]{1,3})?)=(?P<limit>.+)")


@dataclass(frozen=True)
class Goal:
    """So large a share of all requests is to be answered within so long."""

    share: float
    target_s: float

    def is_held(self, within: int, count: int) -> bool:
        """Say whether so many of so many requests are enough; failed ones are in the count alone."""
        return count > 0 and within >= self.share * count - 1e-9


def parse_goal(text: str) -> Goal:
    """Read `p99=20ms`.

    Raises:
        ConfigError: It is no such goal.
    """
    match = _GOAL.fullmatch(text.strip())
    if match is None or not 0 < float(match["percent"]) < 100:
        raise ConfigError(f"target {text!r}: expected a percentile and a duration, such as p99=20ms")
    try:
        target_s = parse_duration(match["limit"])
    except BadValueError as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise ConfigError(f"target {text!r}: {match['limit']!r} {error.reason}{hint}") from error
    if target_s == 0:
        raise ConfigError(f"target {text!r}: nothing is answered within no time; expected a duration above 0")
    return Goal(float(match["percent"]) / 100, target_s)


@dataclass(frozen=True)
class Probe:
    """One run of the search.

    Attributes:
        rate: Requests a second that were offered.
        is_held: True if the goal was met, and the load itself was not late.
        is_load_late: True if this machine could not offer that rate in time: then nothing is known of the server.
        is_confirmation: True if it repeats a rate that had been found.
        result: What came of it.
    """

    rate: float
    is_held: bool
    is_load_late: bool
    is_confirmation: bool
    result: Result


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        goal: What was to be held.
        rate: The largest rate that held it, 0 if not even the lowest did.
        missed_rate: The least rate above it that did not; infinite if none was tried.
        share: Share of the requests of the confirming runs that were within the target, all together.
        shares: The same of each.
        is_limited_by_load: True if the search ended because the load, not the server, could do no more.
        probes: All runs in order.
    """

    goal: Goal
    rate: float
    missed_rate: float
    share: float
    shares: Sequence[float]
    is_limited_by_load: bool
    probes: Sequence[Probe]


class _Search:
    """The state of one search."""

    def __init__(self, apply: Apply, goal: Goal, most_probes: int) -> None:
        self._apply = apply
        self._goal = goal
        self._most_probes = most_probes
        self.probes: list[Probe] = []

    @property
    def is_exhausted(self) -> bool:
        """True if no more runs may be made."""
        return len(self.probes) >= self._most_probes

    async def probe(self, rate: float, *, is_confirmation: bool = False) -> Probe:
        """Make one run, with a seed of its own."""
        result = await self._apply(rate, len(self.probes))
        is_held = self._goal.is_held(result.total.within, result.offered)
        probe = Probe(rate, is_held and not result.is_load_late, result.is_load_late, is_confirmation, result)
        self.probes.append(probe)
        return probe

    async def bracket(self, first_rate: float, least_rate: float, most_rate: float) -> tuple[float, float]:
        """Find a rate that holds and one that does not, a factor of two apart; 0 or infinity where there is none."""
        low, high, rate = 0.0, math.inf, first_rate
        while not self.is_exhausted:
            if (await self.probe(rate)).is_held:
                low = rate
                if high < math.inf or rate >= most_rate:
                    break
                rate = min(rate * 2, most_rate)
            else:
                high = rate
                if low or rate <= least_rate:
                    break
                rate = max(rate / 2, least_rate)
        return low, high

    async def narrow(self, low: float, high: float, precision: float) -> tuple[float, float]:
        """Halve the gap between a rate that holds and one that does not until it is small."""
        while low and high < math.inf and high / low > 1 + precision and not self.is_exhausted:
            middle = math.sqrt(low * high)
            if (await self.probe(middle)).is_held:
                low = middle
            else:
                high = middle
        return low, high

    async def confirm(self, rate: float, times: int) -> Sequence[Probe]:
        """Run a rate again; fewer times if it has already missed too often."""
        runs: list[Probe] = []
        for _ in range(times):
            runs.append(await self.probe(rate, is_confirmation=True))
            if sum(not run.is_held for run in runs) > times // 3:
                break
        return runs

    def stands(self, runs: Sequence[Probe], times: int) -> bool:
        """Say whether confirming runs hold the goal together, and nearly all of them alone."""
        if len(runs) < times or sum(not run.is_held for run in runs) > times // 3:
            return False
        within = sum(run.result.total.within for run in runs)
        return self._goal.is_held(within, sum(run.result.offered for run in runs))


async def find_rate(
    apply: Apply,
    goal: Goal,
    *,
    first_rate: float,
    least_rate: float = 0.5,
    most_rate: float = 1e6,
    precision: float = 0.05,
    confirmations: int = 3,
    most_probes: int = 40,
) -> Found:
    """Find the largest rate that holds a goal.

    Args:
        apply: Makes one run.
        goal: What is to be held.
        first_rate: Where to begin; a guess within a factor of ten saves time.
        least_rate: No lower rate is tried.
        most_rate: No higher rate is tried.
        precision: How far the next rate known to miss may be above the one found, as a share.
        confirmations: How often the rate found is run again.
        most_probes: No more runs are made before the confirmation; each step of that adds some.

    Returns:
        The rate, and all runs.
    """
    search = _Search(apply, goal, most_probes)
    low, high = await search.bracket(first_rate, least_rate, most_rate)
    low, high = await search.narrow(low, high, precision)
    runs: Sequence[Probe] = ()
    while low:
        runs = await search.confirm(low, confirmations)
        if search.stands(runs, confirmations):
            break
        low, high = (low / (1 + precision), low) if low / (1 + precision) >= least_rate else (0.0, low)
    offered = sum(run.result.offered for run in runs) if low else 0
    return Found(
        goal=goal,
        rate=low,
        missed_rate=high,
        share=sum(run.result.total.within for run in runs) / offered if offered else 0.0,
        shares=[run.result.total.within_share for run in runs] if low else [],
        is_limited_by_load=any(probe.is_load_late for probe in search.probes if probe.rate <= high),
        probes=search.probes,
    )
