"""Confirms settings by real load on real servers: all in turns, so that what else the machine does meets all alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchserve.load.result import Result
    from batchserve.load.scenario import Scenario
    from batchserve.load.search import Goal
    from batchserve.tuning.demand import Demand

__all__ = ["Climb", "Confirmed", "Probe", "better", "confirm", "probe_of"]

PROBES, LONG_PROBES = 6, 3
"""Runs for each server that the time is planned for, and fewer of them where requests are few."""
LEAST_REQUESTS = 300
"""Then a run is made long enough for so many."""
LEAST_S, MOST_S = 1.0, 10.0
"""Length of a run."""
ROUNDS = 3
"""Runs at the traffic's own speed."""

GRACE_S = 0.2
"""What a run takes beyond its requests and the last one's time-out."""

FIRST = 0.9
"""The first speed that is tried, as a share of the predicted one."""
LEAP, UP, DOWN = 1.6, 1.2, 0.94
FAR = 0.6
"""Below this share of the predicted speed the next one is `LEAP` times as large, above it `UP` times."""
PRECISION = 1.05
TRIES = 2
"""Runs at the speeds right below and above the limit."""
ALIKE = 0.97
"""Measured values so close say nothing; then the prediction decides."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of real load.

    Attributes:
        speed: How many times as fast as the traffic is.
        seconds: Length of the part that counts.
        offered_per_s: Requests a second.
        within_share: Share of them with a right answer within the target.
        goodput_per_s: Such answers a second.
        quantile_s: Latency that the goal's share of the answered ones keeps; infinite without any.
        failed: Requests without a right answer.
        is_load_late: True if this machine could not offer that rate in time (`Result.is_load_late`).
    """

    speed: float
    seconds: float
    offered_per_s: float
    within_share: float
    goodput_per_s: float
    quantile_s: float
    failed: int
    is_load_late: bool

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"quantile_s": self.quantile_s if math.isfinite(self.quantile_s) else None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Probe:
        """Read what `to_json` gave.

        Raises:
            TypeError: Something is missing, or there is too much.
        """
        return cls(**{**value, "quantile_s": math.inf if value.get("quantile_s") is None else value["quantile_s"]})


def probe_of(result: Result, goal: Goal, speed: float) -> Probe:
    """Sum a run up."""
    total = result.total
    return Probe(
        speed=speed,
        seconds=result.window_s,
        offered_per_s=result.offered_per_s,
        within_share=total.within_share,
        goodput_per_s=result.goodput_per_s,
        quantile_s=total.latencies.at(goal.share) if total.answered else math.inf,
        failed=sum(total.failed.values()),
        is_load_late=result.is_load_late,
    )


class Climb:
    """Finds the largest speed that holds a goal on one server, run by run.

    Runs at equal speeds count together. A run with which the load itself was late counts like any other: its latencies
    are longer for that, never shorter.

    Args:
        predicted: The largest, as predicted.
        calm: No larger one is tried at first.
        share: The goal's.
    """

    def __init__(self, predicted: float, calm: float, share: float) -> None:
        self._share = share
        self._predicted = predicted
        self._first = min(predicted * FIRST, calm)
        self._by_speed: dict[float, list[Probe]] = {}
        self.probes: list[Probe] = []

    def next(self) -> float | None:
        """Return the next speed to try; None if the largest is known closely enough, and was tried twice."""
        if not self.probes:
            return self._first
        held, missed = self.held, self.missed
        if held is None:
            # Refused in good time, those beyond the limit do not harm the others: what was answered is near the limit.
            return self.probes[-1].speed * max(0.25, DOWN * self.probes[-1].within_share)
        if missed is None:
            return held.speed * (LEAP if held.speed < FAR * self._predicted else UP)
        if missed.speed / held.speed >= PRECISION:
            return math.sqrt(missed.speed * held.speed)
        return next((one.speed for one in (held, missed) if len(self._by_speed[one.speed]) < TRIES), None)

    def note(self, probe: Probe) -> None:
        """Take a run in."""
        self.probes.append(probe)
        self._by_speed.setdefault(probe.speed, []).append(probe)

    @property
    def held(self) -> Probe | None:
        """The runs at the largest speed that met the goal, together; None if none did."""
        held = [one for one in self._sums() if one.within_share >= self._share]
        return max(held, key=lambda one: one.speed, default=None)

    @property
    def missed(self) -> Probe | None:
        """The runs at the least speed above that; None if there were none."""
        held = self.held
        above = [one for one in self._sums() if held is None or one.speed > held.speed]
        return min(above, key=lambda one: one.speed, default=None)

    def _sums(self) -> list[Probe]:
        return [_together(probes) for probes in self._by_speed.values()]


