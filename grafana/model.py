"""One model in depth: how it answers, where the time goes, how it is batched, what is asked of it, what it is."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from grafana.frame import MODEL_UID, Row, frame
from grafana.model_scheduler import scheduler
from grafana.panels import Query, heat, lines, stats
from grafana.queries import MODEL, per_request, quantile, rate, ratio, spread, unanswered, within_target

__all__ = ["model_dashboard"]

DURATION, QUEUE = "batchserve_request_duration_seconds", "batchserve_queue_duration_seconds"
RUN = "batchserve_execution_duration_seconds"


def model_dashboard() -> dashboard.Dashboard:
    """Build it."""
    text = "One model: is it within its target, where does the time go, how is it batched, what is asked of it?"
    return frame(
        MODEL_UID,
        "batchserve model",
        text,
        [now(), time_spent(), batching(), scheduler(), load(), life()],
        is_one_model=True,
    )


def now() -> Row:
    """Say how the model is at this moment."""
    busy = ratio(rate("batchserve_instance_busy_seconds_total"), f"batchserve_instances{{{MODEL}}}", "")
    return "Now", [
        stats(
            "Replicas that serve it",
            "Replicas on which a version of it is ready. What to do: fewer than run: the row Versions says where it "
            "is missing.",
            [Query(f'count(max by (instance) (batchserve_model_state{{{MODEL}, state="READY"}}) == 1)', "replicas")],
            "short",
        ),
        stats(
            "Requests",
            "Requests per second, whatever became of them. What to do: if it drops to nothing while clients run, look "
            "at readiness and at the load balancer.",
            [Query(f"sum({rate('batchserve_requests_received_total')})", "requests")],
            "reqps",
        ),
        stats(
            "Rows",
            "Rows per second that were answered. What to do: if it stays while requests rise, the model is at its "
            "capacity.",
            [Query(f"sum({rate('batchserve_rows_total')})", "rows")],
            "rowsps",
        ),
        stats(
            "p50 and p99",
            "Latency on the server. What to do: p99 far above p50 is bursts or stalls; both high is load or the model.",
            [
                Query(quantile(0.5, DURATION, "model"), "p50"),
                Query(quantile(0.99, DURATION, "model"), "p99"),
            ],
            "s",
            width=4,
        ),
        stats(
            "Within target now",
            "Share of answers within `latency_target`; a dash without one. What to do: below 99 %, compare the waiting "
            "with the run time below: waiting is load, run time is a target that cannot be held.",
            [Query(within_target(""), "within")],
            "percentunit",
            steps=[(None, "red"), (0.95, "orange"), (0.99, "green")],
        ),
        stats(
            "Without answer",
            "Share of well-formed requests that failed, expired or were refused. What to do: look at the "
            "row Load, which says which of the three it is, and why.",
            [Query(unanswered(""), "without answer")],
            "percentunit",
            steps=[(0.001, "orange"), (0.01, "red")],
        ),
        stats(
            "Busy now",
            "Share of time in which its instances ran something. What to do: at 100 % it has no more capacity: add a "
            "replica.",
            [Query(busy, "busy")],
            "percentunit",
            steps=[(0.8, "orange"), (0.95, "red")],
            width=2,
        ),
        stats(
            "Rows per run now",
            "Mean rows of a run. What to do: 1 under load means that it does not batch: see its configuration.",
            [Query(ratio(rate("batchserve_batch_rows_sum"), rate("batchserve_batch_rows_count"), ""), "rows")],
            "short",
            width=3,
        ),
    ]


def time_spent() -> Row:
    """Say how long answers take, and where the time goes."""
    phase = rate("batchserve_request_phase_seconds_total")
    return "Time", [
        heat(
            "Latency",
            "How many answers per second took how long; a dot is a request with a trace. What to do: click a dot of "
            "the slow band to see where that request's time went.",
            Query(f"sum by (le) ({rate(DURATION + '_bucket')})", "{{le}}", has_exemplars=True),
            "s",
            width=12,
        ),
        lines(
            "Latency and target",
            "Percentiles on the server; the dashed line is `latency_target`. What to do: compare with the two panels "
            "below: the larger part is where the time goes.",
            [
                *(
                    Query(quantile(share, DURATION), f"p{share * 100:g}", has_exemplars=share == 0.99)
                    for share in (0.5, 0.9, 0.99, 0.999)
                ),
                Query(f"min(batchserve_model_latency_target_seconds{{{MODEL}}})", "target", is_dashed=True),
            ],
            "s",
            width=12,
        ),
        lines(
            "Mean request by phase",
            "Mean time of a completed request in each phase. What to do: `queue`: all instances are busy; `run`: the "
            "model; `decode` and `encode`: send binary tensors; `gather`: large inputs; `scatter`: a late event loop.",
            [Query(per_request(phase, "phase"), "{{phase}}")],
            "s",
            is_stacked=True,
        ),
        lines(
            "Waiting",
            "Time from admission until an instance took the batch up. What to do: longer than a run or two: all "
            "instances are busy; raise `instances` or `max_batch_size`, or add a replica.",
            [Query(quantile(share, QUEUE), f"p{share * 100:g}") for share in (0.5, 0.99)],
            "s",
        ),
        lines(
            "Running",
            "Time of a run inside the runtime. What to do: longer than at start-up for the same rows: the cores or the "
            "device are shared with something else, or throttled.",
            [Query(quantile(share, RUN), f"p{share * 100:g}") for share in (0.5, 0.99)],
            "s",
        ),
        lines(
            "p99 by replica",
            "The five slowest replicas. What to do: one far above the others: look at its processor and its event "
            "loop; take it out of the load balancer meanwhile.",
            [Query(f"topk(5, {quantile(0.99, DURATION, 'instance')})", "{{instance}}")],
            "s",
            width=24,
        ),
    ]


def batching() -> Row:
    """Say how requests are joined."""
    rows_sum, rows_count = rate("batchserve_batch_rows_sum"), rate("batchserve_batch_rows_count")
    runs = rate(f"{RUN}_sum")
    return "Batching", [
        heat(
            "Sizes of runs",
            "How many runs per second had how many rows. What to do: all in the top band: raise `max_batch_size` if "
            "memory allows; all at 1 under load: it does not batch, or requests differ in shape.",
            Query(f"sum by (le) ({rate('batchserve_batch_rows_bucket')})", "{{le}}"),
            "short",
        ),
        lines(
            "Why batches were cut",
            "Runs started, by reason. What to do: mostly `shape`: requests of different shapes cannot share runs; "
            "`isolate`: runs fail, see the log; `timer`: `max_queue_delay` decides; `deadline`: the target leaves no "
            "time to wait.",
            [Query(f"sum by (reason) ({rate('batchserve_batches_total')})", "{{reason}}")],
            "ops",
            is_stacked=True,
        ),
        lines(
            "Run time per row",
            "What a row costs. What to do: if it rises with the rows per run, lower `max_batch_size`; if it rises at "
            "the same size, the device is shared or throttled.",
            [Query(ratio(runs, rows_sum, ""), "per row")],
            "s",
        ),
        lines(
            "Rows per run",
            "Mean rows of a run on the replica with the largest, the middle and the smallest. What to do: far apart: "
            "the load balancer spreads unevenly.",
            [Query(expr, name) for expr, name in spread(ratio(rows_sum, rows_count, "instance"))],
            "short",
        ),
        lines(
            "Work beside the run",
            "Time for joining rows, and for splitting them and coming back, by the time of the runs. What to do: above "
            "one half: runs are short or inputs large; send more rows in a request.",
            [
                Query(ratio(rate("batchserve_gather_seconds_total"), runs, ""), "gather"),
                Query(ratio(rate("batchserve_scatter_seconds_total"), runs, ""), "scatter"),
            ],
            "percentunit",
        ),
        lines(
            "Runs",
            "Runs that came back, by outcome, and those done on the event loop's own thread because they are shorter "
            "than a hand-over. What to do: `failed`: the log has the error of each, and its rows.",
            [
                Query(f"sum by (outcome) ({rate('batchserve_executions_total')})", "{{outcome}}"),
                Query(f"sum({rate('batchserve_executions_in_place_total')})", "in place", is_dashed=True),
            ],
            "ops",
        ),
    ]


def load() -> Row:
    """Say what is asked of the model and what is turned away."""
    return "Load", [
        lines(
            "Requests by outcome",
            "Requests per second, by how they ended. What to do: `failed`: the log; `expired`: the queue is longer "
            "than `timeout`; `refused`: next panel; `invalid`: a client's mistake; `cancelled`: clients give up first.",
            [Query(f"sum by (outcome) ({rate('batchserve_requests_total')})", "{{outcome}}")],
            "reqps",
            is_stacked=True,
        ),
        lines(
            "Refused, and late",
            "Refusals per second by reason, and answers past their deadline. What to do: `target`, `standing`, "
            "`queue`: more load than capacity; `memory`: bodies over `max_inflight_bytes`; `drain`: a replica leaves; "
            "late: runs take longer than the time that was left, lower `max_batch_size`.",
            [
                Query(f"sum by (reason) ({rate('batchserve_requests_refused_total')})", "{{reason}}"),
                Query(f"sum({rate('batchserve_requests_late_total')})", "late", is_dashed=True),
            ],
            "reqps",
        ),
        lines(
            "Queue",
            "Rows that wait on the fullest and the middle replica, and how many may. What to do: at the limit, "
            "requests are refused: add capacity; a larger limit only adds waiting.",
            [
                *(Query(expr, name) for expr, name in spread(f"batchserve_queue_rows{{{MODEL}}}")[:2]),
                Query(f"min(batchserve_queue_limit_rows{{{MODEL}}} > 0)", "limit", is_dashed=True),
            ],
            "short",
        ),
        lines(
            "Oldest that waits",
            "Age of the request that has waited longest, on the worst and the middle replica. What to do: if it grows "
            "while nothing runs, an instance hangs; else there is more load than capacity.",
            [Query(expr, name) for expr, name in spread(f"batchserve_queue_oldest_age_seconds{{{MODEL}}}")[:2]],
            "s",
        ),
        lines(
            "Instances busy",
            "Share of time that each slot was taken, mean of the replicas. What to do: all at 100 %: at capacity; one "
            "at 100 % and the others idle: a run hangs on it.",
            [Query(f"avg by (slot) ({rate('batchserve_instance_busy_seconds_total')})", "slot {{slot}}")],
            "percentunit",
        ),
        lines(
            "In flight",
            "Requests admitted and not ended, and those that only wait, on all replicas. What to do: a sum that grows "
            "without end is more load than capacity.",
            [
                Query(f"sum(batchserve_inflight_requests{{{MODEL}}})", "in flight"),
                Query(f"sum(batchserve_queue_requests{{{MODEL}}})", "waiting", is_dashed=True),
            ],
            "short",
        ),
    ]


def life() -> Row:
    """Say which versions there are, and how their loads went."""
    return "Versions", [
        lines(
            "States",
            "Replicas by version and state. What to do: `LOADING` for long: a large model, or a warm-up that should be "
            "shorter (`warmup_budget`); `UNAVAILABLE` that nobody asked for: the index and the log say why.",
            [
                Query(
                    f"sum by (version, state) (batchserve_model_state{{{MODEL}}}) > 0",
                    "{{version}} {{state}}",
                )
            ],
            "short",
        ),
        lines(
            "Loads",
            "Loads and reloads of the last ten minutes by outcome, and replicas on which a version does not serve "
            "because its load failed. What to do: a failed reload leaves the old version in service; the log says why.",
            [
                Query(f"sum by (outcome) (increase(batchserve_model_loads_total{{{MODEL}}}[10m]))", "{{outcome}}"),
                Query(f"sum(batchserve_model_load_failed{{{MODEL}}})", "not served"),
            ],
            "short",
        ),
        lines(
            "Time to load",
            "How long the last load took until the version was ready, warm-up included. What to do: longer than the "
            "orchestrator waits for readiness: lower `warmup_budget`, or let it wait.",
            [Query(f"max by (version) (batchserve_model_load_duration_seconds{{{MODEL}}})", "version {{version}}")],
            "s",
        ),
        lines(
            "Rows answered by version",
            "Rows per second of each version and execution provider. What to do: an old version that still gets "
            "requests: clients name it; a provider you did not expect: see the log of the load.",
            [
                Query(
                    f"sum by (version, provider) ({rate('batchserve_rows_total')} * on (instance, model, version) "
                    f"group_left (provider) batchserve_model_provider_info{{{MODEL}}})",
                    "version {{version}} on {{provider}}",
                )
            ],
            "rowsps",
            width=24,
        ),
    ]
