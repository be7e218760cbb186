"""Runs at load: they take first-run costs off the users' requests and measure what batches cost (batching.md 5.2)."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchserve.core.cost import CostModel
from batchserve.errors import BackendError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.backends.base import Session

__all__ = ["WarmUp", "warm_up", "warm_up_sizes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What the runs at load found.

    Attributes:
        points: Rows and the seconds of the second run of so many, ascending.
        safe_rows: Largest size that may be used: what was asked for, or less if a run of some size failed.
    """

    points: tuple[tuple[int, float], ...]
    safe_rows: int


def warm_up_sizes(max_rows: int) -> list[int]:
    """List the sizes to run: 1, 2, 3, 4, 6, 8, 12, 16, … and `max_rows` itself."""
    sizes, power = {1, max_rows}, 2
    while power <= max_rows:
        sizes.update(size for size in (power, power + power // 2) if size <= max_rows)
        power *= 2
    return sorted(sizes)


def warm_up(name: str, session: Session, max_rows: int, budget_s: float) -> WarmUp:
    """Run every size twice, smallest first, until the budget is used up. Blocks: on a helper thread.

    The first run of each size is not measured: it pays for allocation and kernel choice.

    Args:
        name: The model's name, for the log.
        session: Loaded; nothing else runs on it.
        max_rows: Largest size to run; 1 for a model without a batch axis.
        budget_s: Seconds for all of it. 0 runs nothing; otherwise one row is always run.

    Raises:
        ModelLoadError: A run of one row failed.
    """
    if budget_s <= 0:
        return WarmUp((), max_rows)
    end_s = time.monotonic() + budget_s
    points: list[tuple[int, float]] = []
    for size in warm_up_sizes(max_rows):
        if points and time.monotonic() + 2 * CostModel(points, budget_s).mean(size) > end_s:
            logger.info("model %s: warm-up ends at %d rows, within its budget of %g s", name, points[-1][0], budget_s)
            break
        try:
            points.append((size, _measure(session, size)))
        except BackendError as error:
            if size == 1:
                raise ModelLoadError(
                    f"a warm-up run of one random row failed ({error}): if the model only takes special values, "
                    "set warmup_budget = 0"
                ) from error
            safe = points[-1][0]
            logger.warning(
                "model %s: a run of %d rows failed, max_batch_size is lowered to %d: %s", name, size, safe, error
            )
            return WarmUp(tuple(points), safe)
    return WarmUp(tuple(points), max_rows)


def _measure(session: Session, rows: int) -> float:
    inputs = session.sample(rows)
    mask = (1 << len(session.outputs)) - 1
    session.run(inputs, mask)
    start_s = time.monotonic()
    session.run(inputs, mask)
    return time.monotonic() - start_s
