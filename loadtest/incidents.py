"""Five kinds of trouble, made on purpose and seen through the dashboards.

    python loadtest/incidents.py
    python loadtest/incidents.py overload one-bad-row --pictures docs/images/incidents

Each starts a real server and a real Prometheus, lets all be well for a while, makes the trouble, and prints some
numbers from before and during it. With `--pictures` it draws the panels that tell. Needs Prometheus; less than a
minute each.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest import boards, trouble_makers
from loadtest.client import LoadError
from loadtest.models import model_folder
from loadtest.prometheus import Prometheus
from loadtest.server import Server, ServerError
from loadtest.trouble_makers import Load

__all__ = ["INCIDENTS", "Incident", "Seen", "main", "run"]

WELL_S, TROUBLE_S = 15.0, 20.0
WINDOW = "5s"


@dataclass(frozen=True)
class Incident:
    """One kind of trouble.

    Attributes:
        summary: What happens, for people.
        models: What is served, by name of the maker.
        settings: The server's configuration.
        always: The load that goes on all the time; takes the server's port.
        trouble: What is added.
        panels: Dashboard and title of the panels that tell.
        numbers: What is asked before and during it: a name, and PromQL with `$window`.
        model: The model that the panels show.
    """

    summary: str
    models: Sequence[str]
    always: Load
    trouble: Load
    panels: Sequence[tuple[str, str]]
    numbers: Mapping[str, str]
    model: str
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What became of it: each number before and during the trouble; None where there was none."""

    before: Mapping[str, float | None]
    during: Mapping[str, float | None]


OVERVIEW, MODEL = "batchserve-overview", "batchserve-model"
P99 = "histogram_quantile(0.99, sum by (le) (rate(batchserve_request_duration_seconds_bucket[$window])))"
ANSWERED = 'sum(rate(batchserve_requests_total{outcome="completed"}[$window]))'
OF_IDENTITY = 'bucket{model="identity"}['
REFUSED = "sum(rate(batchserve_requests_refused_total[$window]))"

INCIDENTS: Mapping[str, Incident] = {
    "overload": Incident(
        "several times the load that the device can carry, with a target of 250 ms",
        ["mlp-wide"],
        trouble_makers.wide(40),
        trouble_makers.wide(600, connections=160),
        [
            (MODEL, "Latency and target"),
            (MODEL, "Refused, and late"),
            (MODEL, "Mean request by phase"),
            (MODEL, "Queue"),
            (MODEL, "Arrivals and capacity"),
            (MODEL, "Requests by outcome"),
        ],
        {"answered /s": ANSWERED, "refused /s": REFUSED, "p99 s": P99},
        "mlp-wide",
        {
            "models.mlp-wide.latency_target": "250ms",
            "models.mlp-wide.max_batch_size": "1",
            "models.mlp-wide.instances": "1",
            "models.mlp-wide.intra_op_threads": "1",
        },
    ),
    "slow-client": Incident(
        "sixty clients announce 614 kB each and then send almost nothing",
        ["largest"],
        trouble_makers.largest(20),
        trouble_makers.dawdling(60),
        [
            (OVERVIEW, "Limits of the server"),
            (OVERVIEW, "Requests that were refused"),
            (OVERVIEW, "Bodies"),
            (OVERVIEW, "HTTP answers"),
            (OVERVIEW, "Latency by model"),
            (OVERVIEW, "Connections"),
        ],
        {
            "answered /s": ANSWERED,
            "refused for memory /s": 'sum(rate(batchserve_requests_refused_total{reason="memory"}[$window]))',
            "share of bodies' memory": "batchserve_http_inflight_bytes / batchserve_http_inflight_limit_bytes",
            "p99 s": P99,
        },
        "largest",
        {"server.max_inflight_bytes": "24MiB", "server.body_timeout": "10s"},
    ),
    "wrong-target": Incident(
        "a target of 3 ms for a model whose run alone takes longer",
        ["mlp-wide"],
        trouble_makers.wide(2, connections=2),
        trouble_makers.wide(20, burst=3),
        [
            (MODEL, "Latency and target"),
            (MODEL, "Running"),
            (MODEL, "Mean request by phase"),
            (MODEL, "Target and what is attainable"),
            (MODEL, "Refused, and late"),
            (OVERVIEW, "Within target"),
        ],
        {
            "answered /s": ANSWERED,
            "refused /s": REFUSED,
            "p99 s": P99,
            "run p50 s": P99.replace("0.99", "0.5").replace("request", "execution"),
        },
        "mlp-wide",
        {"models.mlp-wide.latency_target": "3ms", "models.mlp-wide.instances": "1"},
    ),
    "cold-engine": Incident(
        "a model is loaded while its clients ask already, beside one that serves",
        ["identity", "mlp-wide"],
        trouble_makers.identity(50),
        trouble_makers.loading(),
        [
            (MODEL, "States"),
            (MODEL, "Time to load"),
            (OVERVIEW, "HTTP answers"),
            (OVERVIEW, "Latency by model"),
            (OVERVIEW, "Lag of the event loop"),
            (OVERVIEW, "Processor"),
        ],
        {
            "answered /s": ANSWERED,
            "answers 503 of the last 30 s": 'sum(increase(batchserve_http_responses_total{status="5xx"}[30s]))',
            "load s": 'batchserve_model_load_duration_seconds{model="mlp-wide"}',
            "worst p99 of identity s": f"max_over_time({P99.replace('bucket[', OF_IDENTITY)}[15s:1s])",
        },
        "mlp-wide",
        {"server.admin": "true", "models.mlp-wide.warmup_budget": "6s"},
    ),
    "one-bad-row": Incident(
        "one client of thirty sends a row that the model fails on",
        ["lookup"],
        trouble_makers.lookup(150),
        trouble_makers.bad_row(5),
        [
            (MODEL, "Requests by outcome"),
            (MODEL, "Runs"),
            (MODEL, "Why batches were cut"),
            (MODEL, "Latency and target"),
            (MODEL, "Rows per run"),
            (OVERVIEW, "HTTP answers"),
        ],
        {
            "answered /s": ANSWERED,
            "failed requests /s": 'sum(rate(batchserve_requests_total{outcome="failed"}[$window]))',
            "failed runs /s": 'sum(rate(batchserve_executions_total{outcome="failed"}[$window]))',
            "repeated halves /s": 'sum(rate(batchserve_batches_total{reason="isolate"}[$window]))',
            "p99 s": P99,
        },
        "lookup",
        {"models.lookup.max_queue_delay": "20ms"},
    ),
}
"""Every kind of trouble by name, in the order of docs/monitoring.md."""


