"""Measures what runs take: every way, every batch size worth it, round after round while there is time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchserve.engine.calibration import LENGTH, accepts
from batchserve.engine.devices import device_name
from batchserve.engine.saturation import ROW_S, saturate
from batchserve.errors import BackendError, ModelLoadError
from batchserve.tuning.curves import GAIN, Curves, Sample
from batchserve.tuning.settings import Way, layouts_on

if TYPE_CHECKING:
    from batchserve.backends.base import Backend, ModelFile, Session
    from batchserve.config import ModelConfig
    from batchserve.core.tensors import Array

__all__ = ["Opened", "estimate_s", "free_length", "is_worth_doubling", "measure", "opened", "row_bytes"]

ROUNDS = 5
LONE_S, LEAST_LONE, MOST_LONE = 0.04, 3, 100
WINDOW_S = 0.08
RUNS_PER_STREAM = 3
LOOPS = 10
LONG_S = 0.25
"""Runs up to this long are measured whatever the target is, to say what batching brings."""
MOST_ROWS = 256
USUAL_ROWS = 32
FALLING = 0.9
"""Larger batches are not measured once rows per second are below this share of the best."""
BYTE_S = 0.4e-9
"""What the event loop works for each byte of a request, besides the time for each row."""


@dataclass(frozen=True)
class Opened:
    """A model, open for every way that it may run.

    Attributes:
        sessions: By way; ways with equal threads share one.
        first: One of them, to ask about the model.
        skipped: Why providers were left out, by name.
    """

    sessions: Mapping[Way, Session]
    first: Session
    skipped: Mapping[str, str]

    @property
    def ways(self) -> list[Way]:
        """All ways."""
        return list(self.sessions)


@contextmanager
def opened(backend: Backend, file: ModelFile, config: ModelConfig, providers: Sequence[str]) -> Iterator[Opened]:
    """Open a model for every way on every provider, and close it again. Blocks.

    Args:
        backend: Opens it.
        file: The model.
        config: Its configuration; providers, instances and threads are replaced.
        providers: To be compared. One that cannot be started is left out, unless none is left.

    Raises:
        ModelLoadError: It cannot be opened on any.
    """
    sessions: dict[Way, Session] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        for provider in providers:
            asked = replace(
                config, providers=(provider,), instances=None, intra_op_threads=0, hint="auto", staging="off"
            )
            try:
                first = backend.load(file, asked)
            except ModelLoadError as error:
                if provider == providers[-1] and not sessions:
                    raise
                skipped[provider] = str(error)
                continue
            stack.callback(first.close)
            by_threads = {first.layouts[0].threads: first}
            cores = first.facts.get("cores", "")
            is_cpu = device_name(first, asked) == "cpu" and cores.isdecimal()
            for layout in layouts_on(int(cores)) if is_cpu else first.layouts:
                if layout.threads not in by_threads:
                    by_threads[layout.threads] = first.reopen(layout)
                    stack.callback(by_threads[layout.threads].close)
                sessions[Way(provider, layout)] = by_threads[layout.threads]
        yield Opened(sessions, next(iter(sessions.values())), skipped)


def free_length(session: Session) -> int:
    """Choose the size of free axes besides the batch: the one that loads measure with, 0 for the session's own."""
    has_lengths = session.batchability.is_batchable and any(-1 in spec.shape[1:] for spec in session.inputs)
    return LENGTH if has_lengths and accepts(session, (1 << len(session.outputs)) - 1, LENGTH) else 0


def row_bytes(session: Session, length: int) -> int:
    """Return the bytes of one row's inputs."""
    return sum(array.nbytes for array in session.sample(1, length))


def is_worth_doubling(points: Sequence[tuple[int, float]], target_s: float) -> bool:
    """Say whether twice as many rows should be measured, too.

    Args:
        points: Rows and the seconds of a run with all instances busy, ascending, at least one.
        target_s: The latency target: longer runs are of no use.
    """
    rows = points[-1][0]
    if 2 * rows > MOST_ROWS or estimate_s(points, 2 * rows) > max(target_s, LONG_S):
        return False
    rates = [size / time_s for size, time_s in points]
    if len(rates) < 2:
        return True
    if 2 * rows > USUAL_ROWS:
        return rates[-1] >= GAIN * max(rates[:-1])
    return rates[-1] >= FALLING * max(rates)


def estimate_s(points: Sequence[tuple[int, float]], rows: int) -> float:
    """Guess what a larger run takes: on the line through the last two points, from one in proportion to its rows."""
    last, seconds = points[-1]
    if len(points) == 1:
        return seconds * rows / last
    before, before_s = points[-2]
    return seconds + max(0.0, (seconds - before_s) / (last - before)) * (rows - last)


