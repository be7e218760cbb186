"""How much traffic a set of rules can carry: scenarios, and the search for the largest rate that keeps the target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from batchserve.core.curves import Curve, Run, line
from batchserve.core.simulator import Member, Scheduled, simulate
from batchserve.core.traffic import Traffic, bursts, poisson, ramp, volleys
from loadtest.policies.aimd import Aimd
from loadtest.policies.fixed import FixedSizeAndTimer, Greedy
from loadtest.policies.regression import RegressionWithHold
from loadtest.simulated import offline_limit, untuned

__all__ = ["CURVES", "KINDS", "REQUESTS", "ROWS", "Best", "Scenario", "carried", "compared", "largest", "share_within"]

ROWS = 32
"""Most rows in a run, for everybody."""

TARGETS = 4.0
"""The latency target, as a multiple of the time of a full batch."""

CURVES: dict[str, Curve] = {"GPU-like": line(0.004, 0.00005), "CPU-like": line(0.0005, 0.001)}
"""4 ms + 50 µs a row: 32 rows cost 1.4 times as much as one. 0.5 ms + 1 ms a row: they cost 22 times as much."""

KINDS = ("Poisson", "on/off", "volleys", "ramps")

SIZES = (32, 28, 24, 20, 16, 12, 8, 4)
DELAYS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""The grid of fixed sizes, and of timers as shares of the target."""

WANTED = 0.99
SEEDS = (1, 2)
REQUESTS = 30_000
"""Requests of each seed at the offline limit; fewer come at lower rates."""

WARM = 0.1
"""Share of the time that is not counted: some rules need it to find their sizes."""

