"""The overview's panels about what the scheduler has learnt and decides."""

from __future__ import annotations

from grafana.panels import Panel, Query, lines
from grafana.queries import MODEL, quantile, rate, ratio

__all__ = ["holding", "shares", "struggling"]


def holding() -> list[Panel]:
    """Say how long batches are held, how much is padding, and how good the predictions are."""
    predicted = rate("batchserve_prediction_ratio_bucket")
    return [
        lines(
            "Held on purpose",
            "Share of batches that were held for more rows although an instance was free, and how long the longest "
            "hundredth of those was held; empty if none was. What to do: long holds with `max_queue_delay` set: it is "
            "longer than it need be; with `auto` a hold is worth more than it costs.",
            [
                Query(
                    ratio(rate("batchserve_hold_duration_seconds_count"), rate("batchserve_batches_total")),
                    "{{model}} share",
                ),
                Query(quantile(0.99, "batchserve_hold_duration_seconds"), "{{model}} p99", unit="s"),
            ],
            "percentunit",
        ),
        lines(
            "Padding",
            "Part of the elements of a run that is padding, on average over runs, and part of all tokens run; 0 or "
            "empty without `pad`. What to do: above one third under load, lengths differ a lot: raise "
            "`max_batch_tokens`, or serve long requests by another model.",
            [
                Query(ratio(rate("batchserve_padding_ratio_sum"), rate("batchserve_padding_ratio_count")), "{{model}}"),
                Query(
                    ratio(rate("batchserve_padding_tokens_total"), rate("batchserve_tokens_total")),
                    "{{model}} of tokens",
                    is_dashed=True,
                ),
            ],
            "percentunit",
            most=1,
        ),
        lines(
            "Run time to prediction",
            "Time of a run by what was expected of it: the middle and nine of ten. What to do: mostly above 1.5 or "
            "below 0.7: the machine is shared with something that comes and goes, and refusals are guesses; give the "
            "server cores of its own.",
            [
                Query(
                    f"histogram_quantile({share}, sum by (model, le) ({predicted}))", f"{{{{model}}}} p{share * 100:g}"
                )
                for share in (0.5, 0.9)
            ],
            "short",
        ),
    ]


def struggling() -> list[Panel]:
    """Say where more arrives than can be carried, and whether anything waits that need not."""
    return [
        lines(
            "Overloaded",
            "Replicas on which more of a model arrives than can be carried. What to do: if it stays, add a replica; if "
            "only some replicas are, look at the load balancer.",
            [Query(f"sum by (model) (batchserve_overloaded{{{MODEL}}})", "{{model}}")],
            "short",
        ),
        lines(
            "Idle while something waits",
            "Time since the last decision on a replica where something waits and a slot is free. It must stay near 0, "
            "but for holds on purpose. What to do: above the longest hold, it is a bug: report it, and restart the "
            "replica.",
            [Query(f"max by (model) (batchserve_idle_while_queued_seconds{{{MODEL}}})", "{{model}}")],
            "s",
        ),
        lines(
            "Time to refuse",
            "From the last byte read until a refusal at the queue was known, 99th percentile; empty if nothing is "
            "refused. What to do: above a millisecond, the event loop is late: look at its lag in the row Process.",
            [Query(quantile(0.99, "batchserve_refusal_duration_seconds"), "{{model}}")],
            "s",
        ),
    ]


def shares() -> Panel:
    """Say how models that share a device divide it."""
    return lines(
        "Share of the device",
        "Part of its device's time that a model can count on, on the replica where it is least; 1 if it need not "
        "share. What to do: below what the model needs: raise its `weight`, or give it a device of its own.",
        [Query(f"min by (model) (batchserve_device_share_ratio{{{MODEL}}})", "{{model}}")],
        "percentunit",
        most=1,
        width=4,
    )
