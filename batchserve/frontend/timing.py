"""Where an answer's time went, for its headers: `Server-Timing` (W3C) and `X-Batch-Rows`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.request import Phases, Response

__all__ = ["ASK_HEADER", "is_asked", "server_timing", "timing_headers"]

ASK_HEADER = "X-Server-Timing"
"""A request with this header, unless its value is 0 or off, is told where its time went."""

_NAMES = ("decode", "queue", "gather", "run", "scatter")


def is_asked(value: str | None) -> bool:
    """Say whether the value of `ASK_HEADER` asks for it; None stands for no such header."""
    return value is not None and value.strip().lower() not in ("0", "off", "false")


def server_timing(phases: Phases) -> str:
    """Write the phases as a `Server-Timing` value, in milliseconds to the microsecond.

    Moments are rounded, not durations, so the phases add up to the total exactly.
    """
    moments = (
        phases.arrival_s,
        phases.admitted_s,
        phases.start_s,
        phases.run_start_s,
        phases.run_end_s,
        phases.done_s,
    )
    first_us = round(phases.arrival_s * 1e6)
    at_us = [round(moment * 1e6) - first_us for moment in moments]
    parts = [
        f"{name};dur={(end - begin) / 1e3:.3f}" for name, begin, end in zip(_NAMES, at_us, at_us[1:], strict=False)
    ]
    return ", ".join([*parts, f"total;dur={at_us[-1] / 1e3:.3f}"])


def timing_headers(response: Response) -> dict[str, str]:
    """Return the headers that say where an answer's time went and how many rows ran with it."""
    return {"Server-Timing": server_timing(response.phases), "X-Batch-Rows": str(response.batch_rows)}
