"""What the committed dashboards and rules ask of Prometheus, with the dashboards' variables put in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "Target", "boards", "put_in", "selectors", "targets"]

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"

_SELECTOR = re.compile(r"(?<![\w:])((?:batchserve_|process_|python_|job_model:)[\w:]+|up)(\{[^}]*\})?")


@dataclass(frozen=True)
class Target:
    """One query of one panel.

    Attributes:
        board: The dashboard's uid.
        panel: The panel, as its JSON has it.
        ref: Which of the panel's queries it is.
        expr: PromQL without variables.
        legend: Grafana's pattern for the series' names.
        has_exemplars: True if traces are shown, too.
    """

    board: str
    panel: Mapping[str, Any]
    ref: str
    expr: str
    legend: str
    has_exemplars: bool


def boards() -> list[dict[str, Any]]:
    """Read every dashboard, in the order of their names."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def put_in(expr: str, variables: Mapping[str, str]) -> str:
    """Replace the variables of a query as Grafana does.

    Raises:
        ValueError: One is left.
    """
    for name, value in variables.items():
        expr = expr.replace(f"${name}", value)
    if "$" in re.sub(r'"\$\d"', "", expr):  # label_replace has its own
        raise ValueError(f"a variable is left in {expr!r}; known are {', '.join(variables)}")
    return expr


def targets(variables: Mapping[str, Mapping[str, str]]) -> Iterator[Target]:
    """Give every query of every panel.

    Args:
        variables: For each dashboard's uid, the values of its variables.
    """
    for board in boards():
        for panel in board["panels"]:
            for target in panel.get("targets") or ():
                expr = put_in(target["expr"], variables[board["uid"]])
                legend = target.get("legendFormat", "")
                yield Target(board["uid"], panel, target["refId"], expr, legend, bool(target.get("exemplar")))


def selectors(expr: str) -> list[str]:
    """List the series that a rule looks at, each as an instant query."""
    bare = re.sub(r"\b(by|on|without|group_left|group_right)\s*\([^)]*\)", "", expr)
    return list(dict.fromkeys(name + (labels or "") for name, labels in _SELECTOR.findall(bare)))
