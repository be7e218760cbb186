"""A real server under real load, a real Prometheus: every panel and every rule has data."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from support.observability import GRAFANA

from loadtest.boards import selectors, targets
from loadtest.observe import EMPTY, Line, look, observed, variables_of


@pytest.fixture(scope="module")
def lines() -> Iterator[list[Line]]:
    with observed(12) as (server, prometheus):
        yield look(prometheus, variables_of(server))


@pytest.mark.needs("prometheus")
@pytest.mark.timeout(180)
def test_every_panel_and_every_rule_has_data(lines: list[Line]) -> None:
    assert [f"{line.where}: {line.name}: {line.problem}" for line in lines if line.problem] == []
    assert len([line for line in lines if line.where == "batchserve-overview"]) > 50
    assert len([line for line in lines if line.where == "batchserve-model"]) > 40
    assert len([line for line in lines if line.where == "rule"]) > 20


@pytest.mark.needs("prometheus")
@pytest.mark.timeout(180)
def test_a_query_without_data_is_noticed() -> None:
    """The table is not green whatever happens: for a model that is not there it says so."""
    with observed(3) as (server, prometheus):
        nobody = {board: {**values, "model": "nobody"} for board, values in variables_of(server).items()}
        empty = {line.name for line in look(prometheus, nobody) if line.problem == "no data"}
    assert {"Rows per run A", "Requests by outcome A", "Queue fill A"} <= empty


def test_every_exception_is_a_panel_or_an_alert_that_exists() -> None:
    nothing: dict[str, str] = {"model": "m", "version": "1", "replica": "r", "__rate_interval": "1m"}
    titles = {
        target.panel["title"] for target in targets({"batchserve-overview": nothing, "batchserve-model": nothing})
    }
    alerts = set(re.findall(r"alert: (\w+)", (GRAFANA / "prometheus" / "rules" / "alerts.yml").read_text("utf-8")))
    assert set(EMPTY) <= titles | alerts


def test_what_a_rule_looks_at_is_found_in_its_query() -> None:
    expr = """min by (job, instance) (min_over_time(batchserve_queue_requests{model="a"}[2m])) > 0
        and on (job, instance) sum by (job, instance) (increase(batchserve_executions_total[2m])) == 0 or up == 0"""
    assert selectors(expr) == ['batchserve_queue_requests{model="a"}', "batchserve_executions_total", "up"]
    assert selectors("job_model:batchserve_slow:ratio_rate1h > 14.4 * 0.01") == [
        "job_model:batchserve_slow:ratio_rate1h"
    ]
