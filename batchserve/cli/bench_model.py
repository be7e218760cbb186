"""Measures a model file in this process: how long a run takes at each batch size, on each provider."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchserve.cli.bench_server import versions
from batchserve.cli.progress import Reporter
from batchserve.errors import BackendError, ConfigError, LoadError, ModelLoadError
from batchserve.load.latencies import Latencies
from batchserve.load.svg import format_count, format_seconds
from batchserve.load.table import text_table

if TYPE_CHECKING:
    from batchserve.backends.base import Session

__all__ = ["measure_model"]

DEFAULT_SIZES = (1, 2, 4, 8, 16, 32)
LEAST_RUNS = 5
MOST_RUNS = 20_000
WARM_RUNS = 2
HEADINGS = ("provider", "batch", "runs", "mean", "p50", "p99", "rows/s", "memory")


@dataclass(frozen=True)
class Measured:
    """Runs of one batch size on one provider.

    Attributes:
        provider: As it was asked for.
        batch_size: Rows in a run.
        runs: How many were timed.
        mean_s: Mean time of a run.
        p50_s: Its median.
        p99_s: Its 99th percentile.
        rows_per_s: Rows by the mean time.
        memory_bytes: What this process had in memory afterwards, above what it had before the model was loaded; a
            device's own memory is not in it.
    """

    provider: str
    batch_size: int
    runs: int
    mean_s: float
    p50_s: float
    p99_s: float
    rows_per_s: float
    memory_bytes: int


def measure_model(path: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Measure a model, print a table, and return everything.

    Args:
        path: A `.onnx` file.
        options: Those of the command, by name; `duration` is shared by all sizes of a provider.

    Returns:
        What `--json` writes, and True.

    Raises:
        ConfigError: There is no such file, or no runtime.
        LoadError: The model cannot be loaded or run.
    """
    from batchserve.backends.onnx import require_runtime

    if not path.is_file():
        raise ConfigError(f"{str(path)!r} is neither a file nor a URL; expected MODEL.onnx or http://HOST:PORT")
    runtime = require_runtime()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    rows: list[Measured] = []
    facts: dict[str, str] = {}
    with Reporter(is_quiet=options["quiet"]) as reporter:
        for provider in options["providers"] or ("auto",):
            new, facts[provider] = _measure_provider(path, provider, options, reporter)
            rows += new
    document = {
        "kind": "model",
        "command": " ".join(["batchserve", *sys.argv[1:]]),
        "started": started,
        "versions": {**versions(), "onnxruntime": str(runtime.__version__)},
        "model": path.name,
        "runs_on": facts,
        "rows": [asdict(row) for row in rows],
    }
    for provider, text in facts.items():
        click.echo(f"{provider}: {text}")
    click.echo(text_table(HEADINGS, [_cells(row) for row in rows]))
    return document, True


def _measure_provider(
    path: Path, provider: str, options: Mapping[str, Any], reporter: Reporter
) -> tuple[list[Measured], str]:
    """Measure all sizes on one provider; one session for all, as a server would have it."""
    from batchserve.backends.base import ModelFile
    from batchserve.backends.onnx import OnnxBackend
    from batchserve.config import ModelConfig

    before_bytes = _resident_bytes()
    config = ModelConfig(providers=(provider,), intra_op_threads=options["threads"])
    reporter.begin(f"{provider}: load")
    try:
        session = OnnxBackend().load(ModelFile(path.stem, 1, path), config)
    except ModelLoadError as error:
        raise LoadError(f"{path.name} cannot be loaded on {provider}: {error}") from error
    sizes: Sequence[int] = options["batch_sizes"] or DEFAULT_SIZES
    if not session.batchability.is_batchable:
        if options["batch_sizes"]:
            raise LoadError(f"{path.name} cannot be batched: {session.batchability.why}; leave --batch-sizes out")
        sizes = (1,)
    rows = []
    try:
        for size in sizes:
            reporter.begin(f"{provider}: batch of {size}")
            latencies = _time_runs(session, size, options["duration"] / len(sizes), reporter)
            rows.append(_measured(provider, size, latencies, _resident_bytes() - before_bytes))
    except BackendError as error:
        raise LoadError(f"{path.name} failed on {provider}: {error}") from error
    finally:
        session.close()
    threads = session.facts.get("intra_op_threads", "?")
    return rows, f"{' then '.join(session.providers)}, intra_op_threads {threads}; {session.batchability.why}"


def _time_runs(session: Session, size: int, seconds: float, reporter: Reporter) -> Latencies:
    """Time runs of one size for a while, but not too few and not too many."""
    inputs = session.sample(size)
    every = (1 << len(session.outputs)) - 1
    for _ in range(WARM_RUNS):
        session.run(inputs, every)
    times: list[float] = []
    gc.collect()
    begin = time.perf_counter()
    while len(times) < MOST_RUNS:
        start = time.perf_counter()
        session.run(inputs, every)
        end = time.perf_counter()
        times.append(end - start)
        if end - begin >= seconds and len(times) >= LEAST_RUNS:
            break
        if len(times) % 64 == 0:
            reporter.update((end - begin) / seconds, f"{len(times):,} runs")
    latencies = Latencies()
    latencies.observe(times)
    return latencies


def _measured(provider: str, size: int, latencies: Latencies, memory_bytes: int) -> Measured:
    return Measured(
        provider=provider,
        batch_size=size,
        runs=latencies.count,
        mean_s=latencies.mean_s,
        p50_s=latencies.at(0.5),
        p99_s=latencies.at(0.99),
        rows_per_s=size / latencies.mean_s,
        memory_bytes=max(memory_bytes, 0),
    )


def _cells(row: Measured) -> tuple[str, ...]:
    return (
        row.provider,
        str(row.batch_size),
        f"{row.runs:,}",
        *(format_seconds(seconds) for seconds in (row.mean_s, row.p50_s, row.p99_s)),
        format_count(row.rows_per_s),
        f"{row.memory_bytes / 1e6:,.0f} MB",
    )


def _resident_bytes() -> int:
    """Read the memory that this process has in use; 0 where the system does not say."""
    try:
        with Path("/proc/self/statm").open() as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
