"""Values with their units, as a dashboard writes them."""

from __future__ import annotations

import math

__all__ = ["KNOWN", "written"]

_SUFFIXES = {
    "short": "",
    "reqps": " req/s",
    "ops": " ops/s",
    "rowsps": " rows/s",
    "cps": " /s",
    "watt": " W",
    "joule": " J",
}

KNOWN = frozenset({*_SUFFIXES, "percentunit", "s", "bytes", "Bps"})
"""Grafana's names of the units that are written as they should be."""


def written(value: float, unit: str) -> str:
    """Write a value with its unit, as short as on a dashboard; an unknown unit is left out."""
    if math.isnan(value):
        return "-"
    match unit:
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "s":
            return _duration(value)
        case "bytes" | "Bps":
            return _scaled(
                value, "/s" if unit == "Bps" else "", ((2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB")), " B"
            )
    return _scaled(value, _SUFFIXES.get(unit, ""), ((1e9, "G"), (1e6, "M"), (1e3, "K")), "")


def _duration(value_s: float) -> str:
    if value_s >= 120:
        return f"{value_s / 60:.3g} min"
    for factor, name in ((1, "s"), (1e-3, "ms")):
        if abs(value_s) >= factor or not value_s:
            return f"{value_s / factor:.3g} {name}"
    return f"{value_s / 1e-6:.3g} µs"


def _scaled(value: float, suffix: str, steps: tuple[tuple[float, str], ...], smallest: str) -> str:
    for factor, name in steps:
        if abs(value) >= factor:
            return f"{value / factor:.3g}{name}{suffix}"
    return f"{value:.{4 if value >= 1000 else 3}g}{smallest}{suffix}"
