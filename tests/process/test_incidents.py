"""The incidents of docs/monitoring.md: the trouble is made, and the numbers show it."""

from __future__ import annotations

import re

import pytest
from support.observability import ROOT, boards

from loadtest.incidents import INCIDENTS, run


@pytest.mark.needs("prometheus")
@pytest.mark.timeout(120)
def test_one_bad_row_fails_alone() -> None:
    seen = run(INCIDENTS["one-bad-row"], well_s=6, trouble_s=6)
    assert seen.before["failed requests /s"] == seen.before["failed runs /s"] == 0
    assert (seen.before["answered /s"] or 0) > 100
    assert (seen.during["failed requests /s"] or 0) > 2
    assert (seen.during["failed runs /s"] or 0) >= (seen.during["failed requests /s"] or 0)  # halves failed, too
    assert (seen.during["answered /s"] or 0) > 100


@pytest.mark.needs("prometheus")
@pytest.mark.timeout(120)
def test_slow_clients_take_the_memory_for_bodies_and_nothing_else() -> None:
    seen = run(INCIDENTS["slow-client"], well_s=6, trouble_s=6)
    assert (seen.before["share of bodies' memory"] or 0) < 0.2
    assert (seen.during["share of bodies' memory"] or 0) > 0.9
    assert seen.before["refused for memory /s"] == 0
    assert (seen.during["refused for memory /s"] or 0) > 1


def test_every_incident_is_in_the_guide_with_its_picture_and_its_panels_exist() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    known = {(board["uid"], panel["title"]) for board in boards() for panel in board["panels"]}
    for name, incident in INCIDENTS.items():
        assert f"(images/incidents/{name}.png)" in text
        assert f"loadtest/incidents.py {name}" in text
        assert set(incident.panels) <= known


def test_every_picture_of_the_guide_is_there_and_every_row_has_one() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    named = re.findall(r"\]\((images/[^)]+)\)", text)
    assert [path for path in named if not (ROOT / "docs" / path).is_file()] == []
    rows = {
        f"images/dashboards/{board['uid'].removeprefix('batchserve-')}-{panel['title'].lower()}.png"
        for board in boards()
        for panel in board["panels"]
        if panel["type"] == "row"
    }
    assert rows <= set(named)
