"""Runs at load of a model that pads: its costs go by tokens, rows times length (batching.md sections 5.2 and 9)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchserve.core.cost import CostModel
from batchserve.engine.warmup import STALE, WarmUp, measure_run, one_row_failed, warm_up_sizes
from batchserve.errors import BackendError

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.engine.profiles import Profile

__all__ = ["warm_up_lengths"]

LENGTHS = (8, 16, 32, 64)
"""One row is run at each of these; more rows at the longest that the model takes."""

logger = logging.getLogger(__name__)


def warm_up_lengths(
    name: str, session: Session, max_rows: int, budget_s: float, profile: Profile | None = None
) -> WarmUp:
    """Do as `warm_up` for a model that pads: one row of growing length, then a growing number of rows.

    What other shapes of as many tokens take is learnt in service.

    Args:
        name: The model's name, for the log.
        session: Loaded, with a `pad`; nothing else runs on it.
        max_rows: Largest size to run.
        budget_s: Seconds for all of it. 0 runs nothing; otherwise one row is always run.
        profile: What an earlier process learnt, by tokens; kept if the runs take what it says.

    Returns:
        Points by tokens.

    Raises:
        ModelLoadError: A run of one short row failed.
    """
    if budget_s <= 0:
        return WarmUp(() if profile is None else profile.measured, max_rows, profile)
    end_s = time.monotonic() + budget_s
    known: dict[int, float] = {}
    longest, safe_rows, last_rows = LENGTHS[0], max_rows, 1
    for rows, length in _shapes(session, max_rows):
        if length > longest and rows > 1:
            length = longest  # the model takes none that is longer
        tokens = rows * length
        if known and time.monotonic() + 2 * CostModel(known.items(), budget_s).mean(tokens) > end_s:
            logger.info("model %s: warm-up ends at %d tokens, within its budget of %g s", name, max(known), budget_s)
            break
        try:
            known[tokens] = measure_run(session, rows, length)
        except BackendError as error:
            if not known:
                raise one_row_failed(error) from error
            if rows == 1:
                continue
            logger.warning(
                "model %s: a run of %d rows failed, max_batch_size is lowered to %d: %s", name, rows, last_rows, error
            )
            safe_rows = last_rows
            break
        longest, last_rows = max(longest, length), rows
    measured = tuple(sorted(known.items()))
    return WarmUp(measured, safe_rows, profile if profile is not None and _holds(name, profile, measured) else None)


def _shapes(session: Session, max_rows: int) -> Iterator[tuple[int, int]]:
    """Give rows and lengths to run, in order of their tokens."""
    limit = None if session.pad is None else session.pad.max_tokens
    for length in LENGTHS:
        yield 1, length
    for rows in warm_up_sizes(max_rows)[1:]:
        if limit is None or rows * LENGTHS[-1] <= limit:
            yield rows, LENGTHS[-1]


def _holds(name: str, profile: Profile, measured: tuple[tuple[int, float], ...]) -> bool:
    """Say whether the smallest and the largest run took what they took when the profile was made."""
    before = dict(profile.measured)
    for tokens, seconds in (measured[0], measured[-1]):
        expected_s = before.get(tokens)
        if expected_s is None or abs(seconds / expected_s - 1) > STALE:
            logger.info(
                "model %s: its profile is thrown away: a run of %d tokens takes %.3g ms, where %s were expected",
                *(name, tokens, seconds * 1e3, "others" if expected_s is None else f"{expected_s * 1e3:.3g} ms"),
            )
            return False
    return True
