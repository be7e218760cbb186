"""The model's row about what the scheduler has learnt of it and decides."""

from __future__ import annotations

from grafana.frame import Row
from grafana.panels import Query, heat, lines
from grafana.queries import MODEL, quantile, rate, ratio, spread

__all__ = ["scheduler"]


def scheduler() -> Row:
    """Say what is known of the model's costs and load, and what follows from it."""
    useful = f"batchserve_useful_batch_rows{{{MODEL}}}"
    full_s = f"batchserve_expected_batch_seconds{{{MODEL}}}"
    instances = f"batchserve_instances{{{MODEL}}}"
    share = f"batchserve_device_share_ratio{{{MODEL}}}"
    return "Scheduler", [
        lines(
            "Arrivals and capacity",
            "Rows that arrive in a second, refused ones too, and what full batches on all instances could carry. What "
            "to do: arrivals above capacity for long: add a replica; far below it with a long queue: look at whether "
            "something hangs.",
            [
                Query(f"sum(batchserve_arrival_rate{{{MODEL}}})", "arrivals"),
                Query(f"sum({useful} / ({full_s} > 0) * {instances} * {share})", "capacity", is_dashed=True),
            ],
            "rowsps",
        ),
        lines(
            "Sizes it aims at",
            "Rows per batch: in use, needed to carry the load, and aimed at; middle of the replicas. What to do: `in "
            "use` far below `max_batch_size`: larger batches do not pay, or had no memory; `carries the load` at `in "
            "use`: the model is at its capacity.",
            [
                Query(f"quantile(0.5, {useful})", "in use"),
                Query(f"quantile(0.5, batchserve_sustaining_batch_rows{{{MODEL}}})", "carries the load"),
                Query(f"quantile(0.5, batchserve_needed_batch_rows{{{MODEL}}})", "aimed at", is_dashed=True),
            ],
            "short",
        ),
        lines(
            "Overload and share",
            "Replicas that are overloaded, and the smallest share of its device that the model can count on. What to "
            "do: overloaded for long: add a replica; a small share: raise `weight`, or give it a device of its own.",
            [
                Query(f"sum(batchserve_overloaded{{{MODEL}}})", "overloaded replicas"),
                Query(f"min({share})", "share of the device", unit="percentunit"),
            ],
            "short",
        ),
        lines(
            "Expected times",
            "What a batch of one row and one of the size in use are expected to take, hand-over included; middle of "
            "the replicas. What to do: near the target, little room for batching is left; if they rise by themselves, "
            "the device is shared or throttled.",
            [
                Query(f"quantile(0.5, batchserve_expected_row_seconds{{{MODEL}}})", "one row"),
                Query(f"quantile(0.5, {full_s})", "size in use"),
                Query(
                    f"quantile(0.5, batchserve_expected_upper_ratio{{{MODEL}}})", "upper value by mean", unit="short"
                ),
            ],
            "s",
        ),
        lines(
            "Cost by size of run",
            "Mean time inside the runtime of runs with so many rows, or a little more. What to do: if runs of twice "
            "the rows take twice the time, batching gains nothing: more instances may; if time jumps beyond a size, "
            "lower `max_batch_size` to it.",
            [
                Query(
                    ratio(
                        rate("batchserve_execution_size_duration_seconds_sum"),
                        rate("batchserve_execution_size_duration_seconds_count"),
                        "rows",
                    ),
                    "{{rows}} rows",
                )
            ],
            "s",
        ),
        heat(
            "Run time to prediction",
            "How many runs per second took how much of what was expected; 1 is as expected. What to do: two bands, or "
            "most far from 1: the machine is shared with something that comes and goes.",
            Query(f"sum by (le) ({rate('batchserve_prediction_ratio_bucket')})", "{{le}}"),
            "short",
        ),
        lines(
            "Target and what is attainable",
            "`latency_target`, the smallest target that could be held under the present load on the worst replica, "
            "and replicas that cannot hold it. What to do: the smallest above the target for long: raise the target, "
            "add a replica, or make the model faster.",
            [
                Query(f"max(batchserve_latency_target_smallest_seconds{{{MODEL}}})", "smallest possible"),
                Query(f"min(batchserve_model_latency_target_seconds{{{MODEL}}})", "target", is_dashed=True),
                Query(
                    f"count(batchserve_latency_target_attainable{{{MODEL}}} == 0) or vector(0)",
                    "replicas that cannot",
                    unit="short",
                ),
            ],
            "s",
        ),
        lines(
            "Holds and padding",
            "How long batches were held on purpose, of those that were (99th percentile), and the part of the elements "
            "that is padding. What to do: long holds with `max_queue_delay` set: lower it; much padding under load: "
            "lengths differ a lot.",
            [
                Query(quantile(0.99, "batchserve_hold_duration_seconds"), "hold p99"),
                Query(
                    ratio(rate("batchserve_padding_ratio_sum"), rate("batchserve_padding_ratio_count"), ""),
                    "padding",
                    unit="percentunit",
                ),
            ],
            "s",
        ),
        lines(
            "Idle while something waits",
            "Time since the last decision while something waits and a slot is free, on the worst and the middle "
            "replica. What to do: above the longest hold it is a bug: report it, and restart the replica.",
            [Query(expr, name) for expr, name in spread(f"batchserve_idle_while_queued_seconds{{{MODEL}}}")[:2]],
            "s",
        ),
    ]
