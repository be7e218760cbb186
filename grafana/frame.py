"""What every dashboard has around its panels: variables, links, times and rows."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.models import dashboard

from grafana.panels import DATASOURCE, Panel

__all__ = ["MODEL_UID", "OVERVIEW_UID", "Row", "frame"]

OVERVIEW_UID, MODEL_UID = "batchserve-overview", "batchserve-model"

Row = tuple[str, Sequence[Panel]]
"""A title and what stands below it."""


def frame(uid: str, title: str, text: str, rows: Sequence[Row], *, is_one_model: bool) -> dashboard.Dashboard:
    """Put a dashboard together.

    Args:
        uid: Its fixed name in URLs.
        title: For people.
        text: What it answers.
        rows: From top to bottom.
        is_one_model: True if only one model can be chosen at a time.
    """
    built = (
        board.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["batchserve"])
        .readonly()
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .with_variable(board.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            _choice("model", "Model", "label_values(batchserve_model_state, model)", is_multi=not is_one_model)
        )
        .with_variable(_choice("version", "Version", 'label_values(batchserve_model_state{model=~"$model"}, version)'))
        .with_variable(_choice("replica", "Replica", "label_values(batchserve_build_info, instance)"))
        .link(
            board.DashboardLink("batchserve")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags(["batchserve"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    number = 0
    for heading, panels in rows:
        number += 1
        built = built.with_row(board.Row(heading).id(number))
        for panel in panels:
            number += 1
            built = built.with_panel(panel.id(number))
    return built.build()


def _choice(name: str, label: str, query: str, *, is_multi: bool = True) -> board.QueryVariable:
    """Make a variable whose values Prometheus knows; with several, all of them are chosen at first."""
    variable = (
        board.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(DATASOURCE)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.NATURAL_ASC)
        .multi(is_multi)
        .include_all(is_multi)
    )
    if is_multi:
        variable = variable.current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return variable
