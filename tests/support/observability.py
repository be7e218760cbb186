"""The dashboards and rules as they are on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["GRAFANA", "ROOT", "boards", "metric_names", "panels", "queries", "rules"]

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"

_ENDINGS = re.compile(r"_(bucket|sum|count)$")
_NAME = re.compile(r"(?<![\w:])((?:batchserve|process|python)_\w+)")


def boards() -> list[dict[str, Any]]:
    """Read every dashboard."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """List a dashboard's panels, rows aside."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give each query with its panel's title."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def rules() -> list[dict[str, Any]]:
    """Read every rule."""
    files = sorted((GRAFANA / "prometheus" / "rules").glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def metric_names(expr: str, known: set[str]) -> set[str]:
    """Find the metrics that a query asks for; a histogram's series count as the histogram."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    return {name if name in known else _ENDINGS.sub("", name) for name in _NAME.findall(bare)}
