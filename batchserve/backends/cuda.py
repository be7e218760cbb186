"""NVIDIA's driver: page-locked memory, and copies to and from a device during which other threads go on.

The copies that the runtime offers to Python hold the GIL for as long as they take (`OrtValue.update_inplace` and
`numpy`, binding an array that lies elsewhere). The driver is called through ctypes, which lets go of it for each call.

Source: the CUDA driver API, "Memory Management" and "Stream Management".
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from batchserve.core.tensors import Array

__all__ = ["CudaDevice", "CudaError", "cuda_device"]

_PORTABLE = 1
"""Flag: the memory counts as page-locked in every context of the process."""
_NON_BLOCKING = 1
"""Flag: the stream does not wait for the default stream, nor that for it."""

_POINTER = ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_POINTER, ctypes.c_int),
    "cuCtxSetCurrent": (ctypes.c_void_p,),
    "cuCtxSynchronize": (),
    "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemHostAlloc": (_POINTER, ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (ctypes.c_void_p,),
    "cuMemcpyAsync": (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p),
    "cuStreamCreate": (_POINTER, ctypes.c_uint),
    "cuStreamSynchronize": (ctypes.c_void_p,),
    "cuStreamDestroy_v2": (ctypes.c_void_p,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class CudaError(RuntimeError):
    """The driver refused; the text holds its own words, such as `out of memory`."""


class CudaDevice:
    """One device in the process's own context, which the runtime uses too. Any thread.

    Args:
        number: The driver's number, as in `device = "cuda:1"`.
        driver: The library; None loads it.

    Raises:
        CudaError: There is no driver or no such device.
    """

    name = "cuda"

    def __init__(self, number: int, driver: Any = None) -> None:
        self.number = number
        self._driver = driver or _load()
        for name, arguments in _SIGNATURES.items():
            getattr(self._driver, name).argtypes = arguments
        handle, self._context = ctypes.c_int(0), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(handle), number)
        # Never given back: it lives as long as the process anyway.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)

    def host(self, size: int) -> Array:
        """Allocate page-locked memory, `uint8[size]`, given back with the last view of it. Takes about 0.1 ms a MB.

        Raises:
            CudaError: There is not so much.
        """
        address = ctypes.c_void_p()
        self.enter()
        self._call("cuMemHostAlloc", ctypes.byref(address), size, _PORTABLE)
        memory = (ctypes.c_uint8 * size).from_address(address.value or 0)
        self._at_end(memory, "cuMemFreeHost", address)
        return np.ctypeslib.as_array(memory)

    def memory(self, size: int) -> _Memory:
        """Allocate memory of the device, given back with the object. It is outside the arenas of the runtime.

        Raises:
            CudaError: There is not so much.
        """
        address = ctypes.c_uint64()
        self.enter()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        memory = _Memory(address.value)
        self._at_end(memory, "cuMemFree_v2", address)
        return memory

    def copier(self) -> _Copier:
        """Make a stream of copies."""
        stream = ctypes.c_void_p()
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        copier = _Copier(self, stream)
        self._at_end(copier, "cuStreamDestroy_v2", stream)
        return copier

    def wait(self) -> None:
        """Wait for everything that the device was given. Blocks.

        Raises:
            CudaError: Something of it failed.
        """
        self.enter()
        self._call("cuCtxSynchronize")

    def enter(self) -> None:
        """Let the calling thread's calls be for this device."""
        self._call("cuCtxSetCurrent", self._context)

    def copy(self, target: int, source: int, size: int, stream: ctypes.c_void_p) -> None:
        """Start a copy between two addresses, of which the driver knows where they lie."""
        self.enter()
        self._call("cuMemcpyAsync", target, source, size, stream)

    def finish(self, stream: ctypes.c_void_p) -> None:
        """Wait for a stream's copies."""
        self._call("cuStreamSynchronize", stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            words = (text.value or b"unknown error").decode(errors="replace")
            raise CudaError(f"{name} failed: {words} ({code})")

    def _at_end(self, owner: object, function: str, handle: ctypes.c_void_p | ctypes.c_uint64) -> None:
        def give_back() -> None:
            with contextlib.suppress(CudaError):
                self.enter()
                self._call(function, handle)

        weakref.finalize(owner, give_back).atexit = False  # the process's end takes all of it


class _Memory:
    """Memory of a device, as long as this object lives."""

    def __init__(self, address: int) -> None:
        self.address = address


class _Copier:
    """Copies in order, beside what the device computes. One thread at a time."""

    def __init__(self, device: CudaDevice, stream: ctypes.c_void_p) -> None:
        self._device = device
        self._stream = stream

    def start(self, target: int, source: int, size: int) -> None:
        """Begin to copy so many bytes from one address to another; returns at once if the host's are page-locked."""
        self._device.copy(target, source, size, self._stream)

    def finish(self) -> None:
        """Wait until everything that was started is done. Blocks."""
        self._device.finish(self._stream)


@functools.cache
def cuda_device(number: int) -> CudaDevice:
    """Return a device; the same object each time.

    Raises:
        CudaError: There is no driver or no such device.
    """
    return CudaDevice(number)


def _load() -> Any:
    names = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
    loader: Callable[[str], Any] = getattr(ctypes, "WinDLL", ctypes.CDLL)
    try:
        return loader(names.get(sys.platform, ""))
    except OSError as error:
        raise CudaError(f"the NVIDIA driver cannot be loaded: {error}") from error
