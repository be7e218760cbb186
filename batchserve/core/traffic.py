"""Made-up traffic for the simulator: when requests arrive, and what they carry.

Everything is drawn with a generator seeded by the caller, so the same arguments give the same traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["ClosedLoop", "Traffic", "bursts", "merge", "poisson", "ramp", "replay", "volleys"]

_THINNING_STEPS = 1000
"""Pieces of constant rate that a ramp is made of."""


@dataclass(frozen=True, eq=False)
class Traffic:
    """Open-loop arrivals: they come when they come, whatever the server does.

    Attributes:
        times_s: float64[N], ascending; the moment at which each request has been received.
        rows: int64[N], rows of each.
        lengths: int64[N], length on the axis that may be padded; 0 where there is none.
        clients: int64[N], who sent it, as a small number.
        priorities: int64[N], as in `Request.priority`.
        poisoned: bool[N], True for requests on which a run fails.
        timeout_s: Seconds that each client gives; None for the model's own limit.
    """

    times_s: NDArray[np.float64]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    clients: NDArray[np.int64]
    priorities: NDArray[np.int64]
    poisoned: NDArray[np.bool_]
    timeout_s: float | None = None

    def __len__(self) -> int:
        return len(self.times_s)

    def with_rows(self, choices: ArrayLike, seed: int) -> Traffic:
        """Draw the rows of each request from `choices`, all equally likely."""
        return replace(self, rows=np.random.default_rng(seed).choice(np.asarray(choices, np.int64), len(self)))

    def with_lengths(self, choices: ArrayLike, seed: int) -> Traffic:
        """Draw the length of each request from `choices`, all equally likely."""
        return replace(self, lengths=np.random.default_rng(seed).choice(np.asarray(choices, np.int64), len(self)))

    def of_client(self, client: int) -> Traffic:
        """Have all requests come from one client."""
        return replace(self, clients=np.full(len(self), client, np.int64))


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients that send the next request only when they have heard of the last one.

    Attributes:
        clients: How many there are.
        until_s: No request is sent after this moment.
        think_s: Mean of the exponential pause between hearing and sending; 0 for none.
        retry_s: Least pause after a request that was not answered with a result.
        rows: Rows of each request.
        length: Length of each request; 0 for none.
        seed: For the pauses.
    """

    clients: int
    until_s: float
    think_s: float = 0.0
    retry_s: float = 0.001
    rows: int = 1
    length: int = 0
    seed: int = 0
    start_s: float = field(default=0.0)


def replay(times_s: ArrayLike, *, rows: int = 1, length: int = 0, timeout_s: float | None = None) -> Traffic:
    """Take arrivals as they were recorded.

    Args:
        times_s: Moments in seconds, in any order.
        rows: Rows of each request.
        length: Length of each request; 0 for none.
        timeout_s: What each client gives; None for the model's own limit.
    """
    times = np.sort(np.asarray(times_s, np.float64))
    count = len(times)
    return Traffic(
        times,
        np.full(count, rows, np.int64),
        np.full(count, length, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.bool_),
        timeout_s,
    )


def poisson(rate: float, duration_s: float, seed: int, *, start_s: float = 0.0) -> Traffic:
    """Draw independent arrivals of a constant rate (requests per second)."""
    return replay(_poisson_times(np.random.default_rng(seed), rate, start_s, start_s + duration_s))


def bursts(rate: float, duration_s: float, seed: int, *, on_s: float, off_s: float, low: float = 0.0) -> Traffic:
    """Draw arrivals that are switched on and off; `rate` is the mean over both.

    The same seed gives the same busy and quiet times at every rate.

    Args:
        rate: Mean requests per second.
        duration_s: How long.
        seed: For all that is drawn.
        on_s: Mean of the exponential length of a busy time.
        off_s: Mean of the exponential length of a quiet time.
        low: Rate in quiet times, as a share of the rate in busy ones.
    """
    phases, random = (np.random.default_rng(own) for own in np.random.SeedSequence(seed).spawn(2))
    high = rate * (on_s + off_s) / (on_s + low * off_s)
    pieces: list[NDArray[np.float64]] = []
    at_s, is_on = 0.0, True
    while at_s < duration_s:
        until_s = min(duration_s, at_s + phases.exponential(on_s if is_on else off_s))
        pieces.append(_poisson_times(random, high if is_on else high * low, at_s, until_s))
        at_s, is_on = until_s, not is_on
    return replay(np.concatenate(pieces))


def volleys(rate: float, duration_s: float, seed: int, *, size: int, spread_s: float) -> Traffic:
    """Draw volleys of `size` requests each, spread evenly at random over `spread_s`; `rate` counts requests."""
    random = np.random.default_rng(seed)
    starts = _poisson_times(random, rate / size, 0.0, duration_s)
    return replay((starts[:, None] + random.uniform(0.0, spread_s, (len(starts), size))).ravel())


def ramp(rates: Sequence[float], duration_s: float, seed: int) -> Traffic:
    """Draw arrivals whose rate goes in straight lines through `rates`, evenly spaced over the time."""
    random = np.random.default_rng(seed)
    edges = np.linspace(0.0, duration_s, _THINNING_STEPS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    levels = np.interp(middles, np.linspace(0.0, duration_s, len(rates)), np.asarray(rates, np.float64))
    counts = random.poisson(levels * np.diff(edges))
    starts = np.repeat(edges[:-1], counts)
    return replay(starts + random.uniform(0.0, duration_s / _THINNING_STEPS, len(starts)))


def merge(*parts: Traffic) -> Traffic:
    """Put traffic of several kinds together in order of time; the first one's timeout counts."""
    order = np.argsort(np.concatenate([part.times_s for part in parts]), kind="stable")

    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("times_s", "rows", "lengths", "clients", "priorities", "poisoned")
    }
    return replace(parts[0], **columns)


def _poisson_times(random: np.random.Generator, rate: float, start_s: float, end_s: float) -> NDArray[np.float64]:
    """Draw a Poisson process: a Poisson number of moments, each anywhere in the time."""
    count = random.poisson(rate * (end_s - start_s))
    return np.sort(random.uniform(start_s, end_s, count))
