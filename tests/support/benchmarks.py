"""The modules of loadtest/, which lies beside the package and is not installed with it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from loadtest import (
    batching,
    client,
    comparison,
    conversation,
    findings,
    generator,
    hotpath_scenarios,
    machine,
    mlperf,
    mlperf_tables,
    models,
    procfs,
    questions,
    report,
    scrape,
    server,
    soak,
    trouble,
    tuning,
    wire,
    wrk,
)

__all__ = [
    "batching",
    "client",
    "comparison",
    "conversation",
    "findings",
    "generator",
    "hotpath_scenarios",
    "machine",
    "mlperf",
    "mlperf_tables",
    "models",
    "procfs",
    "questions",
    "report",
    "scrape",
    "server",
    "soak",
    "trouble",
    "tuning",
    "wire",
    "wrk",
]
