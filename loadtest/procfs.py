"""What Linux says about processes: processor time, memory, descriptors, threads. Any thread."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["descriptors", "family", "machine_s", "process_s", "resident_bytes", "threads", "threads_s"]

PROC = Path("/proc")


def process_s(pid: int) -> float:
    """Read the processor time of a process and all its threads, in seconds; steps of a clock tick (10 ms)."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads_s(pid: int) -> float:
    """Read the processor time of a process's present threads, in seconds, to the nanosecond."""
    total_ns = 0
    for thread in (PROC / str(pid) / "task").iterdir():
        try:
            total_ns += int((thread / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return total_ns / 1e9


def family(pid: int) -> list[int]:
    """List a process and everything it started that still runs, itself first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def machine_s() -> float:
    """Read the busy time of all processors, in seconds: everything but idle and waiting for a disk."""
    with (PROC / "stat").open() as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pids: Iterable[int]) -> int:
    """Read the memory that processes have in use; pages they share count for each."""
    pages = sum(int((PROC / str(pid) / "statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Count the open file descriptors of a process."""
    return sum(1 for _ in (PROC / str(pid) / "fd").iterdir())


def threads(pid: int) -> int:
    """Count the threads of a process."""
    return int(_stat(pid)[17])


def _stat(pid: int) -> list[str]:
    """Read the fields of a process's `stat` behind the command, which stands in parentheses and may hold anything."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
