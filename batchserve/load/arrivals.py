"""When requests are due: schedules that are drawn whole before the first one is sent.

    poisson:1000                            independent clients, 1000 requests a second
    constant:1000                           evenly spread
    ramp:100-2000                           Poisson whose rate grows evenly over the whole time
    bursts:2000,on=200ms,off=800ms,low=50   Poisson that changes between two rates
    volleys:16,every=100ms,within=1ms       clients that send many requests at once

Every schedule is made of counts and an intensity: the n-th request is due when the intensity adds up to n (evenly
spread), or to the n-th point of a Poisson process of rate 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from batchserve.config.names import did_you_mean
from batchserve.config.units import BadValueError, parse_duration
from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from batchserve.core.tensors import Array

__all__ = ["MOST_REQUESTS", "Arrivals", "Bursts", "Faster", "Ramp", "Replay", "Steady", "Volleys", "parse_arrivals"]

MOST_REQUESTS = 10_000_000
"""No schedule is longer: it is held in memory, 12 bytes a request."""


class Arrivals(Protocol):
    """Draws the moments at which requests are due."""

    def expected(self, seconds: float) -> float:
        """Return how many requests are due within a time, on average."""
        ...

    def draw(self, seconds: float, random: np.random.Generator) -> Array:
        """Draw the moments, `float64[N]` ascending in `[0, seconds)`, in seconds from the beginning."""
        ...


@dataclass(frozen=True)
class Steady:
    """One rate all the time, in requests a second; evenly spread or Poisson."""

    rate: float
    is_even: bool = False

    def expected(self, seconds: float) -> float:
        """Return how many requests are due within a time, on average."""
        return self.rate * seconds

    def draw(self, seconds: float, random: np.random.Generator) -> Array:
        """Draw the moments."""
        counts = _even(self.expected(seconds)) if self.is_even else _poisson(self.expected(seconds), random)
        return counts / self.rate


@dataclass(frozen=True)
class Ramp:
    """A rate that changes evenly from one value to another over the whole time, Poisson."""

    first: float
    last: float

    def expected(self, seconds: float) -> float:
        """Return how many requests are due within a time, on average."""
        return (self.first + self.last) / 2 * seconds

    def draw(self, seconds: float, random: np.random.Generator) -> Array:
        """Draw the moments."""
        counts = _poisson(self.expected(seconds), random)
        slope = (self.last - self.first) / seconds
        # first * t + slope * t² / 2 = counts, solved in the form that also holds for a slope of 0.
        return 2 * counts / (self.first + np.sqrt(self.first**2 + 2 * slope * counts))


@dataclass(frozen=True)
class Bursts:
    """A rate for some time, then a lower one (or none) for some time, over and over; Poisson."""

    rate: float
    on_s: float
    off_s: float
    low: float = 0.0

    def expected(self, seconds: float) -> float:
        """Return how many requests are due within a time, on average."""
        turns, rest_s = divmod(seconds, self.on_s + self.off_s)
        on_s = min(rest_s, self.on_s)
        return turns * self._each + on_s * self.rate + (rest_s - on_s) * self.low

    @property
    def _each(self) -> float:
        return self.on_s * self.rate + self.off_s * self.low

    def draw(self, seconds: float, random: np.random.Generator) -> Array:
        """Draw the moments."""
        turns, rest = np.divmod(_poisson(self.expected(seconds), random), self._each)
        burst = self.on_s * self.rate
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.where(rest < burst, rest / self.rate, self.on_s + (rest - burst) / (self.low or np.inf))
        return turns * (self.on_s + self.off_s) + at


@dataclass(frozen=True)
class Volleys:
    """A number of requests spread at random over a moment, again and again; the first volley comes at once."""

    size: int
    every_s: float
    within_s: float = 0.0

    def expected(self, seconds: float) -> float:
        """Return how many requests are due within a time."""
        return float(self.size * int(np.ceil(seconds / self.every_s)))

    def draw(self, seconds: float, random: np.random.Generator) -> Array:
        """Draw the moments."""
        starts = np.arange(np.ceil(seconds / self.every_s)) * self.every_s
        moments = (starts[:, None] + random.uniform(0, self.within_s, (len(starts), self.size))).ravel()
        return np.sort(moments[moments < seconds])


@dataclass(frozen=True)
class Replay:
    """Moments that were recorded, faster or slower than they were.

    Attributes:
        times_s: `float64[N]` ascending, counted from the recording's beginning.
        speed: How many recorded seconds go by in one.
    """

    times_s: Array
    speed: float = 1.0

    def expected(self, seconds: float) -> float:
        """Return how many requests are due within a time."""
        return float(np.searchsorted(self.times_s, seconds * self.speed))

    def draw(self, seconds: float, random: np.random.Generator) -> Array:
        """Return the moments."""
        return self.times_s[: int(self.expected(seconds))] / self.speed


@dataclass(frozen=True)
class Faster:
    """Arrivals that are run through at another speed: everything about them is so many times as quick."""

    arrivals: Arrivals
    speed: float

    def expected(self, seconds: float) -> float:
        """Return how many requests are due within a time."""
        return self.arrivals.expected(seconds * self.speed)

    def draw(self, seconds: float, random: np.random.Generator) -> Array:
        """Draw the moments."""
        return self.arrivals.draw(seconds * self.speed, random) / self.speed


def _even(expected: float) -> Array:
    """Return 0, 1, 2 … below the expected number."""
    return np.arange(np.ceil(expected - 1e-9))


def _poisson(expected: float, random: np.random.Generator) -> Array:
    """Draw the points of a Poisson process of rate 1 up to the expected number."""
    points = np.cumsum(random.standard_exponential(int(expected + 8 * np.sqrt(expected) + 16)))
    while points[-1] < expected:
        points = np.concatenate([points, points[-1] + np.cumsum(random.standard_exponential(64))])
    return points[points < expected]


def parse_arrivals(text: str) -> Arrivals:
    """Read a schedule as the module's docstring shows them.

    Raises:
        ConfigError: It is none.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in _KINDS:
        listed = ", ".join(_KINDS)
        raise ConfigError(
            f"arrivals {text!r}: {kind!r} is no kind of schedule; expected KIND:RATE with one of {listed}"
            f"{_hint(did_you_mean(kind, _KINDS))}"
        )
    first, *others = [part.strip() for part in rest.split(",")]
    options = {}
    for part in others:
        name, _, value = part.partition("=")
        options[name.strip()] = value.strip()
    try:
        arrivals = _KINDS[kind](first, options)
    except BadValueError as error:
        raise ConfigError(f"arrivals {text!r}: {error.reason}{_hint(error.hint)}") from error
    if options:
        raise ConfigError(f"arrivals {text!r}: {', '.join(options)} means nothing to {kind}; leave it out")
    return arrivals


