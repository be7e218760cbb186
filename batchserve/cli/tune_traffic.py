"""The traffic that `batchserve tune` is asked about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchserve.errors import ConfigError
from batchserve.load.arrivals import parse_arrivals
from batchserve.load.recording import read_streams
from batchserve.load.scenario import Scenario, Stream, read_scenario
from batchserve.tuning.demand import Demand, example_stream

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.load.search import Goal

__all__ = ["completed", "read_demand"]

VARIANTS = 8
"""Different requests of a schedule."""


def read_demand(model: str, goal: Goal, options: Mapping[str, Any]) -> Demand:
    """Make the traffic that the options describe.

    Raises:
        ConfigError: It is none, or not one model's alone.
    """
    text = options["traffic"]
    timeout_s = max(1.0, 2.5 * goal.target_s)
    if text and Path(text).exists():
        scenario, whole_s = _from_file(Path(text))
        asked = {stream.model for stream in scenario.streams}
        if asked != {model}:
            raise ConfigError(f"traffic {text!r} asks for {', '.join(sorted(asked))}, and {model!r} alone is tuned")
        return Demand(scenario.with_(timeout_s=timeout_s), text, goal, whole_s, is_from_file=True)
    stream = Stream(model, model, rows=options["rows"], lengths=options["lengths"] or (1, 1), variants=VARIANTS)
    scenario = Scenario([stream], timeout_s=timeout_s)
    if text is None:
        return Demand.unlimited(scenario, goal)
    return Demand(scenario.with_(arrivals=parse_arrivals(text)), text, goal)


def _from_file(path: Path) -> tuple[Scenario, float]:
    if path.suffix == ".toml":
        scenario = read_scenario(path)
        if not scenario.is_open_loop:
            raise ConfigError(f'traffic {path}: the scenario has no arrivals; add some, such as "poisson:500"')
        return scenario, math.inf
    streams, seconds = read_streams([path])
    return Scenario(streams, duration_s=seconds + 1e-3, warmup_s=0.0), seconds + 1e-3


def completed(demand: Demand, session: Session, length: int, lengths: tuple[int, int] | None) -> Demand:
    """Give the requests of a schedule the shapes that are measured, and values that the model is known to take.

    Args:
        demand: As read. Traffic of a file stays as it is: it names its shapes.
        session: The model.
        length: Size of free axes in the measurements; 0 for the sample's own.
        lengths: Least and most of them, as asked for; None to take `length`.

    Raises:
        ConfigError: The model pads, and the traffic does not say how long its requests are.
    """
    if demand.is_from_file:
        if session.pad is not None:
            raise ConfigError("traffic of a file tells no lengths of requests for a model with pad: give a schedule")
        return demand
    is_batching = session.batchability.is_batchable
    names = [spec.name for spec in session.inputs]
    (stream,) = demand.scenario.streams
    stream = example_stream(stream, names, session.sample(1, length), is_batching=is_batching)
    span = lengths or ((length, length) if session.pad is not None and length else None)
    if span is not None:
        stream = replace(stream, dims=(), lengths=span)
    scenario = demand.scenario.with_(streams=[stream])
    return replace(demand, scenario=scenario, has_lengths=span is not None)
