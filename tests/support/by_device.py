"""Backends of several devices without a runtime."""

from __future__ import annotations

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend, FakeSession
from batchserve.config import ModelConfig

__all__ = ["ByDevice"]


class ByDevice:
    """A backend for each device."""

    def __init__(self, *backends: FakeBackend) -> None:
        self.backends = {f"cuda:{number}": backend for number, backend in enumerate(backends)}

    def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
        assert config.device is not None
        return self.backends[config.device].load(file, config)
