"""Durations and sizes as people write them: a number with its unit."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

__all__ = [
    "LONGEST_S",
    "BadValueError",
    "format_duration",
    "format_rate",
    "format_size",
    "parse_duration",
    "parse_size",
]

LONGEST_S = 365 * 24 * 3600.0
"""Longest duration that is read: timers of the system take no more than a few centuries, and nobody means one."""

_LARGEST_BYTES = 1 << 60

_DURATIONS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_SIZES = {
    "B": Fraction(1),
    **{f"{letter}B": Fraction(1000**power) for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}iB": Fraction(1024**power) for power, letter in enumerate("KMGT", start=1)},
}

_NUMBER_AND_UNIT = re.compile(r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?)\s*(?P<unit>[^\W\d_]*)")


class BadValueError(ValueError):
    """A value is not of its key's kind.

    Args:
        reason: What is wrong with it, to be read after the value: "has no unit".
        hint: What to do about it, or "".
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def _amount(text: str, units: dict[str, Fraction], example: str) -> Fraction:
    """Read a number with a unit of `units`, exactly; 0 needs no unit.

    Raises:
        BadValueError: No number, no unit or an unknown one. `example` is a unit to propose.
    """
    if text.strip().startswith("-"):
        raise BadValueError("is negative")
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None:
        raise BadValueError("is not a number with a unit")
    number, unit = Fraction(match["number"]), match["unit"]
    if unit in units:
        return number * units[unit]
    if unit:
        near = [known for known in units if known[0].casefold() == unit[0].casefold()]
        hint = f"did you mean {' or '.join(match['number'] + known for known in near)}?" if near else ""
        raise BadValueError(f"has the unknown unit {unit!r}", hint)
    if number == 0:
        return number
    raise BadValueError("has no unit", f"write {match['number']}{example} if that is what you mean")


def parse_duration(text: str) -> float:
    """Read a duration such as `5ms`, `200us`, `1.5s` or `1m`; `0` needs no unit.

    Args:
        text: The number, its unit (`ns`, `us`, `ms`, `s`, `m`, `h`), spaces around either.

    Returns:
        Seconds: the float nearest to what was written.

    Raises:
        BadValueError: Not a duration, negative, or longer than `LONGEST_S`.
    """
    seconds = _amount(text, _DURATIONS, "s")
    if seconds > LONGEST_S:
        raise BadValueError("is longer than a year (8760h)")
    return float(seconds)


def parse_size(text: str) -> int:
    """Read a size such as `64MiB`, `4KiB`, `10MB` or `512B`; `0` needs no unit.

    `KiB`, `MiB`, `GiB`, `TiB` count in 1024s, `kB`, `MB`, `GB`, `TB` in 1000s.

    Returns:
        Bytes.

    Raises:
        BadValueError: Not a size, negative, not whole bytes, or more than 2**60.
    """
    size = _amount(text, _SIZES, "B")
    if size.denominator != 1:
        raise BadValueError("is not a whole number of bytes")
    if size > _LARGEST_BYTES:
        raise BadValueError("is more than any machine has")
    return int(size)


def format_duration(seconds: float) -> str:
    """Write a duration in the largest of `s`, `ms`, `us`, `ns` that needs no fraction.

    Args:
        seconds: Finite, not negative.

    Returns:
        Text that `parse_duration` reads as the very same float.
    """
    exact = Decimal(repr(seconds))
    if exact == 0:
        return "0"
    for unit, per_second in (("s", 1), ("ms", 10**3), ("us", 10**6)):
        if (amount := exact * per_second) == amount.to_integral_value():
            return f"{amount:.0f}{unit}"
    return f"{(exact * 10**9).normalize():f}ns"


def format_rate(per_s: float) -> str:
    """Write how many in a second to three digits, without an exponent: `2.57`, `21,900`."""
    return f"{float(f'{per_s:.3g}'):,.10g}"


def format_size(size_bytes: int) -> str:
    """Write a size in the largest of `TiB`, `GiB`, `MiB`, `KiB`, `B` that needs no fraction.

    Returns:
        Text that `parse_size` reads as the same number.
    """
    if size_bytes == 0:
        return "0"
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes % int(_SIZES[unit]) == 0:
            return f"{size_bytes // int(_SIZES[unit])}{unit}"
    return f"{size_bytes}B"
