"""Whether every panel and every rule has data: a real server under real load, a real Prometheus, every query.

    python loadtest/observe.py
    python loadtest/observe.py --pictures docs/images/dashboards

Prints a line for each query of each panel and for each rule, and ends with 1 if one has no data that should have some.
With `--pictures` it also draws the panels. Needs Prometheus; takes about half a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest import boards, traffic
from loadtest.client import LoadError
from loadtest.models import model_folder
from loadtest.paced import Paced
from loadtest.prometheus import SCRAPE_S, Prometheus
from loadtest.server import Server, ServerError

__all__ = ["EMPTY", "Line", "look", "main", "observed", "variables_of"]

EMPTY: Mapping[str, str] = {
    "GPU utilisation": "needs a GPU",
    "GPU memory": "needs a GPU",
    "GPU power": "needs a GPU",
    "Energy by request": "needs a GPU",
    "BatchserveBuildFailed": "needs a model that is built beside the serving",
}
"""Panels and alerts that may have no data here, and why."""

SETTINGS = {
    "server.admin": "true",
    "models.digits.latency_target": "50ms",
    "models.language.instances": "2",
    "models.digits.max_queue_delay": "2ms",
    "models.language.pad": '{axes = ["tokens", "mask"], mask = "mask"}',
    "models.lookup.max_batch_size": "1",
    "models.lookup.max_queue_size": "1",
}


@dataclass(frozen=True)
class Line:
    """What became of one query or rule.

    Attributes:
        where: The dashboard, or `rule`.
        name: The panel and its query, or the rule.
        series: How many series it has.
        exemplars: How many traces came with it; None if none are asked for.
        problem: Why it is not as it should be, "" if it is.
        note: Why nothing was expected, "" if something was.
    """

    where: str
    name: str
    series: int
    exemplars: int | None = None
    problem: str = ""
    note: str = ""


@contextlib.contextmanager
def observed(seconds: float) -> Iterator[tuple[Server, Prometheus]]:
    """Serve four models under some 250 requests a second, with a Prometheus that has watched them for so long.

    One of the models has a queue so short that bursts are refused in part.
    """
    folders = [traffic.EXAMPLES, model_folder("largest"), model_folder("lookup")]
    with Server(folders, SETTINGS) as server:
        loads = [
            Paced(server.port, traffic.traced(traffic.digits()), 150, 16),
            Paced(server.port, [traffic.digits(3, is_json=True), traffic.digits(40)], 20, 2),
            Paced(server.port, [traffic.language(length) for length in (12, 12, 40, 12, 90)], 60, 8),
            Paced(server.port, [traffic.large()], 5, 2),
            Paced(server.port, [traffic.lookup(7)], 2, 8, burst=8),
        ]
        with Prometheus([server.port]) as prometheus, contextlib.ExitStack() as stack:
            for load in loads:
                stack.enter_context(load)
            samples = math.ceil(seconds / SCRAPE_S)
            prometheus.wait_for(f"count_over_time(batchserve_build_info[1h]) >= {samples}", 3 * seconds + 30)
            yield server, prometheus


def variables_of(server: Server) -> dict[str, dict[str, str]]:
    """Choose values for the dashboards' variables: everything, and one model for the dashboard of one."""
    everything = {
        "__rate_interval": f"{max(5, 4 * SCRAPE_S):g}s",
        "version": "(1)",
        "replica": f"(127[.]0[.]0[.]1:{server.port})",
    }
    return {
        "batchserve-overview": {**everything, "model": "(digits|language|largest|lookup)"},
        "batchserve-model": {**everything, "model": "digits"},
    }


def look(prometheus: Prometheus, variables: Mapping[str, Mapping[str, str]]) -> list[Line]:
    """Ask everything that the dashboards and the rules ask."""
    return [*_panels(prometheus, variables), *_rules(prometheus)]


def _panels(prometheus: Prometheus, variables: Mapping[str, Mapping[str, str]]) -> Iterator[Line]:
    for target in boards.targets(variables):
        series = _series(prometheus, target.expr)
        exemplars = None
        if target.has_exemplars:
            exemplars = sum(len(one["exemplars"]) for one in prometheus.exemplars(target.expr, 60))
        title = target.panel["title"]
        note = "" if series else EMPTY.get(title, "")
        problem = "" if series or note else "no data"
        if exemplars == 0:
            problem = "no exemplars"
        yield Line(target.board, f"{title} {target.ref}", series, exemplars, problem, note)


def _rules(prometheus: Prometheus) -> Iterator[Line]:
    """Look at recording rules by their result, and at alerts by what they look at: a quiet alert has no result."""
    for rule in prometheus.rules():
        problem = "" if rule["health"] == "ok" else rule.get("lastError") or rule["health"]
        if rule["type"] == "recording":
            series = _series(prometheus, rule["name"])
            yield Line("rule", rule["name"], series, problem=problem or ("" if series else "no data"))
        else:
            found = {one: _series(prometheus, one) for one in boards.selectors(rule["query"])}
            missing = ", ".join(one for one, series in found.items() if not series)
            note = EMPTY.get(rule["name"], "") if missing else ""
            if missing and not note:
                problem = problem or f"no {missing}"
            yield Line("rule", rule["name"], sum(found.values()), problem=problem, note=note)


def _series(prometheus: Prometheus, expr: str) -> int:
    """Count the series of a query whose value is a number."""
    return sum(1 for one in prometheus.query(expr) if not math.isnan(float(one["value"][1])))


def table(lines: Sequence[Line]) -> str:
    """Write the lines for a person."""
    width = max(len(line.name) for line in lines)
    written = [f"{'where':20}{'panel and query, or rule':{width + 2}}{'series':>8}  data"]
    for line in lines:
        state = line.problem or (f"none: {line.note}" if line.note else "yes")
        if line.exemplars:
            state += f", {line.exemplars} exemplars"
        written.append(f"{line.where:20}{line.name:{width + 2}}{line.series:8}  {state}")
    return "\n".join(written)


def main() -> int:
    """Observe, print the table; 1 if something has no data or nothing could be observed."""
    parser = argparse.ArgumentParser(description="Ask every query of the dashboards and rules of a real Prometheus.")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to watch before asking (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the panels into this folder, too")
    arguments = parser.parse_args()
    try:
        with observed(arguments.seconds) as (server, prometheus):
            lines = look(prometheus, variables_of(server))
            if arguments.pictures is not None:
                from loadtest.pictures import draw_rows

                for path in draw_rows(prometheus, variables_of(server), arguments.seconds, arguments.pictures):
                    print(path)
    except (LoadError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(lines))
    bad = [line for line in lines if line.problem]
    print(f"{len(lines)} queries and rules: {len(lines) - len(bad)} as they should be, {len(bad)} not")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