STEP = 0.005
"""Resolution of a largest rate, as a share of the offline limit."""


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic on one kind of device.

    Attributes:
        kind: One of `KINDS`.
        device: A name of `CURVES`.
        slots: Batches that may run at once.
    """

    kind: str
    device: str
    slots: int

    @property
    def curve(self) -> Curve:
        """What runs cost."""
        return CURVES[self.device]

    @property
    def full_s(self) -> float:
        """Seconds of a full batch."""
        return self.curve(Run(ROWS))

    @property
    def target_s(self) -> float:
        """The latency target."""
        return TARGETS * self.full_s

    @property
    def limit(self) -> float:
        """Rows per second of full batches without a pause."""
        return offline_limit(self.curve, ROWS, self.slots)

    def traffic(self, load: float, seed: int) -> Traffic:
        """Draw traffic of a mean rate of `load` times the limit; for ramps it is the rate at their top."""
        rate, duration_s, unit_s = load * self.limit, REQUESTS / self.limit, self.full_s
        match self.kind:
            case "Poisson":
                return poisson(rate, duration_s, seed)
            case "on/off":  # busy for a target's time on average, quiet for twice as long
                return bursts(rate, duration_s, seed, on_s=4 * unit_s, off_s=8 * unit_s)
            case "volleys":  # half a batch for each slot within a quarter of a run
                return volleys(rate, duration_s, seed, size=16 * self.slots, spread_s=0.25 * unit_s)
            case _:
                return ramp([0.2 * rate, rate] * 4 + [0.2 * rate], duration_s, seed)

    def __str__(self) -> str:
        return f"{self.kind}, {self.device}, {self.slots} slot{'s' if self.slots > 1 else ''}"


Maker = Callable[[], Scheduled]
"""Makes a policy that has seen nothing."""


def share_within(scenario: Scenario, make: Maker, load: float, *, give_up_below: float = 0.0) -> float:
    """Give the share of all requests that are answered within the target, as a mean over the seeds.

    Args:
        scenario: The traffic and the device.
        make: The rules.
        load: Mean rate as a share of the limit.
        give_up_below: A first seed with a smaller share is taken for the answer.
    """
    shares = []
    for seed in SEEDS:
        member = Member(make(), scenario.curve, scenario.traffic(load, seed))
        [record] = simulate([member], seed=seed)
        duration_s = REQUESTS / scenario.limit
        shares.append(record.between(WARM * duration_s, np.inf).within(scenario.target_s))
        if shares[0] < give_up_below:
            break
    return sum(shares) / len(shares)


def carried(scenario: Scenario, make: Maker, *, above: float = 0.0) -> float | None:
    """Find the largest load at which 99 % are answered within the target, by halving.

    Args:
        scenario: The traffic and the device.
        make: The rules.
        above: Loads up to this are of no interest.

    Returns:
        The load as a share of the limit; None if it is not above `above`, 0 if even a tiny load does not keep it.
    """

    def keeps(load: float) -> bool:
        return share_within(scenario, make, load, give_up_below=WANTED - 0.005) >= WANTED

    low, high = round(above / STEP), round(1.2 / STEP)
    if above and not keeps((low + 1) * STEP):
        return None
    low += bool(above)
    while high - low > 1:
        middle = (low + high) // 2
        if keeps(middle * STEP):
            low = middle
        else:
            high = middle
    return low * STEP


@dataclass(frozen=True)
class Best:
    """The best that one kind of rules can do in a scenario.

    Attributes:
        load: Share of the limit that it carries.
        setting: What had to be set by hand for it, "" for nothing.
        tried: How many settings were tried.
    """

    load: float
    setting: str
    tried: int


def largest(scenario: Scenario, settings: Iterable[tuple[str, Maker]]) -> tuple[Best, Maker]:
    """Try every setting of one kind of rules; give the best, and the rules with it."""
    best, maker, tried = -1.0, None, 0
    name = ""
    for setting, make in settings:
        tried += 1
        load = carried(scenario, make, above=max(best, 0.0))
        if load is not None and load > best:
            best, name, maker = load, setting, make
    assert maker is not None, "no setting was given"
    return Best(best, name, tried), maker


def compared(scenario: Scenario) -> dict[str, Iterator[tuple[str, Maker]]]:
    """Give the rules that are compared, each with the settings that are tried for it."""
    curve, target_s, slots = scenario.curve, scenario.target_s, scenario.slots
    return {
        "batchserve": iter([("", lambda: untuned(curve, target_s, slots=slots))]),
        "fixed size + timer": _fixed(scenario, rejects=False),
        "fixed size + timer + rejects": _fixed(scenario, rejects=True),
        "AIMD": _aimd(scenario),
        "regression + hold": iter(
            [("", lambda: RegressionWithHold(slots=slots, max_batch_size=ROWS, latency_target_s=target_s))]
        ),
        "greedy": iter([("", lambda: Greedy(slots=slots, max_batch_size=ROWS))]),
    }


def _fixed(scenario: Scenario, *, rejects: bool) -> Iterator[tuple[str, Maker]]:
    """Give the grid of hand-tuned settings: size, timer, and whether those that would be late are rejected.

    The time after which they are is exact, which no user can know: the target less what a run of that size takes.
    """
    target_s = scenario.target_s
    # Large sizes and short timers first: they are often the best, and the rest is quickly seen to be no better.
    for size, delay in product(SIZES, DELAYS):
        timeout_s = target_s - 1.05 * scenario.curve(Run(size)) if rejects else None
        yield (
            f"size {size}, timer {delay * target_s * 1e3:.1f} ms",
            lambda size=size, delay=delay, timeout_s=timeout_s: FixedSizeAndTimer(  # type: ignore[misc]
                slots=scenario.slots, max_batch_size=size, max_queue_delay_s=delay * target_s, timeout_s=timeout_s
            ),
        )


def _aimd(scenario: Scenario) -> Iterator[tuple[str, Maker]]:
    for share in (0.5, 0.35, 0.25, 0.75, 1.0):
        yield (
            f"objective {share:g} of the target",
            lambda share=share: Aimd(  # type: ignore[misc]
                slots=scenario.slots, max_batch_size=ROWS, latency_target_s=scenario.target_s, share=share
            ),
        )
