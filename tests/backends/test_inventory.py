"""What is read of a machine for the name of its engines' folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchserve.backends import inventory

VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (x@y)  Tue Sep 23 2025\n"


def test_version_of_the_driver_is_read_from_the_kernel(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text(VERSION)
    assert inventory.nvidia_driver(file) == "580.95.05"
    file.write_text("nothing of the kind")
    assert inventory.nvidia_driver(file) == ""
    assert inventory.nvidia_driver(tmp_path / "missing") == ""


def test_machine_of_an_engine_names_gpu_driver_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "cuda_device_names", lambda: ["NVIDIA H100", "NVIDIA A100"])
    monkeypatch.setattr(inventory, "nvidia_driver", lambda: "580.95.05")
    monkeypatch.setattr(inventory, "tensorrt_version", lambda: "10.9.0")
    machine = inventory.engine_machine(1)
    assert machine.pop("onnxruntime")
    assert machine == {"gpu": "NVIDIA A100", "driver": "580.95.05", "tensorrt": "10.9.0"}
    assert inventory.engine_machine(7)["gpu"] == ""


def test_machine_without_any_of_it_is_no_error() -> None:
    assert set(inventory.engine_machine(0)) == {"gpu", "driver", "onnxruntime", "tensorrt"}
