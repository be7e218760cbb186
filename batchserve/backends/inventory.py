"""Looks at what a machine has: drivers, devices, libraries, and which providers start and why not."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchserve.backends import providers
from batchserve.backends.runtime import plain_text, require_runtime

__all__ = [
    "Library",
    "ProviderState",
    "cuda_device_names",
    "cuda_driver",
    "engine_machine",
    "libraries",
    "nvidia_driver",
    "start_providers",
    "tensorrt_version",
]

PROBE = (
    b'\x08\x07\x12\x00:=\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x14\n\x01x\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n'
    b"\n\x02\x08\x04b\x14\n\x01y\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n\n\x02\x08\x04B\x04\n\x00\x10\r"
)
"""A model of one Relu, `float32[n, 4]`, that every provider can run."""

LIBRARIES = (
    ("libcuda.so.1", "the NVIDIA driver"),
    ("libcudart.so.13", "CUDA 13, for onnxruntime-gpu 1.27 and later"),
    ("libcublas.so.13", "CUDA 13"),
    ("libcudnn.so.9", "cuDNN 9"),
    ("libnvinfer.so.10", "TensorRT 10"),
)


@dataclass(frozen=True, slots=True)
class Library:
    """A library that a provider needs: `error` is "" if it can be loaded by its name."""

    name: str
    meaning: str
    error: str


@dataclass(frozen=True, slots=True)
class ProviderState:
    """A provider that is compiled in: `error` is "" if a session with it was made and ran."""

    name: str
    error: str


def libraries() -> Iterator[Library]:
    """Try to load what the accelerators need."""
    for name, meaning in LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            yield Library(name, meaning, str(error).partition(":")[2].strip() or str(error))
        else:
            yield Library(name, meaning, "")


def cuda_driver() -> str:
    """Return the CUDA version that the driver supports, such as `13.0`; "" without a driver."""
    try:
        driver, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return ""
    except (OSError, AttributeError):
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def cuda_device_names() -> list[str]:
    """List the CUDA devices that this process may use, in the driver's order."""
    names = []
    for number in range(providers.cuda_devices()):
        driver, handle, text = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0), ctypes.create_string_buffer(100)
        if driver.cuDeviceGet(ctypes.byref(handle), number) == 0 and driver.cuDeviceGetName(text, 100, handle) == 0:
            names.append(text.value.decode(errors="replace"))
    return names


def nvidia_driver(proc: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the version of the NVIDIA driver; "" without one."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", proc.read_text("ascii", "replace"))
    except OSError:
        return ""
    return found[0] if found else ""


def tensorrt_version() -> str:
    """Return the version of the TensorRT library that is found, such as `10.9.0`; "" without one."""
    try:
        number = int(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):
        return ""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def engine_machine(number: int) -> dict[str, str]:
    """Say what an engine depends on besides its model: the GPU of that number, driver and libraries."""
    names = cuda_device_names()
    return {
        "gpu": names[number] if number < len(names) else "",
        "driver": nvidia_driver() or cuda_driver(),
        "onnxruntime": str(require_runtime().__version__),
        "tensorrt": tensorrt_version(),
    }


def start_providers(runtime: Any, names: Sequence[str]) -> Iterator[ProviderState]:
    """Make a session of the probe on each provider and run it. Blocks; an accelerator takes seconds to start."""
    import numpy as np

    for name in names:
        try:
            options = runtime.SessionOptions()
            options.log_severity_level = 4
            session = runtime.InferenceSession(PROBE, options, providers=[name], enable_fallback=0)
            session.run(["y"], {"x": np.ones((1, 4), np.float32)})
            in_use = session.get_providers()
        except Exception as error:  # noqa: BLE001  # the runtime's errors share no other base class
            yield ProviderState(name, plain_text(error))
        else:
            missing = providers.library_remedy(name)
            yield ProviderState(name, "" if name in in_use else f"it could not be started: {missing}")