def _hint(text: str) -> str:
    return f"; {text}" if text else ""


def _rate(text: str, what: str, *, may_be_zero: bool = False) -> float:
    """Read requests per second."""
    try:
        rate = float(text)
    except ValueError:
        rate = np.nan
    if not (0 <= rate <= MOST_REQUESTS) or (rate == 0 and not may_be_zero):
        raise BadValueError(f"{what} {text!r} is not a number of requests a second above 0", "such as 500 or 0.5")
    return rate


def _duration(options: dict[str, str], name: str, default: str | None = None, *, may_be_zero: bool = False) -> float:
    """Take an option that is a duration."""
    text = options.pop(name, default)
    if text is None:
        raise BadValueError(f"{name} is missing", f"add {name}=100ms")
    try:
        seconds = parse_duration(text)
    except BadValueError as error:
        raise BadValueError(f"{name} {text!r} {error.reason}", error.hint) from error
    if seconds == 0 and not may_be_zero:
        raise BadValueError(f"{name} is not longer than 0")
    return seconds


def _steady(first: str, _: dict[str, str]) -> Arrivals:
    return Steady(_rate(first, "the rate"))


def _constant(first: str, _: dict[str, str]) -> Arrivals:
    return Steady(_rate(first, "the rate"), is_even=True)


def _ramp(first: str, _: dict[str, str]) -> Arrivals:
    low, dash, high = first.partition("-")
    if not dash:
        raise BadValueError("a ramp has two rates", "write ramp:100-2000")
    rates = [_rate(low, "the first rate", may_be_zero=True), _rate(high, "the last rate", may_be_zero=True)]
    if max(rates) == 0:
        raise BadValueError("both rates are 0")
    return Ramp(*rates)


def _bursts(first: str, options: dict[str, str]) -> Arrivals:
    low = _rate(options.pop("low", "0"), "low", may_be_zero=True)
    return Bursts(_rate(first, "the rate"), _duration(options, "on"), _duration(options, "off"), low)


def _volleys(first: str, options: dict[str, str]) -> Arrivals:
    if not first.isdecimal() or not 0 < int(first) <= MOST_REQUESTS:
        raise BadValueError(f"{first!r} is not a number of requests", "write volleys:16,every=100ms")
    every_s = _duration(options, "every")
    return Volleys(int(first), every_s, _duration(options, "within", "0", may_be_zero=True))


_KINDS: Mapping[str, Callable[[str, dict[str, str]], Arrivals]] = {
    "poisson": _steady,
    "constant": _constant,
    "ramp": _ramp,
    "bursts": _bursts,
    "volleys": _volleys,
}
