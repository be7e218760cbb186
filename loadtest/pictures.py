"""Draws panels from what Prometheus answers: a preview of what Grafana shows, laid out as the dashboards are.

Not Grafana's own rendering: colours and fonts differ; series, units, limits and layout are those of the JSON.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no screen
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter

from loadtest.boards import boards, put_in
from loadtest.prometheus import Prometheus
from loadtest.units import written

__all__ = ["draw_panels", "draw_rows"]

Panel = Mapping[str, Any]

COLUMN_INCH, ROW_INCH, TITLE_INCH, FOOT_INCH = 0.62, 0.36, 0.5, 0.3
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#e02f44", "#b877d9", "#37872d", "#8ab8ff", "#fa6400", "#a352cc")
NAMED = {"green": "#37872d", "orange": "#ff780a", "red": "#c4162a"}
MOST_SERIES = 14


def draw_rows(
    prometheus: Prometheus, variables: Mapping[str, Mapping[str, str]], seconds: float, folder: Path
) -> Iterator[Path]:
    """Draw each row of each dashboard into a file of its own, and give the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for board in boards():
        for heading, panels in _rows(board):
            name = f"{board['uid'].removeprefix('batchserve-')}-{heading.lower()}.png"
            title = f"{board['title']}: {heading}"
            yield draw_panels(prometheus, panels, variables[board["uid"]], seconds, folder / name, title)


def draw_panels(
    prometheus: Prometheus,
    panels: Sequence[Panel],
    variables: Mapping[str, str],
    seconds: float,
    path: Path,
    title: str,
) -> Path:
    """Draw panels at their places relative to each other.

    Args:
        prometheus: Whom to ask.
        panels: As the dashboard's JSON has them; one with `variables` has its own.
        variables: Values of the dashboard's variables.
        seconds: How far to look back.
        path: Where to write the picture.
        title: What stands above.
    """
    places = [panel["gridPos"] for panel in panels]
    top, bottom = min(p.get("y", 0) for p in places), max(p.get("y", 0) + p["h"] for p in places)
    height_inch = (bottom - top) * ROW_INCH + TITLE_INCH + FOOT_INCH
    figure = plt.figure(figsize=(24 * COLUMN_INCH, height_inch), dpi=72, facecolor="white")
    figure.suptitle(title, x=0.01, y=1 - 0.12 / height_inch, ha="left", va="top", fontsize=13, fontweight="bold")
    share, foot = ROW_INCH / height_inch, FOOT_INCH / height_inch
    for panel, place in zip(panels, places, strict=True):
        left, low = place.get("x", 0) / 24, foot + (bottom - place.get("y", 0) - place["h"]) * share
        margin = 0.083 if _has_second(panel) else 0.057  # room for the numbers of the axes, left and right
        box = (left + 0.049, low + 1.55 * share, place["w"] / 24 - margin, (place["h"] - 2.7) * share)
        if panel["type"] in ("stat", "table"):
            box = (left + 0.008, low + 0.2 * share, place["w"] / 24 - 0.016, (place["h"] - 1.5) * share)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
        asked = _Asked(prometheus, panel, panel.get("variables", variables), seconds)
        _KINDS[panel["type"]](axes, panel, asked)
    figure.savefig(path, pil_kwargs={"optimize": True})
    plt.close(figure)
    return path


class _Asked:
    """The answers to a panel's queries."""

    def __init__(self, prometheus: Prometheus, panel: Panel, variables: Mapping[str, str], seconds: float) -> None:
        self._prometheus = prometheus
        self._panel = panel
        self._variables = variables
        self.seconds = seconds
        self.step_s = max(1.0, seconds / 120)

    def series(self) -> Iterator[tuple[Mapping[str, Any], str, np.ndarray, np.ndarray]]:
        """Give each series: its query, its name, seconds before now, and values."""
        for target in self._panel["targets"]:
            expr = put_in(target["expr"], self._variables)
            for one in self._prometheus.query_range(expr, self.seconds, self.step_s):
                points = np.array([(float(at), float(value)) for at, value in one["values"]])
                yield target, _named(target, one["metric"]), points[:, 0], points[:, 1]

    def instants(self, target: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Give the present values of one query."""
        return self._prometheus.query(put_in(target["expr"], self._variables))

    def exemplars(self) -> list[tuple[float, float]]:
        """Give moment and value of each trace of the panel's first query."""
        found = self._prometheus.exemplars(put_in(self._panel["targets"][0]["expr"], self._variables), self.seconds)
        return [(one["timestamp"], float(one["value"])) for series in found for one in series["exemplars"]]


def _rows(board: Mapping[str, Any]) -> Iterator[tuple[str, list[Panel]]]:
    heading, panels = "", []
    for panel in board["panels"]:
        if panel["type"] == "row":
            if panels:
                yield heading, panels
            heading, panels = panel["title"], []
        else:
            panels.append(panel)
    yield heading, panels


def _named(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    pattern = target.get("legendFormat", "__auto")
    if pattern == "__auto":
        return ", ".join(labels.values()) or target["refId"]
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), pattern)


