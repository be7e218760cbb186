"""What to ask of a server, and how fast: read from a TOML file or made from a command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batchserve.config.names import did_you_mean
from batchserve.config.units import BadValueError, parse_duration
from batchserve.core.tensors import DATATYPES, DataType
from batchserve.errors import ConfigError
from batchserve.load.arrivals import MOST_REQUESTS, Arrivals, parse_arrivals
from batchserve.load.plan import MOST_CONNECTIONS

__all__ = ["FORMS", "Scenario", "Stream", "read_scenario"]

FORMS = ("binary", "json", "raw")
"""How tensors travel: the protocol's two forms, and the first input's bytes alone, for servers of other protocols."""

MOST_VARIANTS = 1024


@dataclass(frozen=True)
class Stream:
    """One kind of request.

    Attributes:
        name: What it is called in the result.
        model: The model asked; unused for `raw`.
        version: Its version; "" for the server's choice.
        weight: How often it is chosen, relative to the other streams that share its arrivals.
        rows: Least and most rows, drawn evenly for each variant.
        lengths: Least and most of the free dimensions, likewise.
        shapes: Whole shape of an input, rows included, by its name.
        dims: Shape of each input in the model's order, without the batch axis where there is one; empty to draw them.
        values: Least and most of an input's values, by its name.
        priority: 0 for the model's default.
        timeout_s: What the request allows the server; None for nothing.
        form: One of `FORMS`.
        variants: Number of different requests, sent in turns.
        arrivals: Its own; None to share the scenario's.
        target_s: Its own latency target; None for the scenario's.
        path: Where `raw` requests go.
        raw_shape: Shape of a row of `raw` requests.
        raw_datatype: Its datatype.
        raw_json: Body of `raw` requests with `DATA` where the numbers go, separated by commas; "" for the bytes alone.
        headers: Further headers of each request.
        is_checked: True if answers are compared with that of the same request alone.
    """

    name: str
    model: str = ""
    version: str = ""
    weight: float = 1.0
    rows: tuple[int, int] = (1, 1)
    lengths: tuple[int, int] = (1, 1)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Sequence[Sequence[int]] = ()
    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    priority: int = 0
    timeout_s: float | None = None
    form: str = "binary"
    variants: int = 16
    arrivals: Arrivals | None = None
    target_s: float | None = None
    path: str = ""
    raw_shape: tuple[int, ...] = ()
    raw_datatype: DataType = DATATYPES["FP32"]
    raw_json: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_checked: bool = True


@dataclass(frozen=True)
class Scenario:
    """Streams, and how they are sent.

    Attributes:
        streams: At least one.
        arrivals: When requests of the streams without arrivals of their own are due; None for a closed loop.
        connections: Open loop: no more than so many; closed: exactly so many.
        duration_s: How long requests are sent.
        warmup_s: How much of that is not counted.
        timeout_s: When a request without an answer has failed.
        target_s: What latency counts as good; None for any.
        most_requests: No more are sent.
        timing_every: One request in so many asks the server where its time went; 0 for none.
        tick_s: An open loop looks at the clock and the sockets only so often; 0 for as soon as anything is due or has
            come, None for as rarely as the latencies allow.
        seed: Of everything that is drawn.
    """

    streams: Sequence[Stream]
    arrivals: Arrivals | None = None
    connections: int = MOST_CONNECTIONS
    duration_s: float = 10.0
    warmup_s: float = 1.0
    timeout_s: float = 30.0
    target_s: float | None = None
    most_requests: int = MOST_REQUESTS
    timing_every: int = 16
    tick_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.streams:
            raise ConfigError("the scenario has no stream; add a [[stream]] with a model")
        if self.warmup_s >= self.duration_s:
            raise ConfigError(
                f"warmup {self.warmup_s:g} s is not shorter than duration {self.duration_s:g} s, so nothing would be "
                "counted; raise duration"
            )
        own = [stream for stream in self.streams if stream.arrivals is not None]
        if self.arrivals is None and own and len(own) < len(self.streams):
            raise ConfigError("some streams have arrivals and some have none; give the scenario arrivals for those")

    @property
    def is_open_loop(self) -> bool:
        """True if requests are sent when they are due, not when the one before is answered."""
        return self.arrivals is not None or any(stream.arrivals for stream in self.streams)

    def with_(self, **changes: Any) -> Scenario:
        """Return a scenario with other values."""
        return replace(self, **changes)


class _Table:
    """A table of the file: values are taken out of it, and nothing may be left."""

    def __init__(self, place: str, values: Mapping[str, object]) -> None:
        self._place = place
        self._left = dict(values)
        self._known: list[str] = []

    def failure(self, name: str, value: object, expected: str, hint: str = "") -> ConfigError:
        tail = f"; {hint}" if hint else ""
        return ConfigError(f"{self._place}.{name} = {value!r}: expected {expected}{tail}")

    def take(self, name: str, default: object = None) -> Any:
        self._known.append(name)
        return self._left.pop(name, default)

    def text(self, name: str, default: str = "") -> str:
        value = self.take(name, default)
        if not isinstance(value, str) or "\r" in value or "\n" in value:
            raise self.failure(name, value, "a string of one line")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        value = self.take(name, choices[0])
        if value not in choices:
            raise self.failure(name, value, f"one of {', '.join(choices)}", did_you_mean(str(value), choices))
        return str(value)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.failure(name, value, "true or false")
        return value

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.failure(name, value, f"a whole number from {least} to {most}")
        return value

    def positive(self, name: str, default: float) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.failure(name, value, "a number above 0")
        return float(value)

    def duration(self, name: str, default: float | None) -> Any:
        value = self.take(name)
        if value is None:
            return default
        try:
            return parse_duration(value if isinstance(value, str) else str(value) if value == 0 else "?")
        except BadValueError as error:
            raise self.failure(name, value, "a duration with its unit, such as 20ms or 10s", error.hint) from error

    def arrivals(self) -> Arrivals | None:
        text = self.text("arrivals")
        return parse_arrivals(text) if text else None

    def span(self, name: str, value: object = None) -> tuple[int, int]:
        value = self.take(name, 1) if value is None else value
        pair = [value, value] if isinstance(value, int) else value
        if isinstance(pair, list) and len(pair) == 2 and all(type(one) is int for one in pair):
            low, high = pair
            if 1 <= low <= high:
                return low, high
        raise self.failure(name, value, "a whole number of 1 or more, or a least and a most one, such as [8, 128]")

    def shape(self, name: str, value: object) -> tuple[int, ...]:
        if isinstance(value, list) and all(type(one) is int and one >= 0 for one in value):
            return tuple(value)
        raise self.failure(name, value, "a shape, such as [1, 3, 224, 224]")

    def range(self, name: str, value: object) -> tuple[float, float]:
        if isinstance(value, list) and len(value) == 2 and all(type(one) in (int, float) for one in value):
            low, high = value
            if low <= high:
                return low, high
        raise self.failure(name, value, "the least and the most value, such as [0, 30521]")

    def table(self, name: str) -> Mapping[str, Any]:
        value = self.take(name, {})
        if not isinstance(value, dict):
            raise self.failure(name, value, "a table")
        return value

    def end(self) -> None:
        for name in self._left:
            hint = did_you_mean(name, self._known)
            raise ConfigError(f"{self._place}.{name}: there is no such key{f'; {hint}' if hint else ''}")


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ConfigError: It is none; the text names the key, the value seen, and what was expected.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"scenario {path} cannot be read: {error}") from error
    table = _Table(str(path), values)
    streams = table.take("stream", [])
    if not isinstance(streams, list) or not all(isinstance(one, dict) for one in streams):
        raise table.failure("stream", streams, "tables [[stream]]")
    fields = {
        "streams": [_read_stream(f"{path}: stream[{index}]", one) for index, one in enumerate(streams)],
        "arrivals": table.arrivals(),
        "connections": table.whole("connections", MOST_CONNECTIONS, 1, 10_000),
        "duration_s": table.duration("duration", 10.0),
        "warmup_s": table.duration("warmup", 1.0),
        "timeout_s": table.duration("timeout", 30.0),
        "target_s": table.duration("latency_target", None),
        "most_requests": table.whole("max_requests", MOST_REQUESTS, 1, MOST_REQUESTS),
        "timing_every": table.whole("timing_every", 16, 0, 1_000_000),
        "tick_s": table.duration("tick", None),
        "seed": table.whole("seed", 0, 0, 2**32),
    }
    table.end()
    return Scenario(**fields)


def _read_stream(place: str, values: Mapping[str, object]) -> Stream:
    table = _Table(place, values)
    model, form = table.text("model"), table.choice("format", FORMS)
    raw = _Table(f"{place}.raw", table.table("raw"))
    datatype = raw.choice("datatype", ["FP32", *(name for name, one in DATATYPES.items() if one.itemsize)])
    stream = Stream(
        name=table.text("name", model) or "raw",
        model=model,
        version=table.text("version"),
        weight=table.positive("weight", 1.0),
        rows=table.span("rows"),
        lengths=table.span("lengths"),
        shapes={name: table.shape(f"shapes.{name}", one) for name, one in table.table("shapes").items()},
        values={name: table.range(f"values.{name}", one) for name, one in table.table("values").items()},
        priority=table.whole("priority", 0, 0, 1000),
        timeout_s=table.duration("timeout", None),
        form=form,
        variants=table.whole("variants", 16, 1, MOST_VARIANTS),
        arrivals=table.arrivals(),
        target_s=table.duration("latency_target", None),
        path=raw.text("path", "/"),
        raw_shape=raw.shape("shape", raw.take("shape", [])),
        raw_datatype=DATATYPES[datatype],
        raw_json=raw.text("json"),
        headers={name: str(value) for name, value in table.table("headers").items()},
        is_checked=table.flag("check", default=True),
    )
    table.end()
    raw.end()
    if form != "raw" and not model:
        raise ConfigError(f"{place}.model is missing; name the model to ask")
    return stream
