"""The NVIDIA driver as it is called, against one that keeps its memory on the host."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

from batchserve.backends import cuda
from batchserve.backends.cuda import CudaDevice, CudaError
from batchserve.backends.runtime import is_out_of_memory

OUT_OF_MEMORY, INVALID_DEVICE = 2, 101
WORDS = {OUT_OF_MEMORY: b"out of memory", INVALID_DEVICE: b"invalid device ordinal"}


class Driver:
    """Answers as `libcuda` does, and writes down what it was asked.

    Attributes:
        calls: Names in order.
        memory: Page-locked pieces by address.
        streams: What was started on each and not waited for.
    """

    def __init__(self, devices: int = 1, most_bytes: int = 1 << 20) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[tuple[int, int, int]]] = {}
        self.context = 0
        self._devices, self._most_bytes = devices, most_bytes
        for name in cuda._SIGNATURES:
            setattr(self, name, self._function(name))

    def _function(self, name: str) -> Any:
        answer = getattr(self, f"_{name}")

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return int(answer(*[getattr(one, "_obj", getattr(one, "value", one)) for one in arguments]))

        return call

    def _cuInit(self, flags: int) -> int:
        return flags

    def _cuDeviceGet(self, handle: Any, number: int) -> int:
        handle.value = 40 + number
        return 0 if number < self._devices else INVALID_DEVICE

    def _cuDevicePrimaryCtxRetain(self, context: Any, handle: int) -> int:
        context.value = 1000 + handle
        return 0

    def _cuCtxSetCurrent(self, context: int) -> int:
        self.context = context
        return 0

    def _cuCtxSynchronize(self) -> int:
        return 0

    def _cuMemAlloc_v2(self, address: Any, size: int) -> int:
        return self._cuMemHostAlloc(address, size, 1)

    def _cuMemFree_v2(self, address: int) -> int:
        return self._cuMemFreeHost(address)

    def _cuMemHostAlloc(self, address: Any, size: int, flags: int) -> int:
        assert flags == 1
        if size > self._most_bytes:
            return OUT_OF_MEMORY
        piece = ctypes.create_string_buffer(size)
        address.value = ctypes.addressof(piece)
        self.memory[address.value] = piece
        return 0

    def _cuMemFreeHost(self, address: int) -> int:
        del self.memory[address]
        return 0

    def _cuStreamCreate(self, stream: Any, flags: int) -> int:
        assert flags == 1, "it must not wait for the default stream"
        stream.value = 7 + len(self.streams)
        self.streams[stream.value] = []
        return 0

    def _cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> int:
        assert self.context, "the thread has no context"
        self.streams[stream].append((target, source, size))
        return 0

    def _cuStreamSynchronize(self, stream: int) -> int:
        for copy in self.streams[stream]:
            ctypes.memmove(*copy)
        self.streams[stream] = []
        return 0

    def _cuStreamDestroy_v2(self, stream: int) -> int:
        del self.streams[stream]
        return 0

    def _cuGetErrorString(self, code: int, text: Any) -> int:
        text.value = WORDS[code]
        return 0


def test_copies_are_started_in_order_and_done_when_waited_for() -> None:
    driver = Driver(devices=2)
    device = CudaDevice(1, driver)
    memory, copier = device.host(64), device.copier()
    assert (memory.dtype, memory.shape, memory.flags.writeable) == (np.uint8, (64,), True)
    memory[:8] = 1
    address = memory.ctypes.data
    copier.start(address + 8, address, 8)
    copier.start(address + 16, address + 8, 8)
    assert len(next(iter(driver.streams.values()))) == 2
    copier.finish()
    assert memory[:24].tolist() == [1] * 24
    assert driver.context == 1041, "that of the device that was asked for"
    device.wait()
    assert driver.calls[-2:] == ["cuCtxSetCurrent", "cuCtxSynchronize"]


def test_memory_and_streams_are_given_back_with_their_last_user() -> None:
    driver = Driver()
    device = CudaDevice(0, driver)
    view = device.host(100)[4:8].view(np.float32)
    there, copier = device.memory(100), device.copier()
    gc.collect()
    assert (len(driver.memory), len(driver.streams)) == (2, 1)
    assert there.address in driver.memory
    view[:] = 2.5
    del view, there, copier
    gc.collect()
    assert (driver.memory, driver.streams) == ({}, {})


def test_what_the_driver_refuses_is_said_in_its_words() -> None:
    with pytest.raises(CudaError, match=r"cuDeviceGet failed: invalid device ordinal \(101\)"):
        CudaDevice(1, Driver())
    with pytest.raises(CudaError, match=r"cuMemHostAlloc failed: out of memory \(2\)"):
        CudaDevice(0, Driver()).host(1 << 21)
    with pytest.raises(CudaError, match=r"cuMemAlloc_v2 failed: out of memory \(2\)") as error:
        CudaDevice(0, Driver()).memory(1 << 21)
    assert is_out_of_memory(error.value), "the engine then runs smaller batches"


def test_addresses_are_not_cut_to_32_bits() -> None:
    """Without types ctypes hands integers over as C's `int`."""
    driver = Driver()
    CudaDevice(0, driver)
    wide = [ctypes.sizeof(one) for one in driver.cuMemcpyAsync.argtypes]
    assert wide == [8, 8, ctypes.sizeof(ctypes.c_size_t), ctypes.sizeof(ctypes.c_void_p)]


def test_machine_without_a_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.sys, "platform", "nowhere")
    monkeypatch.setattr(cuda.ctypes, "CDLL", _missing)
    with pytest.raises(CudaError, match="the NVIDIA driver cannot be loaded: no such file"):
        CudaDevice(0)


def _missing(name: str) -> Any:
    raise OSError("no such file")