def _has_second(panel: Panel) -> bool:
    """Say whether a query has a unit, and so an axis, of its own."""
    return panel["type"] == "timeseries" and any("unit" in _overrides(panel, one["refId"]) for one in panel["targets"])


def _overrides(panel: Panel, ref: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byFrameRefID", "options": ref}:
            found |= {each["id"]: each["value"] for each in override["properties"]}
    return found


def _draw_lines(axes: Axes, panel: Panel, asked: _Asked) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    is_stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    second: Axes | None = None
    stacked: list[tuple[str, np.ndarray, np.ndarray]] = []
    for number, (target, name, at, values) in enumerate(asked.series()):
        own = _overrides(panel, target["refId"])
        at = at - at[-1] if not len(at) else at
        if is_stacked and "custom.lineStyle" not in own:
            stacked.append((name, at, values))
            continue
        if number >= MOST_SERIES:
            break
        where = axes
        if "unit" in own:
            second = second or _second(axes, own["unit"])
            where = second
        dash = (0, (6, 4)) if "custom.lineStyle" in own else "-"
        where.plot(at, values, linestyle=dash, color=COLOURS[number % len(COLOURS)], label=name, linewidth=1.2)
    if stacked:
        _stack(axes, stacked)
    _finish(axes, panel, asked, second)


def _second(axes: Axes, unit: str) -> Axes:
    second: Axes = axes.twinx()  # type: ignore[assignment]
    second.tick_params(labelsize=7)
    second.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, unit)))
    return second


def _stack(axes: Axes, series: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    moments = np.unique(np.concatenate([at for _, at, _ in series]))
    values = [np.nan_to_num(np.interp(moments, at, np.nan_to_num(own), left=0, right=0)) for _, at, own in series]
    axes.stackplot(moments, values, labels=[name for name, _, _ in series], colors=COLOURS, alpha=0.75, linewidth=0.4)


def _finish(axes: Axes, panel: Panel, asked: _Asked, second: Axes | None) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    shown, names = axes.get_legend_handles_labels()
    if second is not None:
        more = second.get_legend_handles_labels()
        shown, names = shown + more[0], names + more[1]
        second.set_ylim(0, second.get_ylim()[1] * 1.05 or 1)
    if not shown:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="grey", fontsize=9)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05 or 1)
    if "max" in defaults:
        axes.set_ylim(top=defaults["max"] * 1.02)
    elif axes.get_ylim()[1] <= 0 or not shown or _is_flat(axes):
        axes.set_ylim(top=1)
    for step in defaults.get("thresholds", {}).get("steps", [])[1:]:
        if defaults.get("custom", {}).get("thresholdsStyle", {}).get("mode") == "dashed":
            axes.axhline(step["value"], color=NAMED[step["color"]], linestyle=":", linewidth=1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, unit)))
    _time_axis(axes, asked)
    if shown:
        short = [textwrap.shorten(name, 44, placeholder="…") for name in names]
        columns = max(1, panel["gridPos"]["w"] * 11 // (max(map(len, short)) + 8))
        axes.legend(
            shown,
            short,
            loc="upper left",
            bbox_to_anchor=(0, -0.12),
            ncols=columns,
            fontsize=6.5,
            frameon=False,
            borderpad=0,
            handlelength=1.2,
            columnspacing=1.0,
            labelspacing=0.25,
        )


def _is_flat(axes: Axes) -> bool:
    values = [float(np.nan_to_num(line.get_ydata()).max(initial=0.0)) for line in axes.get_lines()]
    values += [float(part.get_datalim(axes.transData).y1) for part in axes.collections]
    return bool(values) and max(values) <= 0


def _time_axis(axes: Axes, asked: _Asked) -> None:
    axes.tick_params(labelsize=7)
    end = axes.dataLim.x1
    if not math.isfinite(end):
        axes.set_xticks([])
        return
    axes.set_xlim(end - asked.seconds, end)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at - end:.0f} s"))
    axes.xaxis.set_major_locator(plt.MaxNLocator(5))
    axes.grid(visible=True, color="#dddddd", linewidth=0.5)


