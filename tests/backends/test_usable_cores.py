"""Cores from affinity and cgroup quotas, with folders made up in the form the kernel gives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchserve.backends.base import Layout
from batchserve.backends.cores import cgroup_quota, layouts_on_cores, threads_per_instance, usable_cores
from batchserve.backends.providers import CPU, CUDA, TENSORRT, layouts
from batchserve.config import ModelConfig


@pytest.fixture
def machine(tmp_path: Path):
    """Write `/proc/self/cgroup` and cgroup files: `machine("0::/a", {"a/cpu.max": "..."})` gives both folders."""

    def make(cgroup: str, files: dict[str, str]) -> tuple[Path, Path]:
        proc, mount = tmp_path / "proc", tmp_path / "cgroup"
        proc.mkdir()
        (proc / "cgroup").write_text(cgroup)
        for name, content in files.items():
            path = mount / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return proc, mount

    return make


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "50000\n"}, 0.5),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "rubbish"}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        ("", {"cpu.max": "100000 100000"}, None),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "max 100000"}, 3.0),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "200000 100000"}, 2.0),
        ("0::/host/path\n", {"cpu.max": "400000 100000"}, 4.0),  # the host's path is not mounted in a container
        ("0::/../..\n", {"cpu.max": "400000 100000", "../cpu.max": "100000 100000"}, 4.0),
        ("0::/\n", {"unified/cpu.max": "250000 100000"}, 2.5),
        (
            "4:memory:/x\n3:cpu,cpuacct:/docker/ab\n0::/\n",
            {"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "200000", "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "50000"},
            4.0,
        ),
        ("1:cpu:/docker/ab\n", {"cpu/cpu.cfs_quota_us": "70000", "cpu/cpu.cfs_period_us": "100000"}, 0.7),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_quota_of_both_cgroup_versions(machine, cgroup: str, files: dict[str, str], quota: float | None):
    assert cgroup_quota(*machine(cgroup, files)) == quota


@pytest.mark.parametrize(
    ("allowed", "quota", "cores"),
    [(8, "max", 8), (8, "350000", 3), (8, "50000", 1), (2, "400000", 2), (1, "max", 1)],
)
def test_cores_are_the_smaller_of_affinity_and_quota_and_never_0(
    machine, monkeypatch: pytest.MonkeyPatch, allowed: int, quota: str, cores: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    assert usable_cores(*machine("0::/\n", {"cpu.max": f"{quota} 100000"})) == cores


def test_without_affinity_the_machines_cores_count(machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(*machine("", {})) == 6


@pytest.mark.parametrize(("cores", "instances", "threads"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (1, 1, 1)])
def test_instances_share_the_cores(cores: int, instances: int, threads: int):
    assert threads_per_instance(cores, instances) == threads


def test_this_machine_has_at_least_one():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cores", "config", "expected"),
    [
        (1, {}, [(1, 1)]),
        (2, {}, [(1, 2), (2, 1)]),
        (4, {}, [(1, 4), (2, 2), (4, 1)]),
        (16, {}, [(1, 16), (4, 4), (16, 1)]),
        (7, {}, [(1, 7), (3, 2), (7, 1)]),
        (2, {"hint": "throughput"}, [(1, 2), (2, 1)]),
        (5, {"hint": "throughput"}, [(1, 4), (2, 2), (4, 1)]),  # one is left to the event loop
        (8, {"intra_op_threads": 2}, [(1, 2), (4, 2)]),
        (2, {"intra_op_threads": 4}, [(1, 4)]),
        (8, {"instances": 2}, [(2, 4)]),
        (8, {"instances": 2, "intra_op_threads": 1}, [(2, 1)]),
        (2, {"instances": 3}, [(3, 1)]),
    ],
)
def test_layouts_worth_measuring(cores: int, config: dict[str, object], expected: list[tuple[int, int]]):
    found = layouts_on_cores(cores, ModelConfig(**config))  # type: ignore[arg-type]
    assert [(layout.instances, layout.threads) for layout in found] == expected


@pytest.mark.parametrize(
    ("wanted", "config", "expected"),
    [
        ((CPU,), {}, []),
        ((CUDA, CPU), {}, [(1, 1), (2, 1), (1, 1, True), (2, 1, True)]),
        ((CUDA, CPU), {"staging": "off"}, [(1, 1), (2, 1)]),
        ((CUDA, CPU), {"staging": "on"}, [(1, 1, True), (2, 1, True)]),
        ((CUDA, CPU), {"hint": "latency"}, [(1, 1), (1, 1, True)]),
        ((CUDA, CPU), {"instances": 3, "intra_op_threads": 2}, [(3, 2), (3, 2, True)]),
        ((TENSORRT, CUDA, CPU), {}, [(1, 1)]),
        (("OpenVINOExecutionProvider", CPU), {}, [(1, 6), (2, 6)]),
        (("DnnlExecutionProvider", CPU), {}, []),
    ],
)
def test_accelerator_is_tried_with_one_run_and_with_two_and_staged(
    wanted: tuple[str, ...], config: dict[str, object], expected: list[tuple[int, ...]]
):
    assert list(layouts(wanted, ModelConfig(**config), 6)) == [Layout(*pair) for pair in expected]  # type: ignore[arg-type]
