"""Runs at load: they take first-run costs off the users' requests and measure what batches cost (batching.md 5.2)."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchserve.core.cost import CostModel, size_class
from batchserve.errors import BackendError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchserve.backends.base import Session
    from batchserve.core.tensors import Array
    from batchserve.engine.profiles import Measured, Profile

__all__ = ["STALE", "WarmUp", "measure_run", "median_run", "one_row_failed", "warm_up", "warm_up_sizes"]

STALE = 0.3
"""A profile is thrown away if a run takes this much more or less than it says."""

CHECKS = ((5, 0.02), (3, 0.2), (1, float("inf")))
"""A size is checked by the median of five runs while they take 20 ms together, of three within 200 ms, else by one:
a run of a few microseconds may well take twice as long as the next one, and one of a second will not."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What is known of a model's costs once it is ready.

    Attributes:
        measured: Rows and the seconds that a run of so many took when nothing else ran, ascending.
        safe_rows: Largest size that may be used: what was asked for, or less if a run of some size failed.
        profile: What an earlier process learnt, if that still holds.
    """

    measured: Measured
    safe_rows: int
    profile: Profile | None = None

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Where the learnt curve begins: at the profile's, and at what was measured where that says nothing."""
        if self.profile is None:
            return self.measured
        known = {size_class(round(rows)) for rows, _ in self.profile.points}
        new = [point for point in self.measured if size_class(point[0]) not in known]
        return tuple(sorted((*self.profile.points, *new)))


def warm_up_sizes(max_rows: int) -> list[int]:
    """List the sizes to run: 1, 2, 3, 4, 6, 8, 12, 16, … and `max_rows` itself."""
    sizes, power = {1, max_rows}, 2
    while power <= max_rows:
        sizes.update(size for size in (power, power + power // 2) if size <= max_rows)
        power *= 2
    return sorted(sizes)


def warm_up(name: str, session: Session, max_rows: int, budget_s: float, profile: Profile | None = None) -> WarmUp:
    """Run every size twice, smallest first, until the budget is used up. Blocks: on a helper thread.

    The first run of each size is not measured: it pays for allocation and kernel choice. A size that the profile knows
    is run that one time only, once two sizes were found to take what the profile says.

    Args:
        name: The model's name, for the log.
        session: Loaded; nothing else runs on it.
        max_rows: Largest size to run; 1 for a model without a batch axis.
        budget_s: Seconds for all of it. 0 runs nothing; otherwise one row is always run.
        profile: What an earlier process learnt of it.

    Raises:
        ModelLoadError: A run of one row failed.
    """
    if budget_s <= 0:
        return WarmUp(() if profile is None else _within(profile.measured, max_rows), max_rows, profile)
    end_s = time.monotonic() + budget_s
    if profile is not None and not _holds(name, session, _within(profile.measured, max_rows), budget_s):
        profile = None
    known = dict(() if profile is None else _within(profile.measured, max_rows))
    done: list[int] = []
    for size in warm_up_sizes(max_rows):
        if done and time.monotonic() + 2 * CostModel(known.items(), budget_s).mean(size) > end_s:
            logger.info("model %s: warm-up ends at %d rows, within its budget of %g s", name, done[-1], budget_s)
            break
        try:
            if size in known:
                _run(session, size)
            else:
                known[size] = measure_run(session, size)
        except BackendError as error:
            if not done:
                raise one_row_failed(error) from error
            logger.warning(
                "model %s: a run of %d rows failed, max_batch_size is lowered to %d: %s",
                *(name, size, done[-1], error),
            )
            return WarmUp(_within(known.items(), done[-1]), done[-1], profile)
        done.append(size)
    return WarmUp(_within(known.items(), max_rows), max_rows, profile)


def _holds(name: str, session: Session, measured: Measured, budget_s: float) -> bool:
    """Say whether a small and a large size still take what they took when they were measured."""
    checked = [(rows, seconds) for rows, seconds in measured if seconds * 4 <= budget_s]
    for rows, seconds in dict.fromkeys((checked[0], checked[-1])) if checked else ():
        try:
            _run(session, rows)
            found_s = median_run(session, rows)
        except BackendError:
            return False  # the runs that follow say what it means
        if abs(found_s / seconds - 1) > STALE:
            logger.info(
                "model %s: its profile is thrown away and it is measured anew: a run of %d rows takes %.3g ms, where "
                "%.3g ms were expected",
                *(name, rows, found_s * 1e3, seconds * 1e3),
            )
            return False
    return bool(checked)


def one_row_failed(error: BackendError) -> ModelLoadError:
    """Say that not even one row can be run."""
    return ModelLoadError(
        f"a warm-up run of one random row failed ({error}): if the model only takes special values, "
        "set warmup_budget = 0"
    )


def _within(points: Iterable[tuple[int, float]], max_rows: int) -> Measured:
    return tuple(sorted(point for point in points if point[0] <= max_rows))


def _run(session: Session, rows: int) -> None:
    session.run(session.sample(rows), (1 << len(session.outputs)) - 1)


def measure_run(session: Session, rows: int, length: int = 0) -> float:
    """Time the second of two runs of so many rows, of padded axes so long (0: as the session likes), in seconds.

    Raises:
        BackendError: A run failed.
    """
    inputs = session.sample(rows, length)
    mask = (1 << len(session.outputs)) - 1
    session.run(inputs, mask)
    return _timed(session, inputs, mask)


def median_run(session: Session, rows: int) -> float:
    """Time runs of so many rows, as many as `CHECKS` says, and return their median, in seconds.

    Raises:
        BackendError: A run failed.
    """
    inputs = session.sample(rows)
    mask = (1 << len(session.outputs)) - 1
    times: list[float] = []
    while any(len(times) < most and sum(times) < most_s for most, most_s in CHECKS):
        times.append(_timed(session, inputs, mask))
    return statistics.median(times)


def _timed(session: Session, inputs: list[Array], mask: int) -> float:
    start_s = time.monotonic()
    session.run(inputs, mask)
    return time.monotonic() - start_s
