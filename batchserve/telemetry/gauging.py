"""The metrics with what feeds them beside the engine: the loop's lag, the collector's pauses, the GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchserve.telemetry.gpu import GpuWatch
from batchserve.telemetry.looplag import LoopLag
from batchserve.telemetry.metrics import Metrics
from batchserve.telemetry.pauses import GcPauses

if TYPE_CHECKING:
    import asyncio

__all__ = ["Gauging"]


class Gauging:
    """All that measures one process. Whoever starts it stops it; event loop only.

    Args:
        runtime_version: Version of ONNX Runtime.

    Attributes:
        metrics: What listens to the engine and writes the page.
    """

    def __init__(self, runtime_version: str) -> None:
        self._pauses = GcPauses()
        self._gpus = GpuWatch()
        self.metrics = Metrics(runtime_version, pauses=self._pauses)
        self.metrics.watch_gpus(lambda: self._gpus.readings)
        self._lag = LoopLag(self.metrics.observe_lag)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to measure. Does nothing if it measures already."""
        self._lag.start(loop)
        self._pauses.start()
        self._gpus.start()

    def stop(self) -> None:
        """Stop at once. May be called again."""
        self._lag.stop()
        self._pauses.stop()
        self._gpus.stop()
