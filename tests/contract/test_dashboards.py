"""The dashboards' JSON: that it is what the code makes, and that a person can work with it."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml
from support.observability import GRAFANA, boards, metric_names, panels, queries, rules
from support.telemetry_fakes import full_metrics

from grafana.build import dashboards
from grafana.unshown import UNSHOWN

BOARDS = boards()
PANELS = [pytest.param(board, panel, id=f"{board['uid']}-{panel['id']}") for board in BOARDS for panel in panels(board)]


def exported() -> set[str]:
    """Every metric on the page, as in docs/metrics.md."""
    endings = {"counter": "_total", "info": "_info"}
    return {family.name + endings.get(family.type, "") for family in full_metrics().registry.collect()}


def test_the_json_is_what_the_code_makes() -> None:
    """If it fails, run `python -m grafana.build`."""
    for path, text in dashboards().items():
        assert path.read_text("utf-8") == text, path.name
    assert {path.name for path in dashboards()} == {path.name for path in (GRAFANA / "dashboards").glob("*.json")}


def test_making_it_twice_makes_the_same() -> None:
    assert dashboards() == dashboards()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_panels_have_unique_ids_and_titles_and_do_not_overlap(board: dict[str, Any]) -> None:
    everything = board["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    titles = [panel["title"] for panel in everything]
    assert [title for title in titles if titles.count(title) > 1] == []
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place.get("x", 0), place.get("x", 0) + place["w"])
        for y in range(place.get("y", 0), place.get("y", 0) + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert {x for x, _ in cells} == set(range(24))


def test_dashboards_have_fixed_uids_that_differ() -> None:
    assert sorted(board["uid"] for board in BOARDS) == ["batchserve-model", "batchserve-overview"]
    assert all("id" not in board or board["id"] is None for board in BOARDS)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_the_variables_are_datasource_model_version_and_replica(board: dict[str, Any]) -> None:
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert list(variables) == ["datasource", "model", "version", "replica"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("model", "version", "replica"):
        assert variables[name]["datasource"]["uid"] == "${datasource}"
    assert variables["replica"]["multi"]
    assert variables["model"].get("multi", False) == (board["uid"] == "batchserve-overview")


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_every_panel_says_what_to_do_and_has_a_unit(board: dict[str, Any], panel: dict[str, Any]) -> None:
    what, _, remedy = panel["description"].partition("What to do: ")
    assert len(what) > 15
    assert len(remedy) > 40
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_every_query_goes_to_the_chosen_datasource_and_is_bound_to_the_variables(
    board: dict[str, Any], panel: dict[str, Any]
) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [target["refId"] for target in panel["targets"]]
    assert len(set(names)) == len(names)
    for target in panel["targets"]:
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for selector in re.findall(r"(?:batchserve|process)_\w+(\{[^}]*\})?", target["expr"]):
            assert 'instance=~"$replica"' in selector, target["expr"]
        for window in re.findall(r"\[([^\]]*)\]", re.sub(r'"[^"]*"', "", target["expr"])):
            assert window in ("$__rate_interval", "10m"), target["expr"]


def test_every_query_and_rule_asks_for_metrics_that_exist() -> None:
    known = exported()
    asked = [expr for board in BOARDS for _, expr in queries(board)] + [rule["expr"] for rule in rules()]
    missing = {name: expr for expr in asked for name in metric_names(expr, known) if name not in known}
    assert missing == {}


def test_every_metric_is_on_a_panel_in_a_rule_or_on_the_list_of_exceptions() -> None:
    known = exported()
    asked = [expr for board in BOARDS for _, expr in queries(board)] + [rule["expr"] for rule in rules()]
    shown = set(itertools.chain.from_iterable(metric_names(expr, known) for expr in asked))
    assert known - shown == set(UNSHOWN)
    assert all(len(reason) > 20 for reason in UNSHOWN.values())


def test_the_datasource_has_a_fixed_uid_and_exemplars_lead_to_traces() -> None:
    text = (GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text("utf-8")
    (source,) = yaml.safe_load(text)["datasources"]
    assert source["uid"] == "batchserve-prometheus"
    (link,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == "trace_id"
    scrape = yaml.safe_load((GRAFANA / "prometheus" / "prometheus.yml").read_text("utf-8"))["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape  # $__rate_interval follows from it
