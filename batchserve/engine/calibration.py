"""Finds out at load how many runs of a model should share the processor: streams of few threads, or one of all.

Every way is measured under the two loads that matter: as many runs at once as it has instances, for rows per second,
and one run alone, for the time that a lone request takes. docs/performance.md has what that gave, and why the limits
below are what they are.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchserve.backends.base import Layout
from batchserve.config.units import format_rate
from batchserve.engine.affinity import pinned, share_of
from batchserve.engine.saturation import saturate
from batchserve.errors import BackendError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.core.tensors import Array

__all__ = ["LENGTH", "Calibrated", "Measured", "accepts", "calibrate", "choose"]

MIN_GAIN = 1.05
"""`auto` leaves one run on all cores only for so many times its rows per second. Streams gain 1.2 to 1.4 times in the
engine where 1.05 to 1.15 are measured here, and two measurements of one layout differ by 5 % on a quiet machine."""

MAX_SLOWDOWN = 2.2
"""`auto` takes no layout in which a lone request needs more times the shortest time: double, and room for noise."""

SAME_LATENCY = 1.05
"""Lone times this close are the same: `latency` then goes by rows per second."""

LENGTH = 64
"""Free axes are measured at this size where the model accepts it: users send more than what a proof needs."""

ROUNDS = 5
LONE_RUNS = 5
RUNS_PER_STREAM = 4
SHORTEST_WINDOW_S = 0.015
PROBE_S = 0.002
"""Runs that are quicker are repeated for so long while the useful batch is looked for."""
LONGEST_RUN_S = 0.1
USEFUL = 0.92
"""A saturated scheduler runs the largest batch whose rows per second are at least this share of the best
(batching.md section 5.4)."""

BUDGET_SHARE = 0.5
"""The rest of the warm-up budget is for the cost curve."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one layout did.

    Attributes:
        layout: Instances and threads.
        rows_per_s: With all instances busy: at the batches that a saturated model runs, or at single rows where rows
            differ in length and seldom find a companion.
        lone_s: One row on an otherwise idle model.
    """

    layout: Layout
    rows_per_s: float
    lone_s: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """How a model will run.

    Attributes:
        session: Opened with the layout's threads; the one that was given, or another in its place.
        layout: The choice.
        measured: What it is founded on, one entry a layout; empty if there was no choice or no time.
    """

    session: Session
    layout: Layout
    measured: tuple[Measured, ...] = ()


def choose(hint: str, measured: Sequence[Measured]) -> Measured:
    """Pick the layout that suits a hint.

    Args:
        hint: `latency`, `throughput` or `auto`.
        measured: At least one; the first is one run on all cores.
    """
    shortest_s = min(one.lone_s for one in measured)
    if hint == "latency":
        return max((one for one in measured if one.lone_s <= shortest_s * SAME_LATENCY), key=lambda one: one.rows_per_s)
    if hint == "throughput":
        return max(measured, key=lambda one: one.rows_per_s)
    plain = measured[0]
    quick = [one for one in measured if one.lone_s <= shortest_s * MAX_SLOWDOWN]
    best = max(quick, key=lambda one: one.rows_per_s)
    return best if plain not in quick or best.rows_per_s >= plain.rows_per_s * MIN_GAIN else plain


def calibrate(
    name: str, session: Session, hint: str, max_rows: int, budget_s: float, cores: Sequence[int] = ()
) -> Calibrated:
    """Measure a session's layouts against each other and open the model as the best one wants it. Blocks.

    Args:
        name: The model's name, for the log.
        session: Loaded; nothing else runs on it. It is closed if another one takes its place.
        hint: The model's `hint`.
        max_rows: Largest size of a run.
        budget_s: The warm-up budget, a part of which may be used. With 0 the first layout stays.
        cores: Where its instances will be kept; anywhere if there are none.
    """
    plain = session.layouts[0]
    if len(session.layouts) == 1 or budget_s <= 0:
        return Calibrated(session, plain)
    end_s = time.monotonic() + budget_s * BUDGET_SHARE
    sessions = {_kind(plain): session}
    chosen = plain
    measured: tuple[Measured, ...] = ()
    try:
        measured = _measure(name, session, sessions, max_rows, end_s, cores)
        if measured:
            chosen = choose(hint, measured).layout
            logger.info("model %s: instances x threads = %s for hint %s: %s", name, chosen, hint, _figures(measured))
        else:
            logger.info("model %s: no time to compare layouts within its warm-up budget, %s stays", name, plain)
    except (BackendError, ModelLoadError) as error:
        logger.warning("model %s: layouts could not be compared, %s stays: %s", name, plain, error)
    finally:
        for kind, opened in sessions.items():
            if kind != _kind(chosen) and opened is not session:
                opened.close()
    if (kept := sessions[_kind(chosen)]) is not session:
        session.close()
    return Calibrated(kept, chosen, measured)


def _kind(layout: Layout) -> tuple[int, bool]:
    """Return what layouts must have in common to share a session."""
    return layout.threads, layout.is_staged


def _measure(
    name: str,
    session: Session,
    sessions: dict[tuple[int, bool], Session],
    max_rows: int,
    end_s: float,
    cores: Sequence[int],
) -> tuple[Measured, ...]:
    """Open what is missing in `sessions` and measure every layout; nothing if the time would not do.

    Where staging does not work, the other layouts are measured.

    Raises:
        BackendError: A run failed.
        ModelLoadError: A session could not be opened.
    """
    mask = (1 << len(session.outputs)) - 1
    loads = _Loads(session, mask, max_rows, end_s, cores)
    for layout in session.layouts:
        start_s = time.monotonic()
        if _open(name, session, layout, sessions):
            for inputs in loads.inputs.values():
                sessions[_kind(layout)].run(inputs, mask)  # the first run of a size allocates
            if time.monotonic() + (time.monotonic() - start_s) > end_s:
                return ()
    layouts = [layout for layout in session.layouts if _kind(layout) in sessions]
    if time.monotonic() + len(layouts) * loads.round_s > end_s:
        return ()
    seen: dict[Layout, list[tuple[float, float]]] = {layout: [] for layout in layouts}
    for turn in range(ROUNDS):
        for layout in layouts if turn % 2 == 0 else reversed(layouts):
            seen[layout].append(loads.measure(sessions[_kind(layout)], layout))
        if time.monotonic() + len(layouts) * loads.round_s > end_s:
            break
    return tuple(
        Measured(layout, statistics.median(rate for rate, _ in pairs), statistics.median(lone for _, lone in pairs))
        for layout, pairs in seen.items()
    )


def _open(name: str, session: Session, layout: Layout, sessions: dict[tuple[int, bool], Session]) -> bool:
    """Open what a layout needs, if that is new; False if there is nothing new.

    Raises:
        ModelLoadError: A session could not be opened. One that cannot be staged is left out.
    """
    if _kind(layout) in sessions:
        return False
    try:
        sessions[_kind(layout)] = session.reopen(layout)
    except ModelLoadError as error:
        if not layout.is_staged:
            raise
        logger.info("model %s: %s is left out, runs are not staged: %s", name, layout, error)
        return False
    return True


class _Loads:
    """What a model is measured with. One thread at a time.

    Attributes:
        inputs: By rows: one row, and the batches that a saturated model runs if they are larger. Ready to run.
        round_s: Estimate of what measuring one layout takes.
    """

    def __init__(self, session: Session, mask: int, max_rows: int, end_s: float, cores: Sequence[int]) -> None:
        self._mask = mask
        self._cores = cores
        has_lengths = session.batchability.is_batchable and any(-1 in spec.shape[1:] for spec in session.inputs)
        self._length = LENGTH if has_lengths and accepts(session, mask, LENGTH) else 0
        self.inputs: dict[int, list[Array]] = {}
        self._seconds: dict[int, float] = {}
        with pinned(cores):
            self._add_useful(session, 1 if has_lengths else max_rows, end_s)
        self._saturated = 1 if has_lengths else max(self.inputs)
        seconds = self._seconds[self._saturated]
        self._window_s = max(SHORTEST_WINDOW_S, RUNS_PER_STREAM * seconds)
        self.round_s = 1.5 * (self._window_s + seconds + LONE_RUNS * self._seconds[1])

    def measure(self, session: Session, layout: Layout) -> tuple[float, float]:
        """Return rows per second with all instances busy, and the seconds of a lone row.

        Raises:
            BackendError: A run failed.
        """
        with pinned(share_of(self._cores, 0, layout.instances)):
            lone_s = statistics.median(self._time(session, self.inputs[1]) for _ in range(LONE_RUNS))
        rows = self._saturated
        runs_per_s = saturate(
            session, self.inputs[rows], self._mask, rows, layout.instances, self._window_s, cores=self._cores
        )
        return rows * runs_per_s, lone_s

    def _add_useful(self, session: Session, max_rows: int, end_s: float) -> None:
        """Keep one row, and double it for as long as the scheduler would and a run is short."""
        rows, best = 1, 0.0
        while rows <= max(1, max_rows):
            inputs = session.sample(rows, self._length)
            seconds = self._probe(session, inputs)
            if rows / seconds < best * USEFUL:
                return
            best = max(best, rows / seconds)
            for size in [size for size in self.inputs if size > 1]:
                del self.inputs[size], self._seconds[size]
            self.inputs[rows], self._seconds[rows] = inputs, seconds
            if 2 * seconds > LONGEST_RUN_S or time.monotonic() + 6 * seconds > end_s:
                return
            rows *= 2

    def _probe(self, session: Session, inputs: Sequence[Array]) -> float:
        """Return the shortest of two runs, or of more if they are quick, after one that allocates."""
        self._time(session, inputs)
        end_s = time.perf_counter() + PROBE_S
        shortest_s = min(self._time(session, inputs), self._time(session, inputs))
        while time.perf_counter() < end_s:
            shortest_s = min(shortest_s, self._time(session, inputs))
        return shortest_s

    def _time(self, session: Session, inputs: Sequence[Array]) -> float:
        start_s = time.perf_counter()
        session.run(inputs, self._mask)
        return time.perf_counter() - start_s


def accepts(session: Session, mask: int, length: int) -> bool:
    """Say whether a model runs with its free axes, but for the batch, of this size. Blocks."""
    with contextlib.suppress(BackendError):
        session.run(session.sample(1, length), mask)
        return True
    return False


def _figures(measured: Sequence[Measured]) -> str:
    return ", ".join(
        f"{one.layout} {format_rate(one.rows_per_s)} rows/s and {one.lone_s * 1e3:.3g} ms alone" for one in measured
    )
