"""What is written of LoadGen's runs, and what no server can pass where batching gains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["TARGET_RUNS", "rate_of", "ratio_table", "unbatched_share", "verdict_table"]

TARGET_RUNS = 5
"""The target of the server scenario, in runs of the best batch."""
WANTED = {"encoder": 0.8, "resnet50": 0.9}
"""Server rate over that of the bare runtime, by model."""

_ARRIVALS = 200_000
_STEP = 0.01


def unbatched_share(row_s: float, target_s: float) -> float:
    """Say how much of its limit a server can be offered if it takes single rows in turn and turns nobody away.

    The largest share, in steps of 0.01, of 1 / `row_s` at which 99 % of Poisson arrivals are answered within the target
    when every row takes `row_s`: what the server scenario can give where batches are no quicker than their rows.
    """
    gaps = np.random.default_rng(0).exponential(row_s, _ARRIVALS)
    work_s = row_s * np.arange(1, _ARRIVALS + 1)
    share = 1.0
    while share > _STEP:
        arrivals_s = np.cumsum(gaps / share)
        ends_s = work_s + np.maximum.accumulate(arrivals_s - work_s + row_s)  # Lindley's recursion, summed up
        if np.quantile(ends_s - arrivals_s, 0.99) <= target_s:
            return share
        share = round(share - _STEP, 2)
    return 0.0


def rate_of(figures: Mapping[str, float]) -> float:
    """Return the rate that a run stands for."""
    names = (
        "Samples per second",
        "Completed samples per second",
        "Scheduled samples per second",
        "QPS w/o loadgen overhead",
    )
    return next((figures[name] for name in names if name in figures), 0.0)


def verdict_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Write one line for each run, the INVALID ones too: LoadGen's verdict, what it was asked to hold, its figures."""
    lines = ["| model | scenario | verdict | rate/s | p50 ms | p99 ms | target ms | over the raw limit |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|")
    for result in results:
        for verdict in result["verdicts"]:
            figures, settings = verdict["figures"], verdict["settings"]
            reasons = [*verdict["missed"], *(f"{count} x {kind}" for kind, count in verdict["failed"].items())]
            said = "VALID" if verdict["is_valid"] else f"INVALID: {', '.join(reasons)}"
            points = [_percentile_ms(figures, percentile) for percentile in ("50", "99")]
            target_ns = settings.get("target_latency (ns)", "") if verdict["scenario"] == "Server" else ""
            target = f"{float(target_ns) / 1e6:.1f}" if target_ns else ""
            rate = rate_of(figures)
            over = f"{rate / result['limit']['rows_per_s']:.3f}"
            cells = [result["model"], verdict["scenario"], said, f"{rate:,.1f}", *points, target, over]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Write, for each model, the largest rate of a VALID Server run over that of the bare runtime in Offline."""
    lines = [
        "| model | Offline, raw /s | Server, VALID /s | Server over raw | wanted | | single rows in turn, at most |",
        "|---|---:|---:|---:|---:|---|---:|",
    ]
    for result in results:
        by_scenario: dict[str, list[float]] = {}
        for verdict in result["verdicts"]:
            if verdict["is_valid"]:
                by_scenario.setdefault(verdict["scenario"], []).append(rate_of(verdict["figures"]))
        raw, served = (max(by_scenario.get(name, [0.0])) for name in ("offline-raw", "Server"))
        wanted = WANTED.get(result["model"])
        bound = "" if wanted is None else f"≥ {wanted:g}"
        most = f"{unbatched_share(1 / raw, TARGET_RUNS * result['limit']['run_s']):.2f}" if raw else ""
        if not raw or not served:
            missing = "no VALID run of " + ("the bare runtime" if not raw else "the Server scenario")
            lines.append(f"| {result['model']} | {raw:,.1f} | {served:,.1f} | | {bound} | {missing} | {most} |")
            continue
        said = "" if wanted is None else "met" if served / raw >= wanted else "NOT met"
        lines.append(
            f"| {result['model']} | {raw:,.1f} | {served:,.1f} | {served / raw:.3f} | {bound} | {said} | {most} |"
        )
    return "\n".join(lines)


def _percentile_ms(figures: Mapping[str, float], percentile: str) -> str:
    key = next((one for one in figures if one.startswith(f"{percentile}.00 percentile latency")), "")
    return f"{figures[key] / 1e6:.2f}" if key else ""
