"""Prometheus' configuration, recording rules and alerts, by Prometheus' own checker."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from support.observability import GRAFANA, ROOT, rules

PROMTOOL = shutil.which("promtool")
FOLDER = GRAFANA / "prometheus"
TESTS = sorted((FOLDER / "tests").glob("*.yml"))
ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL is not None
    run = subprocess.run(
        [PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False, cwd=FOLDER
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.needs("promtool")
def test_the_configuration_is_valid_and_finds_its_rules() -> None:
    assert "2 rule files found" in promtool("check", "config", "prometheus.yml")


@pytest.mark.needs("promtool")
def test_promtool_has_nothing_to_say_about_the_rules() -> None:
    said = promtool("check", "rules", *sorted((FOLDER / "rules").glob("*.yml")))
    assert "FAILED" not in said
    assert "error" not in said.lower()


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_and_stay_silent_as_written(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_every_alert_is_tested_for_firing_and_for_silence() -> None:
    tested: dict[str, set[bool]] = defaultdict(set)
    for file in TESTS:
        for case in yaml.safe_load(file.read_text("utf-8"))["tests"]:
            for check in case["alert_rule_test"]:
                tested[check["alertname"]].add(bool(check["exp_alerts"]))
    assert {rule["alert"]: {True, False} for rule in ALERTS} == dict(tested)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_severity_a_summary_and_a_section_of_the_runbook(alert: dict[str, dict[str, str]]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["labels"]["service"] == "batchserve"
    assert "{{ $labels." in alert["annotations"]["summary"]
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor == str(alert["alert"]).lower()
    text = (ROOT / page).read_text("utf-8")
    section = re.search(rf"^## {alert['alert']}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    for part in ("**Means:**", "**Look at:**", "**Do:**"):
        assert part in section[1]


def test_the_runbook_has_no_section_for_an_alert_that_is_no_more() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    sections = set(re.findall(r"^## (Batchserve\w+)$", text, re.MULTILINE))
    assert sections == {rule["alert"] for rule in ALERTS}
