"""Finds out at load how quick the devices of one model are beside each other, and warms them up on the way."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchserve.engine.warmup import measure_run, median_run
from batchserve.errors import BackendError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.backends.base import PerDevice, Session

__all__ = ["PROBE_ROWS", "compare", "quickest_first"]

PROBE_ROWS = 8
"""By runs of so many rows it is seen which device is quickest: larger ones may not fit into all of them."""

CLEARLY = 0.8
"""A device comes before the first one named if it takes less than so many times as long."""

logger = logging.getLogger(__name__)


def quickest_first(session: PerDevice, max_rows: int) -> list[int]:
    """Say in which order the devices should stand: with the quickest first, by which layouts and costs go. Blocks.

    Raises:
        ModelLoadError: A run failed.
    """
    rows = max(1, min(PROBE_ROWS, max_rows))
    seconds = [_take_s(device, one, rows) for device, one in zip(session.devices, session.sessions, strict=True)]
    shortest_s = min(seconds)
    if shortest_s >= CLEARLY * seconds[0]:
        return list(range(len(seconds)))
    best = seconds.index(shortest_s)
    return [best, *(at for at in range(len(seconds)) if at != best)]


def compare(name: str, session: PerDevice, rows: int) -> tuple[float, ...]:
    """Say what a run takes on each device, as a multiple of what it takes on the first. Blocks.

    Args:
        name: The model's name, for the log.
        session: Nothing else runs on it.
        rows: Of a run.

    Raises:
        ModelLoadError: A run failed.
    """
    seconds = []
    for device, one in zip(session.devices, session.sessions, strict=True):
        if rows > 1:
            _take_s(device, one, 1)  # its first run is no user's
        seconds.append(_take_s(device, one, rows))
    factors = tuple(taken_s / seconds[0] for taken_s in seconds)
    figures = ", ".join(f"{device} {factor:.3g}" for device, factor in zip(session.devices, factors, strict=True))
    logger.info("model %s: a run of %d rows takes %.3g ms, times %s", name, rows, seconds[0] * 1e3, figures)
    return factors


def _take_s(device: str, session: Session, rows: int) -> float:
    try:
        measure_run(session, rows)
        return max(median_run(session, rows), 1e-9)
    except BackendError as error:
        raise ModelLoadError(
            f"a run of {rows} random rows failed on device {device} ({error}): set max_batch_size lower, take it off "
            "device, or set warmup_budget = 0 if the model only takes special values"
        ) from error
