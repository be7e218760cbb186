"""What figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["busy_cores", "processor"]


def busy_cores() -> float | None:
    """Return how many cores were wanted over the last minute, by all programs; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def processor() -> str:
    """Name the processor as well as the system can; "?" if it cannot."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (
        value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == "model name"
    )
    return next(named, platform.processor() or platform.machine() or "?")
