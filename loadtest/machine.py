"""What a measurement was made on: processor, versions, commit. Every result file carries it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

__all__ = ["commit", "describe", "facts"]

PACKAGES = (
    "batchserve",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "aiohttp",
    "httptools",
    "uvloop",
    "msgspec",
    "orjson",
)


def facts() -> dict[str, object]:
    """Say what every result says first: the command that is running, when it was asked, and on what."""
    return {
        "command": " ".join(["python", f"loadtest/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
    }


def describe() -> dict[str, object]:
    """Describe the machine and the versions of what runs on it; what cannot be found out is left out."""
    return {
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.processor(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory": _first_value("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "packages": _versions(),
        "commit": commit(),
    }


def commit() -> str:
    """Name the commit of this checkout, with `-dirty` behind it if any file differs or is new; "" outside one."""
    try:
        name, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{name}-dirty" if changes else name


def _git(*arguments: str) -> str:
    """Ask git about this checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _versions() -> dict[str, str]:
    """Versions of the packages that matter and are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _first_value(path: str, key: str) -> str:
    """Find the first `key: value` line of a file of such lines; "" if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), ""
    )