def run(
    incident: Incident,
    draw: Callable[[Prometheus, Mapping[str, Mapping[str, str]], float], None] | None = None,
    *,
    well_s: float = WELL_S,
    trouble_s: float = TROUBLE_S,
) -> Seen:
    """Make an incident. Blocks for as long as it takes.

    Args:
        incident: Which.
        draw: Called at the end with Prometheus, the dashboards' variables and the seconds to look back.
        well_s: How long all is well first.
        trouble_s: How long the trouble lasts.

    Raises:
        LoadError: The load or Prometheus broke.
        ServerError: The server did.
    """
    with Server([model_folder(name) for name in incident.models], incident.settings) as server:
        trouble_makers.prepare(incident.trouble, server.port)
        with Prometheus([server.port]) as prometheus, incident.always(server.port):
            begin_s = time.monotonic()
            prometheus.wait_for(f"count_over_time(batchserve_build_info[1h]) >= {well_s:.0f}", 3 * well_s + 30)
            before = _numbers(prometheus, incident)
            with incident.trouble(server.port):
                samples = well_s + trouble_s
                prometheus.wait_for(f"count_over_time(batchserve_build_info[1h]) >= {samples:.0f}", 3 * trouble_s + 30)
                during = _numbers(prometheus, incident)
                if draw is not None:
                    draw(prometheus, _variables(server, incident), time.monotonic() - begin_s)
    return Seen(before, during)


def _numbers(prometheus: Prometheus, incident: Incident) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, expr in incident.numbers.items():
        series = prometheus.query(expr.replace("$window", WINDOW))
        value = float(series[0]["value"][1]) if series else float("nan")
        found[name] = None if math.isnan(value) else value
    return found


def _variables(server: Server, incident: Incident) -> dict[str, dict[str, str]]:
    common = {"__rate_interval": WINDOW, "version": ".*", "replica": f"127[.]0[.]0[.]1:{server.port}"}
    models = "|".join(incident.models)
    return {OVERVIEW: {**common, "model": f"({models})"}, MODEL: {**common, "model": incident.model}}


def _drawing(
    name: str, incident: Incident, folder: Path
) -> Callable[[Prometheus, Mapping[str, Mapping[str, str]], float], None]:
    def draw(prometheus: Prometheus, variables: Mapping[str, Mapping[str, str]], seconds: float) -> None:
        from loadtest.pictures import draw_panels

        known = {(board["uid"], panel["title"]): panel for board in boards.boards() for panel in board["panels"]}
        panels = []
        for number, (board, title) in enumerate(incident.panels):
            place = {"x": 8 * (number % 3), "y": 8 * (number // 3), "w": 8, "h": 8}
            panels.append({**known[board, title], "gridPos": place, "variables": variables[board]})
        folder.mkdir(parents=True, exist_ok=True)
        print(draw_panels(prometheus, panels, {}, seconds, folder / f"{name}.png", f"{name}: {incident.summary}"))

    return draw


def table(name: str, incident: Incident, seen: Seen) -> str:
    """Write what was seen as a table in Markdown."""
    written = [f"### {name}: {incident.summary}", "", "| number | before | during |", "|---|---|---|"]
    for key in incident.numbers:
        cells = ("-" if value is None else f"{value:.4g}" for value in (seen.before[key], seen.during[key]))
        written.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(written)


def main() -> int:
    """Make the incidents that are named, all if none is; 1 if one could not be made."""
    parser = argparse.ArgumentParser(description="Make trouble on purpose and look at it through the dashboards.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(INCIDENTS)}; all if none is named")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the panels that tell into this folder")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in INCIDENTS]
    if unknown:
        parser.error(f"no incident {', '.join(unknown)}; there are {', '.join(INCIDENTS)}")
    problems = 0
    for name in arguments.names or INCIDENTS:
        incident = INCIDENTS[name]
        draw = None if arguments.pictures is None else _drawing(name, incident, arguments.pictures)
        try:
            print(table(name, incident, run(incident, draw)), end="\n\n", flush=True)
        except (LoadError, ServerError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            problems += 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