def measure(
    opened: Opened,
    curves: Curves,
    *,
    length: int,
    target_s: float,
    left_s: Callable[[], float],
    tell: Callable[[Way, int], None],
    keep: Callable[[], None],
) -> bool:
    """Add samples to curves until every cell has enough, or there is no time for the next one. Blocks.

    Args:
        opened: The sessions; nothing else runs on them.
        curves: What is known; cells that have their samples already are not measured again.
        length: Size of free axes, 0 for the sessions' own.
        target_s: The latency target.
        left_s: Seconds left.
        tell: Told before each measurement.
        keep: Called after each one, to save what there is.

    Returns:
        True if nothing was left out for want of time.

    Raises:
        BackendError: A run of one row failed.
    """
    bench = _Bench(opened, curves, length, target_s)
    is_complete = True
    for turn in range(ROUNDS):
        rows = 1
        while ways := [way for way in opened.ways if bench.wants(way, rows)]:
            for way in ways if turn % 2 == 0 else reversed(ways):
                if curves.count(way, rows) > turn:
                    continue
                if bench.needs_s(way, rows) > left_s():
                    is_complete = False
                    continue
                tell(way, rows)
                if bench.sample(way, rows):
                    keep()
            rows *= 2
    return is_complete


class _Bench:
    """Runs one cell after the other."""

    def __init__(self, opened: Opened, curves: Curves, length: int, target_s: float) -> None:
        self._sessions = opened.sessions
        self._is_batching = opened.first.batchability.is_batchable
        self._curves = curves
        self._length = length
        self._target_s = target_s
        self._mask = (1 << len(opened.first.outputs)) - 1
        self._row_s = ROW_S + BYTE_S * row_bytes(opened.first, length)
        self._inputs: dict[int, list[Array]] = {}
        self._failed: set[tuple[Way, int]] = set()
        self._warm: set[tuple[int, int]] = set()

    def wants(self, way: Way, rows: int) -> bool:
        """Say whether a cell is to be measured."""
        if (way, rows) in self._failed:
            return False
        if rows == 1 or self._curves.count(way, rows):
            return True
        points = [(size, self._curves.busy_s(way, size)) for size in self._curves.sizes(way) if size < rows]
        if not self._is_batching or not points or points[-1][0] * 2 != rows:
            return False
        return is_worth_doubling(points, self._target_s)

    def needs_s(self, way: Way, rows: int) -> float:
        """Estimate the seconds that a sample takes; 0 for the very first, which must be made."""
        known = [(size, self._curves.busy_s(way, size)) for size in self._curves.sizes(way) if size <= rows]
        if not known:
            others = [self._curves.busy_s(other, 1) for other in self._curves.ways if self._curves.count(other, 1)]
            known = [(1, 2 * max(others))] if others else []
        if not known:
            return 0.0
        run_s = known[-1][1] if known[-1][0] == rows else estimate_s(known, rows)
        warm_s = 0.0 if (id(self._sessions[way]), rows) in self._warm else 2 * run_s
        return warm_s + max(LONE_S, LEAST_LONE * run_s) + _window_s(run_s, rows * self._row_s) + run_s

    def sample(self, way: Way, rows: int) -> bool:
        """Measure a cell; False if a run of more than one row failed.

        Raises:
            BackendError: A run of one row failed.
        """
        session = self._sessions[way]
        try:
            inputs = self._inputs.get(rows)
            if inputs is None:
                inputs = self._inputs[rows] = session.sample(rows, self._length)
            if (id(session), rows) not in self._warm:
                session.run(inputs, self._mask)
                self._warm.add((id(session), rows))
            times = self._lone(session, inputs)
            run_s = statistics.median(times)
            streams = way.layout.instances
            window_s = _window_s(run_s, rows * self._row_s)
            runs_per_s = saturate(session, inputs, self._mask, rows, streams, window_s, self._row_s)
        except BackendError:
            if rows == 1:
                raise
            self._failed.add((way, rows))
            return False
        self._curves.add(way, rows, Sample(streams / runs_per_s, run_s, statistics.pstdev(times) / run_s))
        return True

    def _lone(self, session: Session, inputs: Sequence[Array]) -> list[float]:
        times: list[float] = []
        while len(times) < LEAST_LONE or (sum(times) < LONE_S and len(times) < MOST_LONE):
            start_s = time.perf_counter()
            session.run(inputs, self._mask)
            times.append(time.perf_counter() - start_s)
        return times


def _window_s(run_s: float, loop_s: float) -> float:
    """Say how long instances are kept busy; fewer runs do where they are long.

    Args:
        run_s: What a run takes.
        loop_s: What the event loop works for it. The work for the last run is not in the time, so there must be more of
            them where it is what limits.
    """
    runs_s = (RUNS_PER_STREAM if run_s < LONG_S else 1) * run_s
    return max(WINDOW_S, runs_s, LOOPS * loop_s if loop_s > run_s else 0.0)
