"""Reads what a server has written down about its traffic (`server.record`), to send it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from batchserve.errors import ConfigError
from batchserve.load.arrivals import Replay
from batchserve.load.scenario import Stream

__all__ = ["FORMAT", "read_streams"]

FORMAT = "batchserve-arrivals/1"

MOST_KINDS = 2000
"""Kinds of requests in a recording: each is asked once, alone, before it is replayed."""

_Kind = tuple[str, int, tuple[tuple[int, ...], ...], int]


def read_streams(paths: Sequence[Path], speed: float = 1.0) -> tuple[list[Stream], float]:
    """Read a recording as streams: one for each model, number of rows, shape and priority.

    Args:
        paths: Its files, or folders of them, in any order; they may overlap.
        speed: How much faster than it was.

    Returns:
        The streams, each with arrivals of its own, and how long the replay takes, in seconds.

    Raises:
        ConfigError: A file cannot be read, or there is nothing in it.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    moments: dict[_Kind, list[float]] = {}
    for file in files:
        _read(file, moments)
    if not moments:
        raise ConfigError(f"recording {', '.join(map(str, paths))}: there is no request in it")
    if len(moments) > MOST_KINDS:
        raise ConfigError(
            f"recording {', '.join(map(str, paths))}: {len(moments):,} kinds of requests, and at most {MOST_KINDS:,} "
            "can be replayed; name fewer of its files"
        )
    first_s = min(map(min, moments.values()))
    last_s = max(map(max, moments.values()))
    streams = [
        Stream(
            name=f"{model} {rows} x {', '.join(str(list(shape)) for shape in dims)}",
            model=model,
            rows=(rows, rows),
            dims=dims,
            priority=priority,
            variants=1,
            arrivals=Replay(np.sort(np.array(times)) - first_s, speed),
        )
        for (model, rows, dims, priority), times in sorted(moments.items())
    ]
    return streams, (last_s - first_s) / speed


def _read(file: Path, moments: dict[_Kind, list[float]]) -> None:
    """Add a file's requests, at wall-clock times."""
    number = 1
    try:
        with file.open(encoding="utf-8") as lines:
            head = json.loads(next(lines, "null"))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ConfigError(f"recording {file}: its first line says not {FORMAT}; is it one?")
            start_s = datetime.fromisoformat(head["started"]).timestamp()
            for line in lines:
                number += 1
                if line.endswith("\n"):  # the last line of a server that was killed may be cut
                    kind, at_s = _request(json.loads(line))
                    moments.setdefault(kind, []).append(start_s + at_s)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"recording {file}, line {number}: cannot be read: {error}") from error


def _request(entry: dict[str, Any]) -> tuple[_Kind, float]:
    dims = tuple(tuple(int(size) for size in shape) for shape in entry["dims"])
    return (str(entry["model"]), int(entry["rows"]), dims, int(entry.get("priority", 0))), float(entry["t"])
