"""What became of simulated requests: outcomes, delays, runs, and the figures made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from batchserve.core.ticket import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["INVALID", "NUMBERS", "OPEN", "OUTCOMES", "Record", "Recorder", "Runs"]

OUTCOMES = tuple(Outcome)
"""Outcomes by their number in `Record.outcomes`."""

NUMBERS = {outcome: number for number, outcome in enumerate(OUTCOMES)}

INVALID = len(OUTCOMES)
"""Number of the outcome of a request that could never run."""

OPEN = len(OUTCOMES) + 1
"""Number that stands where a request had not ended when the simulation did."""

_COMPLETED = NUMBERS[Outcome.COMPLETED]
_TURNED_AWAY = [NUMBERS[Outcome.REFUSED], NUMBERS[Outcome.EXPIRED]]


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of one model, in the order they were started.

    Attributes:
        starts_s: float64[R]
        seconds: float64[R], how long each took.
        rows: int64[R]
        elements: int64[R], rows times the length they were padded to.
        used: int64[R], elements that hold something.
        ok: bool[R], False if the run failed.
        repeated: bool[R], True for runs that look for the guilty rows of a failed one.
    """

    starts_s: NDArray[np.float64]
    seconds: NDArray[np.float64]
    rows: NDArray[np.int64]
    elements: NDArray[np.int64]
    used: NDArray[np.int64]
    ok: NDArray[np.bool_]
    repeated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts_s)

    @property
    def device_s(self) -> float:
        """Seconds of device time that they took together."""
        return float(self.seconds.sum())

    @property
    def padded_share(self) -> float:
        """Share of the elements that were padding; 0 without any run."""
        total = int(self.elements.sum())
        return 1.0 - int(self.used.sum()) / total if total else 0.0

    def between(self, since_s: float, until_s: float = np.inf) -> Runs:
        """Keep the runs that were started in this time."""
        kept = (self.starts_s >= since_s) & (self.starts_s < until_s)
        return Runs(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Record:
    """What became of one model's requests, in the order they arrived.

    Attributes:
        arrivals_s: float64[N]
        ends_s: float64[N], when each had its outcome; the end of the simulation for open ones.
        outcomes: uint8[N], positions in `OUTCOMES`, `INVALID` or `OPEN`.
        deadlines_s: float64[N]; infinite for those that were not admitted.
        rows: int64[N]
        lengths: int64[N]
        clients: int64[N]
        runs: The model's runs.
        span_s: The time this record is about.
    """

    arrivals_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    outcomes: NDArray[np.uint8]
    deadlines_s: NDArray[np.float64]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    clients: NDArray[np.int64]
    runs: Runs
    span_s: float

    def __len__(self) -> int:
        return len(self.arrivals_s)

    def between(self, since_s: float, until_s: float) -> Record:
        """Keep the requests that arrived, and the runs that were started, in this time."""
        record = self._keep((self.arrivals_s >= since_s) & (self.arrivals_s < until_s))
        return replace(record, runs=self.runs.between(since_s, until_s), span_s=until_s - since_s)

    def of_client(self, client: int) -> Record:
        """Keep the requests of one client. The runs stay: they are everybody's."""
        return self._keep(self.clients == client)

    def count(self, outcome: Outcome) -> int:
        """Count the requests that ended so."""
        return int((self.outcomes == NUMBERS[outcome]).sum())

    @property
    def latencies_s(self) -> NDArray[np.float64]:
        """float64[C]: seconds from arrival to answer of the completed requests."""
        done = self.outcomes == _COMPLETED
        latencies: NDArray[np.float64] = self.ends_s[done] - self.arrivals_s[done]
        return latencies

    @property
    def refusal_delays_s(self) -> NDArray[np.float64]:
        """float64[R]: seconds until those that were refused or expired were told so."""
        away = np.isin(self.outcomes, _TURNED_AWAY)
        delays: NDArray[np.float64] = self.ends_s[away] - self.arrivals_s[away]
        return delays

    @property
    def late_share(self) -> float:
        """Share of the admitted requests that ended in another way than by an answer before their deadline."""
        admitted = np.isfinite(self.deadlines_s)
        if not admitted.any():
            return 0.0
        good = (self.outcomes == _COMPLETED) & (self.ends_s <= self.deadlines_s)
        return float(1.0 - good[admitted].mean())

    def quantile_s(self, share: float) -> float:
        """Give the latency that this share of the completed requests keeps; NaN without any."""
        latencies = self.latencies_s
        return float(np.quantile(latencies, share)) if len(latencies) else float("nan")

    def within(self, target_s: float) -> float:
        """Give the share of all requests that were answered within the target; 1 without any."""
        return float(self._good(target_s).mean()) if len(self) else 1.0

    def goodput(self, target_s: float) -> float:
        """Give the rows per second that were answered within the target."""
        return float(self.rows[self._good(target_s)].sum()) / self.span_s

    def _good(self, target_s: float) -> NDArray[np.bool_]:
        # A nanosecond of grace: a sum of floats that means the target exactly may lie a rounding above it.
        good: NDArray[np.bool_] = (self.outcomes == _COMPLETED) & (self.ends_s - self.arrivals_s <= target_s + 1e-9)
        return good

    def _keep(self, kept: NDArray[np.bool_]) -> Record:
        names = ("arrivals_s", "ends_s", "outcomes", "deadlines_s", "rows", "lengths", "clients")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


class Recorder:
    """Writes a record while the simulation goes on.

    Attributes:
        deadlines: Of each request; infinite until it is admitted.
        runs: The columns of `Runs`, one tuple for each run.
        open_requests: How many have not ended.
    """

    def __init__(self) -> None:
        self.deadlines: list[float] = []
        self.runs: list[tuple[float, float, int, int, int, bool, bool]] = []
        self.open_requests = 0
        self._arrived: list[tuple[float, int, int, int]] = []
        self._ends: list[float] = []
        self._outcomes: list[int] = []

    def note(self, arrival_s: float, rows: int, length: int, client: int) -> int:
        """Begin with a request, and give its place in the record."""
        self._arrived.append((arrival_s, rows, length, client))
        self._ends.append(np.inf)
        self._outcomes.append(OPEN)
        self.deadlines.append(np.inf)
        self.open_requests += 1
        return len(self._ends) - 1

    def end(self, index: int, outcome: int, now: float) -> bool:
        """Give a request its outcome; False if it has one."""
        if self._outcomes[index] != OPEN:
            return False
        self._outcomes[index] = outcome
        self._ends[index] = now
        self.open_requests -= 1
        return True

    def record(self, span_s: float) -> Record:
        """Put everything into arrays, for a simulation that ended at `span_s`."""
        kinds = (np.float64, np.float64, np.int64, np.int64, np.int64, np.bool_, np.bool_)
        arrivals, rows, lengths, clients = zip(*self._arrived, strict=True) if self._arrived else ((),) * 4
        columns = zip(*self.runs, strict=True) if self.runs else ((),) * len(kinds)
        return Record(
            np.asarray(arrivals, np.float64),
            np.minimum(np.asarray(self._ends, np.float64), span_s),
            np.asarray(self._outcomes, np.uint8),
            np.asarray(self.deadlines, np.float64),
            np.asarray(rows, np.int64),
            np.asarray(lengths, np.int64),
            np.asarray(clients, np.int64),
            Runs(*(np.asarray(column, kind) for column, kind in zip(columns, kinds, strict=True))),
            span_s,
        )
