"""What would become of traffic: a scenario as the simulator takes it, and the simulator's records as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchserve.core.record import Record
from batchserve.core.ticket import Outcome
from batchserve.core.traffic import Traffic
from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array
    from batchserve.load.scenario import Scenario, Stream

__all__ = ["Prediction", "predicted", "traffic_by_model"]


def traffic_by_model(scenario: Scenario, pads: Mapping[str, PadRule | None] | None = None) -> dict[str, Traffic]:
    """Draw a scenario's requests for the simulator, model by model.

    Args:
        scenario: What is asked, open loop.
        pads: How models pad, by name. The `lengths` of their traffic are the requests' own; those of all others are
            numbers of shapes, and requests of another shape do not share a batch.

    Raises:
        ConfigError: The scenario is a closed loop, or has streams without a model.
    """
    if not scenario.is_open_loop:
        raise ConfigError("the traffic to simulate has no arrivals; give --rate, --arrivals, --replay or a scenario's")
    random = np.random.default_rng([scenario.seed, 1])
    drawn: list[tuple[Stream, Array]] = []
    shared = [stream for stream in scenario.streams if stream.arrivals is None]
    drawn += [(one, one.arrivals.draw(scenario.duration_s, random)) for one in scenario.streams if one.arrivals]
    if shared and scenario.arrivals is not None:
        times = scenario.arrivals.draw(scenario.duration_s, random)
        weights = np.array([stream.weight for stream in shared])
        which = random.choice(len(shared), len(times), p=weights / weights.sum())
        drawn += [(stream, times[which == index]) for index, stream in enumerate(shared)]
    found: dict[str, list[Traffic]] = {}
    shapes: dict[object, int] = {}
    pads = pads or {}
    for stream, times in drawn:
        if not stream.model:
            raise ConfigError(f"stream {stream.name!r} has no model, so nothing is known of its cost")
        found.setdefault(stream.model, []).append(_traffic(stream, times, shapes, pads.get(stream.model), random))
    return {model: _merged(parts) for model, parts in found.items()}


def _traffic(
    stream: Stream, times: Array, shapes: dict[object, int], pad: PadRule | None, random: np.random.Generator
) -> Traffic:
    """Draw what each request of a stream is like."""
    count = len(times)
    lengths = random.integers(stream.lengths[0], stream.lengths[1] + 1, count)
    if stream.dims and pad is not None:
        index, axis = pad.where
        lengths = np.full(count, stream.dims[index][axis - 1])
    elif stream.dims:
        lengths = np.full(count, shapes.setdefault(tuple(map(tuple, stream.dims)), len(shapes) + 1))
    return Traffic(
        times,
        random.integers(stream.rows[0], stream.rows[1] + 1, count),
        lengths.astype(np.int64),
        np.zeros(count, np.int64),
        np.full(count, stream.priority, np.int64),
        np.zeros(count, np.bool_),
        stream.timeout_s,
    )


def _merged(parts: Sequence[Traffic]) -> Traffic:
    """Lay the traffic of several streams of one model together."""
    order = np.argsort(np.concatenate([part.times_s for part in parts]), kind="stable")

    def column(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    timeouts = [part.timeout_s for part in parts if part.timeout_s is not None]
    return Traffic(
        times_s=column("times_s"),
        rows=column("rows"),
        lengths=column("lengths"),
        clients=column("clients"),
        priorities=column("priorities"),
        poisoned=column("poisoned"),
        timeout_s=min(timeouts, default=None),
    )


@dataclass(frozen=True)
class Prediction:
    """What would become of one model's requests.

    Attributes:
        model: Its name.
        offered_per_s: Requests a second.
        goodput_per_s: Requests a second that are answered within the target; all answered ones without a target.
        within_share: Share of the requests that are.
        p50_s: Median latency of the answered ones, None without any; on the server, without the network.
        p99_s: Their 99th percentile.
        turned_away: Share of the requests that are refused or expire.
        rows_per_run: Mean rows in a run; 0 without any.
        busy_share: Device time of the runs by the time and the slots.
    """

    model: str
    offered_per_s: float
    goodput_per_s: float
    within_share: float
    p50_s: float | None
    p99_s: float | None
    turned_away: float
    rows_per_run: float
    busy_share: float


def predicted(
    records: Mapping[str, Record], seconds: float, warmup_s: float, slots: int, targets_s: Mapping[str, float | None]
) -> list[Prediction]:
    """Sum records up, from the end of the warm-up on."""
    predictions = []
    for model, whole in records.items():
        record = whole.between(warmup_s, seconds)
        target_s = targets_s[model]
        answered = record.latencies_s
        within = record.within(np.inf if target_s is None else target_s)
        away = record.count(Outcome.REFUSED) + record.count(Outcome.EXPIRED)
        runs, window_s = record.runs, seconds - warmup_s
        predictions.append(
            Prediction(
                model=model,
                offered_per_s=len(record) / window_s,
                goodput_per_s=within * len(record) / window_s,
                within_share=within,
                p50_s=record.quantile_s(0.5) if len(answered) else None,
                p99_s=record.quantile_s(0.99) if len(answered) else None,
                turned_away=away / len(record) if len(record) else 0.0,
                rows_per_run=float(runs.rows.mean()) if len(runs) else 0.0,
                busy_share=runs.device_s / (window_s * slots),
            )
        )
    return predictions
