"""docs/metrics.md describes exactly the metrics that the server shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.telemetry_fakes import full_metrics

from batchserve.core.cost import size_starts
from batchserve.core.counters import CUT_REASONS, REFUSAL_REASONS
from batchserve.telemetry.families import (
    BUFFER_SOURCES,
    BUILD_STATES,
    EXECUTION_OUTCOMES,
    GC_GENERATIONS,
    HTTP_CLASSES,
    LOAD_OUTCOMES,
    OUTCOMES,
    PHASES,
    STATES,
)
from batchserve.telemetry.histogram import DURATION_BOUNDS, ROW_BOUNDS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
PROMTOOL = shutil.which("promtool")


class Described(NamedTuple):
    kind: str
    unit: str
    labels: frozenset[str]


def table_rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def documented() -> dict[str, Described]:
    rows = [row for row in table_rows() if len(row) == 6]
    names = [row[0].strip("`") for row in rows]
    assert len(names) == len(set(names)), "a metric is described twice"
    return {
        name: Described(row[1], row[2], frozenset(filter(None, row[3].split(", "))))
        for name, row in zip(names, rows, strict=True)
    }


def exported() -> dict[str, Described]:
    found = {}
    for family in full_metrics().registry.collect():
        assert family.samples, f"{family.name} has no samples"
        name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
        kind = "gauge" if family.type == "info" else family.type
        ending = name.removesuffix("_total").rsplit("_", 1)[-1]
        unit = family.unit or (ending if ending in ("seconds", "bytes") else "")
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert len(labels) == 1, f"{name} has children with different labels"
        found[name] = Described(kind, unit, labels.pop())
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the metrics of the process exist on Linux only")
def test_the_reference_and_the_page_have_the_same_metrics_types_units_and_labels() -> None:
    assert documented() == exported()


def test_every_metric_is_explained() -> None:
    assert [row[0] for row in table_rows() if len(row) == 6 and len(row[4]) < 10] == []


def test_label_values_are_those_of_the_code() -> None:
    values = {row[0]: re.findall(r"`([^`]+)`", row[1]) for row in table_rows() if len(row) == 2}
    assert values.pop("`model`, `version`") == []
    assert values.pop("`slot`") == ["0"]
    assert values.pop("`gpu`") == ["0"]
    assert values.pop("`threshold`") == ["latency_target", "le"]
    assert values.pop("`provider`") == ["CPUExecutionProvider"]
    assert [int(rows) for rows in values.pop("`rows`")] == size_starts(12)
    assert values == {
        "`outcome` of requests": list(OUTCOMES),
        "`outcome` of executions": list(EXECUTION_OUTCOMES),
        "`outcome` of loads": list(LOAD_OUTCOMES),
        "`phase`": list(PHASES),
        "`generation`": list(GC_GENERATIONS),
        "`reason` of refusals": list(REFUSAL_REASONS),
        "`reason` of batches": list(CUT_REASONS),
        "`state`": list(STATES),
        "`state` of builds": list(BUILD_STATES),
        "`source`": list(BUFFER_SOURCES),
        "`status`": list(HTTP_CLASSES),
    }


def test_the_buckets_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    first, second, third = (bound * 1e3 for bound in DURATION_BOUNDS[:3])
    assert f"buckets of {first:g} ms, {second:g} ms, {third:g} ms" in text
    assert f"doubling up to {DURATION_BOUNDS[-1]:.1f} s" in text
    assert f"doubling up to {ROW_BOUNDS[-1]:g}." in text


def queries() -> list[str]:
    return re.findall(r"```promql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_queries_ask_for_metrics_and_labels_that_exist() -> None:
    known = exported()
    assert len(queries()) >= 5
    for query in queries():
        names = set(re.findall(r"batchserve_\w+", query))
        plain = {name if name in known else re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
        assert plain <= set(known), query
        labels = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", query))
        labels |= {label for group in re.findall(r"(?:by|without) \(([^)]*)\)", query) for label in group.split(", ")}
        assert labels <= {"le"} | set().union(*(known[name].labels for name in plain)), query


@pytest.mark.needs("promtool")
def test_promtool_understands_the_queries(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    file = tmp_path / "rules.yaml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "docs", "rules": rules}]}), encoding="utf-8")
    checked = subprocess.run([PROMTOOL, "check", "rules", str(file)], capture_output=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
