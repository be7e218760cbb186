"""What runs were measured to take, for each way and batch size, and what follows from it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchserve.backends.base import Layout
from batchserve.core.curves import beside_others, through
from batchserve.tuning.settings import Setting, Way

if TYPE_CHECKING:
    from batchserve.core.curves import Curve

__all__ = ["GAIN", "Curves", "Sample", "settings_of"]

LEAST_NOISE, MOST_NOISE = 0.02, 0.25

GAIN = 1.03
"""A larger batch is worth trying if it gives so many times the rows per second of all smaller ones."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one batch size on one way.

    Attributes:
        busy_s: Seconds from one run's beginning to the next one's on an instance, all instances busy and the event
            loop's work on the same cores.
        run_s: Median seconds of a run when nothing else ran.
        spread: Standard deviation of those, as a share of their median.
    """

    busy_s: float
    run_s: float
    spread: float


class Curves:
    """Samples by way and rows. One thread."""

    def __init__(self) -> None:
        self._samples: dict[Way, dict[int, list[Sample]]] = {}

    def add(self, way: Way, rows: int, sample: Sample) -> None:
        """Take a sample in."""
        self._samples.setdefault(way, {}).setdefault(rows, []).append(sample)

    def count(self, way: Way, rows: int) -> int:
        """Say how often it was measured."""
        return len(self._samples.get(way, {}).get(rows, ()))

    @property
    def ways(self) -> list[Way]:
        """Ways with any sample, in the order they came."""
        return list(self._samples)

    def sizes(self, way: Way) -> list[int]:
        """List the rows that were measured, ascending."""
        return sorted(self._samples.get(way, ()))

    def busy_s(self, way: Way, rows: int) -> float:
        """Return the median of `Sample.busy_s`."""
        return statistics.median(one.busy_s for one in self._samples[way][rows])

    def run_s(self, way: Way, rows: int) -> float:
        """Return the median of `Sample.run_s`."""
        return statistics.median(one.run_s for one in self._samples[way][rows])

    def rows_per_s(self, way: Way, rows: int) -> float:
        """Return the rows in a second with all instances busy with runs of so many."""
        return way.layout.instances * rows / self.busy_s(way, rows)

    def best(self, way: Way, most: int | None = None) -> int:
        """Return the size, up to `most`, with the most rows per second; the smallest of those that are close."""
        sizes = [rows for rows in self.sizes(way) if most is None or rows <= most] or self.sizes(way)[:1]
        best = sizes[0]
        for rows in sizes[1:]:
            if self.rows_per_s(way, rows) >= GAIN * self.rows_per_s(way, best):
                best = rows
        return best

    def bound(self, setting: Setting, target_s: float) -> float:
        """Return the rows per second that a setting cannot exceed within a target; 0 if not even one row fits in it."""
        way = setting.way
        fitting = [
            rows for rows in self.sizes(way) if rows <= setting.rows and min(self._run_times(way, rows)) <= target_s
        ]
        return max((self.rows_per_s(way, rows) for rows in fitting), default=0.0)

    @property
    def noise(self) -> float:
        """The spread of runs, within what the simulator can make sense of."""
        spreads = [one.spread for _, _, samples in self._cells() for one in samples]
        return min(MOST_NOISE, max(LEAST_NOISE, statistics.median(spreads))) if spreads else LEAST_NOISE

    def points(self, way: Way) -> list[tuple[int, float]]:
        """List rows and seconds alone: what the server would measure at load."""
        return [(rows, self.run_s(way, rows)) for rows in self.sizes(way)]

    def curve(self, way: Way, overhead_s: float, slots: int | None = None) -> Curve:
        """Make the simulator's curve.

        Args:
            way: With at least one sample.
            overhead_s: What the simulator adds to each run, and so is not to be in the curve.
            slots: Runs at once, if not the way's instances: that many as fast as these.
        """
        alone = self.points(way)
        busy = [(rows, max(run_s, self.busy_s(way, rows) - overhead_s)) for rows, run_s in alone]
        return beside_others(through(alone), through(busy), slots or way.layout.instances)

    def to_json(self) -> list[dict[str, Any]]:
        """Return everything as plain values."""
        return [
            {
                "provider": way.provider,
                "instances": way.layout.instances,
                "threads": way.layout.threads,
                "rows": rows,
                "samples": [[one.busy_s, one.run_s, one.spread] for one in samples],
            }
            for way, rows, samples in self._cells()
        ]

    @classmethod
    def from_json(cls, cells: Sequence[Mapping[str, Any]]) -> Curves:
        """Read what `to_json` gave.

        Raises:
            ValueError: A value is none that a measurement gives.
            KeyError: Something is missing.
            TypeError: Something is of another kind.
        """
        curves = cls()
        for cell in cells:
            way = Way(str(cell["provider"]), Layout(int(cell["instances"]), int(cell["threads"])))
            for sample in cell["samples"]:
                busy_s, run_s, spread = map(float, sample)
                if not (0 < busy_s < float("inf") and 0 < run_s < float("inf") and spread >= 0):
                    raise ValueError(f"{sample} is no measurement")
                curves.add(way, int(cell["rows"]), Sample(busy_s, run_s, spread))
        return curves

    def _cells(self) -> Iterator[tuple[Way, int, list[Sample]]]:
        for way, by_rows in self._samples.items():
            for rows, samples in sorted(by_rows.items()):
                yield way, rows, samples

    def _run_times(self, way: Way, rows: int) -> tuple[float, float]:
        return self.run_s(way, rows), self.busy_s(way, rows)


def settings_of(curves: Curves, ways: Sequence[Way], *, is_batching: bool) -> list[Setting]:
    """List the settings that are worth a prediction: no batching, and each size that gains over the smaller ones.

    Args:
        curves: What was measured.
        ways: Those to choose from; ways without a sample are left out.
        is_batching: False for a model that does not batch.
    """
    found = []
    for way in ways:
        sizes = curves.sizes(way)
        if sizes and not is_batching:
            found.append(Setting(way, 0))
            continue
        best = 0.0
        for rows in sizes:
            if curves.rows_per_s(way, rows) >= best * GAIN:
                best = curves.rows_per_s(way, rows)
                found.append(Setting(way, rows))
    return found
