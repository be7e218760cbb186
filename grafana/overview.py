"""The overview: is the service well, and if not, in which direction to look."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from grafana.frame import MODEL_UID, OVERVIEW_UID, Row, frame
from grafana.overview_machine import devices, process
from grafana.overview_scheduler import holding, struggling
from grafana.panels import Query, heat, lines, models_table, stats
from grafana.queries import (
    MODEL,
    REPLICA,
    per_request,
    quantile,
    rate,
    ratio,
    unanswered,
    usual_bounds,
    within_target,
)

__all__ = ["overview_dashboard"]

DURATION = "batchserve_request_duration_seconds"
BUSY = ratio(rate("batchserve_instance_busy_seconds_total"), f"batchserve_instances{{{MODEL}}}")

RED, ORANGE = "red", "orange"


def overview_dashboard() -> dashboard.Dashboard:
    """Build it."""
    text = "Is the service well? From top to bottom: now, latency, batching, pressure, devices, process."
    rows = [now(), latency(), batching(), pressure(), devices(), process()]
    return frame(OVERVIEW_UID, "batchserve overview", text, rows, is_one_model=False)


def now() -> Row:
    """Say how it is at this moment."""
    link = f"/d/{MODEL_UID}?var-datasource=${{datasource}}&var-model=${{__data.fields.model}}&${{__url_time_range}}"
    return "Now", [
        stats(
            "Replicas",
            "Servers that Prometheus hears from, and how many of them are ready. What to do: if fewer are ready than "
            "are up, ask `/v2/health/ready` of the missing ones; if fewer are up than you run, look at the target's "
            "page in Prometheus and at the process.",
            [
                Query(f"count(batchserve_build_info{{{REPLICA}}})", "up"),
                Query(f"sum(batchserve_ready{{{REPLICA}}})", "ready"),
            ],
            "short",
        ),
        stats(
            "Models that serve",
            "Model versions that serve on at least one replica, and those whose load failed on one. What to do: if one "
            "failed, `POST /v2/repository/index` and the log say why.",
            [
                Query(f'sum(max by (model, version) (batchserve_model_state{{{MODEL}, state="READY"}}))', "serving"),
                Query(f"sum(max by (model, version) (batchserve_model_load_failed{{{MODEL}}}))", "failed"),
            ],
            "short",
        ),
        stats(
            "Requests",
            "Requests per second that named a model. What to do: if it drops to nothing while clients run, look at "
            "readiness and at the load balancer.",
            [Query(f"sum({rate('batchserve_requests_received_total')})", "requests")],
            "reqps",
        ),
        stats(
            "p99, slowest model",
            "The largest 99th percentile of any model, on the server. What to do: open the model from the table below "
            "and look at where its requests' time goes.",
            [Query(f"max({quantile(0.99, DURATION)})", "p99")],
            "s",
        ),
        stats(
            "Within target now",
            "Share of answers within their model's `latency_target`; a dash if no model has one. What to do: below "
            "99 %, look at pressure: either there is more load than capacity, or the target is not attainable.",
            [Query(within_target(""), "within")],
            "percentunit",
            steps=[(None, RED), (0.95, ORANGE), (0.99, "green")],
        ),
        stats(
            "Without answer",
            "Share of well-formed requests that failed, expired or were refused. What to do: the panels of the row "
            "Pressure say which of the three.",
            [Query(unanswered(""), "without answer")],
            "percentunit",
            steps=[(0.001, ORANGE), (0.01, RED)],
        ),
        stats(
            "Busy now",
            "Share of time in which the models' instances ran something. What to do: near 100 %, the service is at its "
            "capacity; add a replica, or look at whether larger batches would help.",
            [
                Query(
                    ratio(rate("batchserve_instance_busy_seconds_total"), f"batchserve_instances{{{MODEL}}}", ""),
                    "busy",
                )
            ],
            "percentunit",
            steps=[(0.8, ORANGE), (0.95, RED)],
        ),
        stats(
            "Alerts firing",
            "Alerts of batchserve that fire now. What to do: Prometheus' page of alerts names them, and each names its "
            "section of the runbook.",
            [Query('count(ALERTS{service="batchserve", alertstate="firing"}) or vector(0)', "alerts")],
            "short",
            steps=[(1, RED)],
        ),
        models_table(
            "Models",
            "One row for each model, over the chosen replicas; a click on a name leads to its own dashboard. What to "
            "do: sort by the column that looks bad on the panels above, and open that model.",
            [
                ("requests/s", "reqps", f"sum by (model) ({rate('batchserve_requests_received_total')})"),
                ("p50", "s", quantile(0.5, DURATION)),
                ("p99", "s", quantile(0.99, DURATION)),
                ("within target", "percentunit", within_target()),
                ("without answer", "percentunit", unanswered()),
                (
                    "rows per run",
                    "short",
                    ratio(rate("batchserve_batch_rows_sum"), rate("batchserve_batch_rows_count")),
                ),
                ("busy", "percentunit", BUSY),
                ("rows waiting", "short", f"sum by (model) (batchserve_queue_rows{{{MODEL}}})"),
            ],
            link,
        ),
    ]


def latency() -> Row:
    """Say how long answers take, and where the time goes."""
    bucket = rate(f"{DURATION}_bucket", usual_bounds())
    phase = rate("batchserve_request_phase_seconds_total")
    return "Latency", [
        heat(
            "Latency of all requests",
            "How many answers per second took how long, from the last byte read until the answer was ready. A dot is "
            "a request with a trace. What to do: two bands mean two kinds of work, usually two models; a band that "
            "climbs is a queue that grows. Click a dot to see where that request's time went.",
            Query(f"sum by (le) ({bucket})", "{{le}}", has_exemplars=True),
            "s",
            width=12,
        ),
        lines(
            "Latency by model",
            "Median and 99th percentile of each model. What to do: if p99 rises and the median does not, look for "
            "stalls of the event loop (row Process) or bursts; if both rise, for load (row Pressure).",
            [
                Query(quantile(0.99, DURATION), "{{model}} p99", has_exemplars=True),
                Query(quantile(0.5, DURATION), "{{model}} p50"),
                Query(
                    f"min by (model) (batchserve_model_latency_target_seconds{{{MODEL}}})",
                    "{{model}} target",
                    is_dashed=True,
                ),
            ],
            "s",
            width=12,
        ),
        lines(
            "Within target",
            "Share of answers within `latency_target`, for models that have one. What to do: below 99 % for long the "
            "alert fires; lower the load, add a replica, or set a target that this device can hold.",
            [Query(within_target(), "{{model}}")],
            "percentunit",
            most=1,
            steps=[(None, RED), (0.99, "green")],
        ),
        lines(
            "Where a request's time goes",
            "Mean time of a completed request in each phase; together they are its latency, and `encode` comes after. "
            "What to do: `queue`: more load than capacity; `run`: the model itself; `decode` and `encode`: send binary "
            "tensors, not JSON; `gather`: large inputs; `scatter`: the event loop is late.",
            [Query(per_request(phase, "phase"), "{{phase}}")],
            "s",
            is_stacked=True,
        ),
        lines(
            "Share of the time spent waiting",
            "Time in the queue by the whole time of a request. What to do: above one half, requests wait longer than "
            "they are worked on; raise `instances` or `max_batch_size`, or add a replica.",
            [
                Query(
                    ratio(rate("batchserve_queue_duration_seconds_sum"), rate(f"{DURATION}_sum")),
                    "{{model}}",
                )
            ],
            "percentunit",
            most=1,
        ),
    ]


def batching() -> Row:
    """Say what batching gains, and why batches are cut."""
    rows_sum, rows_count = rate("batchserve_batch_rows_sum"), rate("batchserve_batch_rows_count")
    runs = rate("batchserve_execution_duration_seconds_sum")
    return "Batching", [
        lines(
            "Rows per run",
            "Mean rows of a run. What to do: if it stays at 1 under load, the model does not batch "
            "(`/v2/models/NAME/config` says why) or requests differ in shape; that it is small without load is right.",
            [Query(ratio(rows_sum, rows_count), "{{model}}")],
            "short",
        ),
        heat(
            "Sizes of runs",
            "How many runs per second had how many rows. What to do: most at the top: raise `max_batch_size` if "
            "memory allows; two bands: mixed traffic, which is fine.",
            Query(f"sum by (le) ({rate('batchserve_batch_rows_bucket')})", "{{le}}"),
            "short",
        ),
        lines(
            "Why batches were cut",
            "Runs started, by reason. `idle`: an instance was free; `full`: as many rows as it may have. What to do: "
            "mostly `shape`: requests of different shapes cannot share runs, so pad them or set `pad`; `isolate`: runs "
            "fail, see the log; `timer`: `max_queue_delay` is set and decides.",
            [Query(f"sum by (reason) ({rate('batchserve_batches_total')})", "{{reason}}")],
            "ops",
            is_stacked=True,
        ),
        lines(
            "Run time per row",
            "Time inside the runtime by rows: what a row costs. What to do: it should fall when rows per run rise; if "
            "it rises with them, the model gets slower beyond some size, so lower `max_batch_size`; if it rises at "
            "the same size, the cores or the device are shared or throttled.",
            [Query(ratio(runs, rows_sum), "{{model}}")],
            "s",
        ),
        lines(
            "Work beside the run",
            "Time for joining rows and for splitting them and coming back, by the time of the runs. What to do: "
            "above one half, runs are short or inputs large: send more rows in a request.",
            [
                Query(ratio(rate("batchserve_gather_seconds_total"), runs), "{{model}} gather"),
                Query(ratio(rate("batchserve_scatter_seconds_total"), runs), "{{model}} scatter"),
            ],
            "percentunit",
        ),
        lines(
            "Rows that counted",
            "Rows answered, by rows run. What to do: well below 100 %, runs are spent on clients that have left "
            "(their time-out is shorter than the latency) or on requests that failed.",
            [
                Query(ratio(rate("batchserve_rows_total"), rows_sum), "{{model}}"),
                Query(ratio(rate("batchserve_failed_rows_total"), rows_sum), "{{model}} failed", is_dashed=True),
            ],
            "percentunit",
        ),
        *holding(),
    ]


def pressure() -> Row:
    """Say how near the limits are, and what is turned away."""
    inflight, limit = "batchserve_http_inflight_bytes", "batchserve_http_inflight_limit_bytes"
    ended = rate("batchserve_requests_total", 'outcome!="completed"')
    return "Pressure", [
        lines(
            "Queue fill",
            "Rows that wait, by the rows that may: the fullest replica of each model. What to do: near 100 %, requests "
            "are about to be refused; add capacity, or lower the load. Raising `max_queue_size` only adds waiting.",
            [
                Query(
                    f"max by (model) (batchserve_queue_rows{{{MODEL}}} / (batchserve_queue_limit_rows{{{MODEL}}} > 0))",
                    "{{model}}",
                )
            ],
            "percentunit",
        ),
        lines(
            "Oldest that waits",
            "Age of the request that has waited longest on any replica. What to do: if it grows while nothing runs, an "
            "instance hangs: restart that replica. If it grows while batches run, there is more load than capacity, or "
            "a priority that starves.",
            [Query(f"max by (model) (batchserve_queue_oldest_age_seconds{{{MODEL}}})", "{{model}}")],
            "s",
        ),
        lines(
            "In flight",
            "Requests admitted and not ended, and those of them that only wait. What to do: a sum that grows without "
            "end is more load than capacity.",
            [
                Query(f"sum by (model) (batchserve_inflight_requests{{{MODEL}}})", "{{model}}"),
                Query(f"sum by (model) (batchserve_queue_requests{{{MODEL}}})", "{{model}} waiting", is_dashed=True),
            ],
            "short",
        ),
        lines(
            "Requests that were refused",
            "Refusals per second by reason. What to do: `target`, `standing` and `queue`: more load than capacity; "
            "`memory`: bodies over `max_inflight_bytes`; `drain`: a replica is going away, clients should use another.",
            [Query(f"sum by (reason) ({rate('batchserve_requests_refused_total')})", "{{reason}}")],
            "reqps",
            is_stacked=True,
        ),
        lines(
            "Requests without an answer",
            "Per second, by how they ended; `late` were answered, but past their deadline. What to do: `failed`: the "
            "log has the runtime's error; `expired`: the queue is longer than `timeout` allows; `invalid`: a client "
            "sends what the model does not take; `cancelled`: clients give up first.",
            [
                Query(f"sum by (outcome) ({ended})", "{{outcome}}"),
                Query(f"sum({rate('batchserve_requests_late_total')})", "late", is_dashed=True),
            ],
            "reqps",
        ),
        lines(
            "Instances busy",
            "Share of time in which a model's instances ran something. What to do: at 100 % the model is at its "
            "capacity; far below it while requests wait, see the panel above: something hangs.",
            [Query(BUSY, "{{model}}")],
            "percentunit",
            most=1,
        ),
        *struggling(),
        lines(
            "Limits of the server",
            "How much of what a server may hold is in use, on the fullest replica. What to do: `bodies` near 100 %: "
            "raise `max_inflight_bytes` or send less at once; `connections`: raise `max_connections`, or let clients "
            "share connections; `descriptors`: raise `ulimit -n`.",
            [
                Query(f"max({inflight}{{{REPLICA}}} / {limit}{{{REPLICA}}})", "bodies"),
                Query(
                    f"max(batchserve_http_connections{{{REPLICA}}} / batchserve_http_connections_limit{{{REPLICA}}})",
                    "connections",
                ),
                Query(f"max(process_open_fds{{{REPLICA}}} / process_max_fds{{{REPLICA}}})", "descriptors"),
            ],
            "percentunit",
            width=24,
        ),
    ]
