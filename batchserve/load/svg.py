"""Plots as plain SVG: lines and bars over linear or logarithmic axes, drawn with the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Axis", "Series", "bars", "format_count", "format_seconds", "lines"]

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 40


def format_seconds(seconds: float) -> str:
    """Write a time with three digits: `8.53 µs`, `1.02 ms`, `2.5 s`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def format_count(value: float) -> str:
    """Write a number as people read it: `1,250`, `12.5`."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it shows.
        least: Value at its beginning; above 0 if logarithmic.
        most: Value at its end, above `least`.
        is_log: True for a logarithmic scale.
        write: Writes a value at a tick.
    """

    label: str
    least: float
    most: float
    is_log: bool = False
    write: Callable[[float], str] = format_count

    @classmethod
    def around(
        cls, label: str, values: Sequence[float], *, is_log: bool = False, write: Callable[[float], str] = format_count
    ) -> Axis:
        """Make an axis that holds all values; a linear one begins at 0."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        if is_log:
            least, most = min(finite, default=1.0), max(finite, default=10.0)
            return cls(label, least / 1.1, max(most, least * 2) * 1.1, is_log=True, write=write)
        return cls(label, 0.0, max(finite, default=0.0) * 1.05 or 1.0, write=write)

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1; beyond the ends at the ends."""
        if self.is_log:
            share = math.log(max(value, self.least) / self.least) / math.log(self.most / self.least)
        else:
            share = (value - self.least) / (self.most - self.least)
        return min(max(share, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Return round values to be marked, some five."""
        if self.is_log:
            return self._log_ticks()
        step = 10.0 ** math.floor(math.log10((self.most - self.least) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.most - self.least) / (step * factor) <= 6)
        first = math.ceil(self.least / step)
        return [number * step for number in range(first, math.floor(self.most / step + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)) + 1)
        factors = (1, 2, 5) if len(decades) <= 4 else (1,)
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        return [tick for tick in found if self.least <= tick <= self.most]


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: For the legend.
        points: Its places, in order; those with a y of None interrupt it.
        colour: Number of its colour, from 1.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int


def _at(x: Axis, y: Axis, point: tuple[float, float]) -> tuple[float, float]:
    """Return a point's place on the paper."""
    across = LEFT + x.place(point[0]) * (WIDTH - LEFT - RIGHT)
    return across, HEIGHT - BOTTOM - y.place(point[1]) * (HEIGHT - TOP - BOTTOM)


def lines(x: Axis, y: Axis, series: Sequence[Series], *, limit: tuple[str, float] | None = None) -> str:
    """Draw lines with a mark at each point.

    Args:
        x: The axis across.
        y: The axis up.
        series: What to draw; each point's values are shown by the pointer.
        limit: A dashed line at a height, and what it is.
    """
    parts = []
    for one in series:
        path, is_begun = [], False
        for across, up in one.points:
            if up is None:
                is_begun = False
                continue
            left, top = _at(x, y, (across, up))
            path.append(f"{'L' if is_begun else 'M'}{left:.1f} {top:.1f}")
            is_begun = True
            said = escape(f"{one.name}: {y.write(up)} at {x.write(across)}")
            parts.append(
                f'<circle class="c{one.colour}" cx="{left:.1f}" cy="{top:.1f}" r="3"><title>{said}</title></circle>'
            )
        parts.insert(0, f'<path class="line c{one.colour}" d="{" ".join(path)}"/>')
    if limit is not None and y.least <= limit[1] <= y.most:
        _, top = _at(x, y, (x.least, limit[1]))
        parts.append(f'<path class="limit" d="M{LEFT} {top:.1f}H{WIDTH - RIGHT}"/>')
        place = f'x="{LEFT + 4}" y="{top - 4:.1f}"'  # at the left: the lines' last points are what is looked at
        parts.append(f'<text class="limit-text" {place}>{escape(limit[0])}</text>')
    return _frame(x, y, parts) + _legend(series)


def bars(x: Axis, y: Axis, values: Sequence[tuple[float, float, float]], *, colour: int = 1) -> str:
    """Draw bars.

    Args:
        x: The axis across.
        y: The axis up.
        values: Where each begins and ends, and its height.
        colour: Number of their colour.
    """
    parts = []
    for begin, end, height in values:
        left, top = _at(x, y, (begin, height))
        right, bottom = _at(x, y, (end, y.least))
        said = escape(f"{x.write(begin)} to {x.write(end)}: {y.write(height)}")
        parts.append(
            f'<rect class="c{colour}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 0.5, 0.8):.1f}" '
            f'height="{max(bottom - top, 0.0):.1f}"><title>{said}</title></rect>'
        )
    return _frame(x, y, parts)


def _frame(x: Axis, y: Axis, parts: Sequence[str]) -> str:
    """Put axes around what was drawn."""
    marks = []
    for tick in x.ticks():
        left, _ = _at(x, y, (tick, y.least))
        marks.append(f'<path class="grid" d="M{left:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        marks.append(
            f'<text x="{left:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(x.write(tick))}</text>'
        )
    for tick in y.ticks():
        _, top = _at(x, y, (x.least, tick))
        marks.append(f'<path class="grid" d="M{LEFT} {top:.1f}H{WIDTH - RIGHT}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{escape(y.write(tick))}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    marks.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    drawing = "".join([*marks, *parts])
    return f'<p class="y-label">{escape(y.label)}</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{drawing}</svg>'


def _legend(series: Sequence[Series]) -> str:
    entries = "".join(f'<span><i class="c{one.colour}"></i>{escape(one.name)}</span>' for one in series)
    return f'<p class="legend">{entries}</p>'
