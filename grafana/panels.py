"""The few kinds of panels that the dashboards are made of, with one look for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import common as shared
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = ["DATASOURCE", "Panel", "Query", "Steps", "heat", "lines", "models_table", "stats"]

Panel: TypeAlias = Any
"""A builder of the SDK; its kinds have no common type with `id`, `title` and the like."""

Steps = Sequence[tuple[float | None, str]]
"""Colours from a value on, ascending; below the first it is green, unless the first has no value and names another."""

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

_WIDTH, _HEIGHT = 8, 8
_NAMES = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL with the dashboards' variables.
        legend: Grafana's pattern for the names of its series, such as `{{model}}`.
        has_exemplars: True to show traces, too.
        is_dashed: True for a limit or a target rather than something that happens.
        unit: Grafana's name of its unit, "" for the panel's.
    """

    expr: str
    legend: str = ""
    has_exemplars: bool = False
    is_dashed: bool = False
    unit: str = ""


def stats(title: str, text: str, queries: Sequence[Query], unit: str, *, steps: Steps = (), width: int = 3) -> Panel:
    """Make a panel of large numbers, each with its recent course behind it."""
    panel = (
        stat.Panel()
        .reduce_options(shared.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .graph_mode(common.BigValueGraphMode.AREA)
        .color_mode(common.BigValueColorMode.VALUE)
        .justify_mode(common.BigValueJustifyMode.AUTO)
        .text_mode(common.BigValueTextMode.AUTO if len(queries) == 1 else common.BigValueTextMode.VALUE_AND_NAME)
        .thresholds(_thresholds(steps))
        .no_value("-")
    )
    return _finished(panel, title, text, queries, unit, width, 4)


def lines(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    *,
    is_stacked: bool = False,
    most: float | None = None,
    steps: Steps = (),
    width: int = _WIDTH,
) -> Panel:
    """Make a panel of courses over time.

    Args:
        title: What it shows.
        text: What that means, and what to do when it looks bad.
        queries: What it asks.
        unit: Grafana's name of the unit.
        is_stacked: True if the parts make up a whole.
        most: Upper end of the axis, for shares.
        steps: Values from which on the background is coloured.
        width: Of the 24 columns.
    """
    panel = (
        timeseries.Panel()
        .min(0)
        .line_width(1)
        .fill_opacity(60 if is_stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            shared.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(shared.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    )
    if is_stacked:
        panel = panel.stacking(shared.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel = panel.max(most)
    if steps:
        style = shared.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(style)
    for name, query in zip(_NAMES, queries, strict=False):
        if query.unit:
            unit_of_its_own = [
                dashboard.DynamicConfigValue(id_val="unit", value=query.unit),
                dashboard.DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
            ]
            panel = panel.override_by_query(name, unit_of_its_own)
        if query.is_dashed:
            dash = {"fill": "dash", "dash": [8, 6]}
            properties = [
                dashboard.DynamicConfigValue(id_val="custom.lineStyle", value=dash),
                dashboard.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                dashboard.DynamicConfigValue(id_val="custom.stacking", value={"mode": "none"}),
            ]
            panel = panel.override_by_query(name, properties)
    return _finished(panel, title, text, queries, unit, width, _HEIGHT)


def heat(title: str, text: str, query: Query, unit: str, *, width: int = _WIDTH) -> Panel:
    """Make a heat map of a histogram: `query` gives the rate of its buckets, by `le`."""
    colours = (
        heatmap.HeatmapColorOptions()
        .mode(heatmap_model.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
        .reverse(False)
        .fill("dark-orange")
    )
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(colours)
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(common.AxisPlacement.LEFT))
        .cell_values(heatmap.CellValues().unit("cps"))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .show_legend()
        .mode(common.TooltipDisplayMode.SINGLE)
        .show_color_scale(False)
        .exemplars_color("rgba(31, 120, 193, 0.9)")
    )
    return _finished(panel, title, text, [query], unit, width, _HEIGHT, PromQueryFormat.HEATMAP)


def models_table(
    title: str, text: str, columns: Sequence[tuple[str, str, str]], link: str, *, width: int = 24
) -> Panel:
    """Make a table with a row for each model.

    Args:
        title: What it shows.
        text: What that means, and what to do when it looks bad.
        columns: Head, unit and query of each; a query gives one value for each `model`.
        link: Where a click on the model's name leads; `${__data.fields.model}` is the name.
        width: Of the 24 columns.
    """
    panel = (
        table.Panel()
        .show_header(True)
        .cell_height(common.TableCellHeight.SM)
        .transformations(
            [
                dashboard.DataTransformerConfig(id_val="joinByField", options={"byField": "model", "mode": "outer"}),
                dashboard.DataTransformerConfig(
                    id_val="organize",
                    options={
                        "excludeByName": {"Time": True, **{f"Time {n}": True for n in range(1, len(columns) + 1)}},
                        "renameByName": {f"Value #{_NAMES[n]}": column[0] for n, column in enumerate(columns)},
                    },
                ),
            ]
        )
        .override_by_name(
            "model",
            [
                dashboard.DynamicConfigValue(id_val="links", value=[{"title": "Look at this model", "url": link}]),
                dashboard.DynamicConfigValue(id_val="custom.width", value=220),
            ],
        )
    )
    for head, unit, _ in columns:
        panel = panel.override_by_name(head, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
    queries = [Query(expr) for _, _, expr in columns]
    return _finished(panel, title, text, queries, "short", width, _HEIGHT, PromQueryFormat.TABLE, is_instant=True)


def _finished(
    panel: Panel,
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    width: int,
    height: int,
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
    *,
    is_instant: bool = False,
) -> Panel:
    for name, query in zip(_NAMES, queries, strict=False):
        target = prometheus.Dataquery().ref_id(name).expr(query.expr).format(form).datasource(DATASOURCE)
        target = target.legend_format(query.legend or "__auto")
        panel = panel.with_target(target.instant() if is_instant else target.range().exemplar(query.has_exemplars))
    return panel.title(title).description(text).unit(unit).datasource(DATASOURCE).span(width).height(height)


def _thresholds(steps: Steps) -> board.ThresholdsConfig:
    first: Steps = () if steps and steps[0][0] is None else [(None, "green")]
    found = [dashboard.Threshold(value=value, color=colour) for value, colour in (*first, *steps)]
    return board.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(found)
