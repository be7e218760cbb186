"""PromQL that several panels share. Every query is bound to the dashboards' variables."""

from __future__ import annotations

from batchserve.telemetry.histogram import DURATION_BOUNDS, bound_name

__all__ = [
    "MODEL",
    "REPLICA",
    "per_request",
    "quantile",
    "rate",
    "ratio",
    "spread",
    "unanswered",
    "usual_bounds",
    "within_target",
]

MODEL = 'model=~"$model", version=~"$version", instance=~"$replica"'
REPLICA = 'instance=~"$replica"'


def rate(name: str, labels: str = "", *, of: str = MODEL) -> str:
    """Write the rate per second of a counter."""
    return f"rate({name}{{{of}{', ' + labels if labels else ''}}}[$__rate_interval])"


def ratio(upper: str, lower: str, by: str = "model") -> str:
    """Write the ratio of two rates, each added up by the same labels; no value while there is nothing below."""
    group = f" by ({by})" if by else ""
    return f"sum{group} ({upper}) / (sum{group} ({lower}) > 0)"


def quantile(share: float, name: str, by: str = "model") -> str:
    """Write a quantile of a histogram of durations, over all replicas."""
    return f"histogram_quantile({share:g}, sum by ({by}, le) ({rate(name + '_bucket')}))"


def usual_bounds() -> str:
    """Write the labels of the buckets that all models have.

    Sums over models leave out what `latency_target` adds to some: a bucket that not all of them have makes a sum that
    is below the one before.
    """
    return 'le=~"' + "|".join([*(bound_name(bound).replace(".", "[.]") for bound in DURATION_BOUNDS), "[+]Inf"]) + '"'


def within_target(by: str = "model") -> str:
    """Write the share of completed requests within their model's `latency_target`; no value for models without one."""
    target = f"batchserve_model_latency_target_seconds{{{MODEL}}}"
    bucket = rate("batchserve_request_duration_seconds_bucket")
    count = rate("batchserve_request_duration_seconds_count")
    return ratio(
        f'{bucket} and on (instance, model, version, le) label_replace({target}, "le", "$1", "threshold", "(.+)")',
        f"{count} and on (instance, model, version) {target}",
        by,
    )


def unanswered(by: str = "model") -> str:
    """Write the share of well-formed requests, whose client stayed, that got no answer."""
    return ratio(
        rate("batchserve_requests_total", 'outcome=~"failed|expired|refused"'),
        rate("batchserve_requests_total", 'outcome!~"invalid|cancelled"'),
        by,
    )


def per_request(seconds: str, by: str) -> str:
    """Write the mean seconds per completed request."""
    completed = rate("batchserve_request_duration_seconds_count")
    return f"sum by ({by}) ({seconds}) / scalar(sum({completed}) > 0)"


def spread(expr: str) -> list[tuple[str, str]]:
    """Write the largest, the middle and the smallest of the replicas' values: three lines, however many there are."""
    return [(f"max({expr})", "most"), (f"quantile(0.5, {expr})", "middle"), (f"min({expr})", "least")]