def _draw_heat(axes: Axes, panel: Panel, asked: _Asked) -> None:
    unit = panel["options"]["yAxis"]["unit"]
    found = sorted(((float(name), at, values) for _, name, at, values in asked.series()), key=lambda one: one[0])
    if not found:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="grey", fontsize=9)
        return
    moments = np.unique(np.concatenate([at for _, at, _ in found]))
    rows = np.array([np.interp(moments, at, values) for _, at, values in found])
    cells = np.maximum(np.diff(rows, axis=0, prepend=0.0), 0.0)
    bounds = [bound for bound, _, _ in found]
    used = np.flatnonzero(cells.sum(axis=1) > 0)
    low, high = (max(0, used[0] - 1), min(len(bounds), used[-1] + 2)) if len(used) else (0, len(bounds))
    shown = np.ma.masked_less_equal(cells[low:high], 1e-9)
    edges = np.append(moments - asked.step_s, moments[-1])
    norm = PowerNorm(0.5, vmin=0, vmax=max(1e-9, float(cells.max())))
    axes.pcolormesh(
        edges, np.arange(high - low + 1), shown, cmap="Oranges", norm=norm, edgecolors="white", linewidth=0.2
    )
    axes.set_yticks(
        np.arange(1, high - low + 1),
        [written(bound, unit) if math.isfinite(bound) else "∞" for bound in bounds[low:high]],
    )
    if panel["targets"][0].get("exemplar"):
        marks = [(at, float(np.searchsorted(bounds[low:high], value)) + 0.5) for at, value in asked.exemplars()]
        if marks:
            axes.scatter(*zip(*marks, strict=True), marker="D", s=9, color="#1f78c1", label="a trace", zorder=3)
            axes.legend(loc="upper left", fontsize=6.5)
    _time_axis(axes, asked)
    axes.set_xlim(moments[-1] - asked.seconds, moments[-1])


def _draw_stat(axes: Axes, panel: Panel, asked: _Asked) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#cccccc")
    unit, steps = panel["fieldConfig"]["defaults"]["unit"], panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    found = list(asked.series())
    for number, (_, name, at, values) in enumerate(found):
        good = values[np.isfinite(values)]
        last = float(good[-1]) if len(good) else math.nan
        colour = next((s["color"] for s in reversed(steps) if s["value"] is None or last >= s["value"]), "green")
        place = (number + 0.5) / len(found)
        axes.text(
            place,
            0.62,
            written(last, unit),
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=15 if len(found) == 1 else 12,
            fontweight="bold",
            color=NAMED[colour],
        )
        if len(found) > 1:
            axes.text(place, 0.3, name, transform=axes.transAxes, ha="center", va="center", fontsize=8, color="#555555")
        elif len(good) > 1 and good.max() > 0:
            axes.fill_between(at[: len(values)], values / good.max() * 0.3, color=NAMED[colour], alpha=0.25)
            axes.set_xlim(at[0], at[-1])
            axes.set_ylim(0, 1)
    if not found:
        axes.text(0.5, 0.5, "-", transform=axes.transAxes, ha="center", fontsize=15)


def _draw_table(axes: Axes, panel: Panel, asked: _Asked) -> None:
    axes.axis("off")
    heads = ["model", *(_heads(panel))]
    cells: dict[str, list[str]] = {}
    units = {
        o["matcher"]["options"]: p["value"]
        for o in panel["fieldConfig"]["overrides"]
        for p in o["properties"]
        if p["id"] == "unit"
    }
    for column, target in enumerate(panel["targets"]):
        for one in asked.instants(target):
            row = cells.setdefault(one["metric"].get("model", ""), ["-"] * len(panel["targets"]))
            row[column] = written(float(one["value"][1]), units.get(heads[column + 1], "short"))
    rows = [[model, *values] for model, values in sorted(cells.items())] or [["no data", *[""] * len(panel["targets"])]]
    table = axes.table(rows, colLabels=heads, loc="upper center", cellLoc="left", colLoc="left", edges="horizontal")
    table.auto_set_font_size(value=False)
    table.set_fontsize(9)
    table.scale(1, 1.5)


def _heads(panel: Panel) -> list[str]:
    (organize,) = (each for each in panel["transformations"] if each["id"] == "organize")
    return list(organize["options"]["renameByName"].values())


_KINDS: Mapping[str, Callable[[Axes, Panel, _Asked], None]] = {
    "timeseries": _draw_lines,
    "heatmap": _draw_heat,
    "stat": _draw_stat,
    "table": _draw_table,
}
