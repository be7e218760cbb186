"""How many processor cores this process may use: its CPU set, capped by its cgroup's quota."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from batchserve.backends.base import Layout
from batchserve.config import ModelConfig, show_cores
from batchserve.errors import ModelLoadError

__all__ = ["cgroup_quota", "cores_for", "layouts_on_cores", "threads_per_instance", "usable_cores"]

PROC = Path("/proc/self")
MOUNT = Path("/sys/fs/cgroup")


def usable_cores(proc: Path = PROC, mount: Path = MOUNT) -> int:
    """Count the cores this process may keep busy, at least 1.

    ONNX Runtime looks at neither limit: left to itself it starts a thread for every core of the machine. A quota with
    a fraction is rounded down, because threads beyond the quota make the kernel stop all of them, the event loop too.

    Args:
        proc: This process's folder in procfs.
        mount: Where cgroups are mounted.
    """
    # macOS and Windows have neither CPU sets of this kind nor cgroups.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(proc, mount)
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def cores_for(config: ModelConfig) -> int:
    """Count the cores that a model may keep busy: those of its `cpu_affinity`, or all that are usable.

    Raises:
        ModelLoadError: `cpu_affinity` names cores that this process may not use.
    """
    usable = usable_cores()
    if not config.cpu_affinity:
        return usable
    if not hasattr(os, "sched_setaffinity"):
        raise ModelLoadError("cpu_affinity needs a system that keeps threads on cores, which Linux does: leave it out")
    allowed = os.sched_getaffinity(0)
    if foreign := [core for core in config.cpu_affinity if core not in allowed]:
        raise ModelLoadError(
            f"cpu_affinity names the cores {show_cores(foreign)}, but this process may only use "
            f"{show_cores(sorted(allowed))}: correct it, or give the process more (taskset, a container's cpuset)"
        )
    return min(usable, len(config.cpu_affinity))


def threads_per_instance(cores: int, instances: int) -> int:
    """Share cores among instances that run at once; never 0, which would mean "every core, pinned" to the runtime."""
    return max(1, cores // max(1, instances))


def layouts_on_cores(cores: int, config: ModelConfig) -> tuple[Layout, ...]:
    """List the ways to share the cores among runs that are worth measuring, one run on all of them first.

    Between one run on all cores and one run on each lies one in the middle, with about as many runs as threads. A
    number in the configuration leaves no choice. For throughput one core is left to the event loop where there are more
    than two, and the configuration does not say which cores are for the model.
    """
    if config.instances is not None:
        return (Layout(config.instances, config.intra_op_threads or threads_per_instance(cores, config.instances)),)
    if config.hint == "throughput" and cores > 2 and not config.cpu_affinity:
        cores -= 1
    if config.intra_op_threads:
        most = max(1, cores // config.intra_op_threads)
        return tuple(Layout(count, config.intra_op_threads) for count in sorted({1, most}))
    middle = round(math.sqrt(cores))
    return tuple(Layout(count, threads_per_instance(cores, count)) for count in sorted({1, middle, cores}))


def cgroup_quota(proc: Path = PROC, mount: Path = MOUNT) -> float | None:
    """Read the smallest CPU quota on the way from this process's cgroup to the root, in cores; None if there is none.

    Source: the kernel's admin guide, cgroup-v2 (`cpu.max`) and cgroup-v1 CFS bandwidth control (`cpu.cfs_quota_us`).
    Inside a container the path in `/proc/self/cgroup` may be the host's, which is not mounted there: folders that do
    not exist are passed over and the mount's own root is always looked at.
    """
    quotas = [quota for folder in _folders(proc, mount) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(proc: Path, mount: Path) -> Iterator[Path]:
    for line in _read(proc / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            roots = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mount / controllers, mount / "cpu", mount / "cpu,cpuacct"]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _quota(folder: Path) -> float | None:
    if unified := _read(folder / "cpu.max").split():
        quota, period = unified[0], unified[1] if len(unified) > 1 else "100000"
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return cores if cores > 0 else None  # -1 is version 1's word for no limit


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