class _Rounds:
    """Runs at the traffic's own speed, a few times."""

    def __init__(self) -> None:
        self.probes: list[Probe] = []

    def next(self) -> float | None:
        return 1.0 if len(self.probes) < ROUNDS else None

    def note(self, probe: Probe) -> None:
        self.probes.append(probe)


@dataclass(frozen=True)
class Confirmed:
    """What real runs gave for one setting.

    Attributes:
        probes: All runs.
        held: Those with the largest speed that met the goal, together, where no rate was given; with one, all runs
            together if these met it. None if none did.
        best: `held`, or what comes nearest to it: the run, or the runs together, with the most goodput.
        is_limited_by_load: True if this machine could offer no more in time, and so may be what missed the goal.
    """

    probes: Sequence[Probe]
    held: Probe | None
    best: Probe
    is_limited_by_load: bool = False


async def confirm(
    apply: Sequence[Callable[[Scenario, float], Awaitable[Probe]]],
    demand: Demand,
    first: Sequence[float],
    *,
    calm_per_s: float,
    known: Sequence[Iterable[Probe]],
    left_s: Callable[[], float],
    keep: Callable[[int, Probe], None],
) -> list[Confirmed | None]:
    """Apply load to each server in turns until each one's limit is known, or there is no time for the next run.

    Args:
        apply: For each server: applies traffic, told its speed, too.
        demand: The traffic.
        first: For each server: the largest speed as predicted.
        calm_per_s: Where no rate is given, no server's first run has more requests a second.
        known: For each server: runs that were made before.
        left_s: Seconds left.
        keep: Told after each run, to save it.

    Returns:
        What came of each; None if there was no time for a single run.
    """
    tries: list[Climb | _Rounds] = [
        _Rounds() if demand.has_rate else Climb(speed, calm_per_s / demand.per_s, demand.goal.share) for speed in first
    ]
    for one, runs in zip(tries, known, strict=True):
        for probe in runs:
            one.note(probe)
    share_s = left_s() / len(tries)
    wanted_s = LEAST_REQUESTS / (demand.per_s * max(1e-9, *first, *([1.0] if demand.has_rate else [])))
    length_s = min(MOST_S, max(LEAST_S, share_s / PROBES, min(wanted_s, share_s / LONG_PROBES)))
    grace_s = GRACE_S + demand.scenario.timeout_s
    is_over = False
    while not is_over:
        is_over = True
        for index, one in enumerate(tries):
            if (speed := one.next()) is None:
                continue
            over_s = left_s() - grace_s
            seconds = demand.fitted(speed, min(length_s, over_s) if over_s > max(LEAST_S, length_s / 2) else length_s)
            if seconds > over_s:
                continue
            probe = await apply[index](demand.at(speed, seconds, len(one.probes)), speed)
            one.note(probe)
            keep(index, probe)
            is_over = False
    return [_summed_up(one, demand.goal.share) if one.probes else None for one in tries]


def _summed_up(one: Climb | _Rounds, share: float) -> Confirmed:
    if isinstance(one, Climb):
        held, missed = one.held, one.missed
        best = held or max(one.probes, key=lambda probe: probe.goodput_per_s)
        return Confirmed(one.probes, held, best, missed is not None and missed.is_load_late)
    together = _together(one.probes)
    return Confirmed(one.probes, together if together.within_share >= share else None, together, together.is_load_late)


def _together(probes: Sequence[Probe]) -> Probe:
    seconds = sum(probe.seconds for probe in probes)
    offered = sum(probe.offered_per_s * probe.seconds for probe in probes)
    within = sum(probe.goodput_per_s * probe.seconds for probe in probes)
    return Probe(
        speed=probes[0].speed,
        seconds=seconds,
        offered_per_s=offered / seconds,
        within_share=within / offered if offered else 1.0,
        goodput_per_s=within / seconds,
        quantile_s=statistics.median(probe.quantile_s for probe in probes),
        failed=sum(probe.failed for probe in probes),
        is_load_late=any(probe.is_load_late for probe in probes),
    )


def better(confirmed: Sequence[Confirmed | None]) -> int:
    """Say which of some settings, in their predicted order, is the best: the first of those that are alike."""
    values = [_value(one) for one in confirmed]
    most = max(values)
    return next(index for index, value in enumerate(values) if value[0] == most[0] and value[1] >= ALIKE * most[1])


def _value(one: Confirmed | None) -> tuple[bool, float]:
    return (False, 0.0) if one is None else (one.held is not None, one.best.goodput_per_s)
