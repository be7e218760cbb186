"""A device that is the host: runs are staged for real on a machine without a GPU."""

from __future__ import annotations

import ctypes
import threading

import numpy as np

from batchserve.core.tensors import Array

__all__ = ["HostDevice"]


class HostDevice:
    """Memory of the CPU provider. Copies are made when they are waited for, as late as a real device may make them.

    Attributes:
        most_bytes: `host` refuses more than that.
        waits: How often everything was waited for.
    """

    name = "cpu"
    number = 0

    def __init__(self, most_bytes: int = 1 << 40) -> None:
        self.most_bytes = most_bytes
        self.waits = 0
        self.copiers = 0

    def host(self, size: int) -> Array:
        if size > self.most_bytes:
            raise MemoryError(f"{size} bytes cannot be page-locked")
        return np.full(size, 0xAB, np.uint8)

    def memory(self, size: int) -> _Piece:
        assert size > 0
        return _Piece(size)

    def copier(self) -> _LateCopier:
        self.copiers += 1
        return _LateCopier()

    def wait(self) -> None:
        self.waits += 1


class _Piece:
    """Memory that holds other values than 0 at first, and again once it is given back."""

    def __init__(self, size: int) -> None:
        self._array = np.full(size, 0xCD, np.uint8)
        self.address = self._array.ctypes.data

    def __del__(self) -> None:
        self._array[:] = 0xEE


class _LateCopier:
    def __init__(self) -> None:
        self._started: list[tuple[int, int, int]] = []
        self._thread = 0

    def start(self, target: int, source: int, size: int) -> None:
        assert target, "nothing lies at 0"
        assert source, "nothing lies at 0"
        assert not self._started or self._thread == threading.get_ident(), "two threads use one lane"
        self._thread = threading.get_ident()
        self._started.append((target, source, size))

    def finish(self) -> None:
        started, self._started = self._started, []
        for target, source, size in started:
            ctypes.memmove(target, source, size)
