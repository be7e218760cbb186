"""What the NVIDIA driver says about the GPUs, once a second, on a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = ["GpuReading", "GpuWatch"]

PERIOD_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment.

    Attributes:
        gpu: The driver's index.
        name: Its product name.
        uuid: Its identity across restarts.
        values: By metric; what the driver does not tell about this GPU is missing.
    """

    gpu: str
    name: str
    uuid: str
    values: Mapping[str, float]


class GpuWatch:
    """Reads the GPUs between `start` and `stop`. Silent where there is no driver, no GPU, or no nvidia-ml-py.

    The driver may take milliseconds to answer, so a thread asks it and the event loop reads what was last heard.

    Args:
        library: What to use as `pynvml`; None imports it.
        visible: Which GPUs this process may use, as `CUDA_VISIBLE_DEVICES` says it; None reads that variable.
        period_s: Seconds from one reading to the next.
    """

    def __init__(
        self, library: ModuleType | None = None, visible: str | None = None, period_s: float = PERIOD_S
    ) -> None:
        self._library: Any = library
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        self._period_s = period_s
        self._readings: tuple[GpuReading, ...] = ()
        self._energy_j: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.heard = threading.Event()
        """Set once the GPUs have been read for the first time, or it is clear that there are none."""

    @property
    def readings(self) -> tuple[GpuReading, ...]:
        """What was last heard; empty before the first time and where there is nothing. Any thread."""
        return self._readings

    def start(self) -> None:
        """Begin to read. Does nothing if it reads already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Read no longer. Returns at once; the thread ends after what it does now. May be called again."""
        self._stopping.set()

    def _watch(self) -> None:
        if self._library is None:
            try:
                import pynvml
            except ImportError:
                logger.debug("no GPU metrics: nvidia-ml-py is not installed (batchserve[gpu-metrics])")
                self.heard.set()
                return
            self._library = pynvml
        nvml = self._library
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            logger.debug("no GPU metrics: %s", error)
            self.heard.set()
            return
        try:
            handles = self._handles()
            while True:
                self._readings = tuple(self._read(gpu, handle) for gpu, handle in handles)
                self.heard.set()
                if self._stopping.wait(self._period_s):
                    return
        except nvml.NVMLError as error:  # a GPU that fell off the bus, or a driver that is being replaced
            logger.warning("GPU metrics end here: %s", error)
        finally:
            self._readings = ()
            self.heard.set()
            nvml.nvmlShutdown()

    def _handles(self) -> list[tuple[str, Any]]:
        """Find the GPUs that this process may use."""
        nvml = self._library
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if _is_visible(index, _text(nvml.nvmlDeviceGetUUID(handle)), self._visible):
                found.append((str(index), handle))
        return found

    def _read(self, gpu: str, handle: Any) -> GpuReading:
        nvml, values = self._library, {}
        utilization = self._ask("nvmlDeviceGetUtilizationRates", handle)
        if utilization is not None:
            values["batchserve_gpu_utilization_ratio"] = utilization.gpu / 100
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        if memory is not None:
            values["batchserve_gpu_memory_used_bytes"] = float(memory.used)
            values["batchserve_gpu_memory_bytes"] = float(memory.total)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage", handle)
        if milliwatts is not None:
            values["batchserve_gpu_power_watts"] = milliwatts / 1e3
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        if millijoules is not None:
            first_j = self._energy_j.setdefault(gpu, millijoules / 1e3)  # the driver counts from its own start
            values["batchserve_gpu_energy_joules_total"] = max(0.0, millijoules / 1e3 - first_j)
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        return GpuReading(gpu, _text(name), _text(uuid), values)

    def _ask(self, question: str, handle: Any) -> Any:
        """Ask the driver one thing; None if this GPU cannot tell, as a slice of one often cannot."""
        nvml = self._library
        try:
            return getattr(nvml, question)(handle)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
            return None


def _is_visible(index: int, uuid: str, visible: str | None) -> bool:
    """Say whether CUDA's variable lets a GPU through: it names indices or beginnings of UUIDs, up to a bad one."""
    if visible is None:
        return True
    for word in (word.strip() for word in visible.split(",")):
        if word == str(index) or (word.startswith("GPU-") and uuid.startswith(word)):
            return True
        if not word or word.startswith("-"):
            return False
    return False


def _text(value: str | bytes) -> str:
    """Older versions of the library answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value
