"""Runs through buffers of one's own: page-locked on the host, and bound on the device.

`session.run` copies inputs from pageable memory to the device and outputs back to it, which halves the speed of a copy
and makes the driver wait for it. Here a run takes a lane: its inputs are copied to page-locked memory and from there to
the lane's buffers on the device, which are bound once for each shape; outputs stay on the device until they are copied
back the same way. While one lane copies, another one's run may compute.

Whether that is quicker depends on the device and the model, so it is one more layout that the calibration compares.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from batchserve.backends.cuda import CudaError, cuda_device
from batchserve.backends.providers import CUDA
from batchserve.backends.tensors import GraphTensor
from batchserve.core.tensors import Array
from batchserve.errors import ModelLoadError

__all__ = [
    "Buffer",
    "Copier",
    "Device",
    "Host",
    "Memory",
    "StagedRuns",
    "check_bindable",
    "device_of",
    "fetch",
    "stage",
]

LEAST_BYTES = 1 << 12
_ALIGNMENT = 64

log = logging.getLogger(__name__)


class Copier(Protocol):
    """Copies in order. One thread at a time."""

    def start(self, target: int, source: int, size: int) -> None:
        """Begin to copy so many bytes from one address to another."""
        ...

    def finish(self) -> None:
        """Wait until everything that was started is done. Blocks."""
        ...


class Memory(Protocol):
    """Memory of a device."""

    @property
    def address(self) -> int:
        """Where it begins."""
        ...


class Device(Protocol):
    """Where a session's tensors lie, and the host's memory that is quick to copy there. Any thread.

    Attributes:
        name: As the runtime's bindings take it, such as `cuda`.
        number: Which of that kind.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def number(self) -> int:
        """See the class."""
        ...

    def host(self, size: int) -> Array:
        """Allocate memory of the host, `uint8[size]`; it lives as long as a view of it."""
        ...

    def memory(self, size: int) -> Memory:
        """Allocate memory where tensors lie, of at least one byte; it lives as long as the object."""
        ...

    def copier(self) -> Copier:
        """Make a stream of copies."""
        ...

    def wait(self) -> None:
        """Wait for everything that the device was given. Blocks."""
        ...


class NoRoom(RuntimeError):
    """There is no page-locked memory for a run."""


class Host:
    """Memory of the host that grows. One thread at a time.

    Args:
        device: What it is copied to and from.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: Array = np.empty(0, np.uint8)
        self.address = 0

    @property
    def size(self) -> int:
        """Bytes that there are."""
        return self._memory.nbytes

    def need(self, size: int) -> bool:
        """Make it large enough; True if it is another piece of memory now.

        Raises:
            NoRoom: There is not so much; what there was stays.
        """
        if size <= self.size:
            return False
        try:
            self._memory = self._device.host(max(LEAST_BYTES, 1 << (size - 1).bit_length()))
        except (CudaError, MemoryError) as error:
            raise NoRoom(str(error)) from error
        self.address = self._memory.ctypes.data
        return True

    def view(self, shape: Sequence[int], dtype: np.dtype[Any], offset: int = 0) -> Array:
        """Return a piece of it as an array."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._memory[offset : offset + size].view(dtype).reshape(shape)


class Buffer:
    """Memory of one input on the host and on the device. One thread at a time.

    Attributes:
        address: Where it lies on the device.
    """

    def __init__(self, device: Device, copier: Copier) -> None:
        self._device = device
        self._copier = copier
        self._host = Host(device)
        self._memory: Memory | None = None
        self._view: Array | None = None
        self.address = 0

    def put(self, array: Array) -> bool:
        """Start to copy an array to the device; True if its shape or its place there is another than before.

        Raises:
            NoRoom: There is no page-locked memory for it.
        """
        is_new = self._host.need(max(1, array.nbytes))
        if is_new:
            self._memory = self._device.memory(self._host.size)
            self.address = self._memory.address
        if is_new or self._view is None or self._view.shape != array.shape:
            self._view = self._host.view(array.shape, array.dtype)
            is_new = True
        np.copyto(self._view, array)
        if array.nbytes:
            self._copier.start(self.address, self._host.address, array.nbytes)
        return is_new


class _Lane:
    """The buffers and the binding of one run at a time.

    Invariant: between runs no output is bound, so none that was handed out is written again.
    """

    def __init__(self, session: Any, device: Device, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self._session = session
        self._device = device
        self._dtypes = dtypes
        self._binding = session.io_binding()
        self._copier = device.copier()
        self._inputs: dict[str, Buffer] = {}
        self._answers = Host(device)

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        """Run as the runtime's session does.

        Raises:
            NoRoom: There is no page-locked memory for it.
        """
        place = (self._device.name, self._device.number)
        try:
            for name, array in feeds.items():
                buffer = self._inputs.get(name)
                if buffer is None:
                    buffer = self._inputs[name] = Buffer(self._device, self._copier)
                if buffer.put(array):
                    self._binding.bind_input(name, *place, array.dtype, array.shape, buffer.address)
            for name in names:
                self._binding.bind_output(name, *place)
            self._copier.finish()
            self._session.run_with_iobinding(self._binding, options)
            values = zip(names, self._binding.get_outputs(), strict=True)
            found = [(value.data_ptr(), tuple(value.shape()), self._dtypes[name]) for name, value in values]
            return fetch(self._answers, self._copier, found)
        finally:
            self._binding.clear_binding_outputs()


def fetch(host: Host, copier: Copier, found: Sequence[tuple[int, tuple[int, ...], np.dtype[Any]]]) -> list[Array]:
    """Copy tensors from the device, each to an array of its own. Blocks.

    Args:
        host: Memory on the way; what is in it is lost.
        copier: Carries the copies.
        found: Address on the device, shape and element type of each.

    Raises:
        NoRoom: There is no page-locked memory for them.
    """
    offsets, end = [], 0
    for _, shape, dtype in found:
        offsets.append(end)
        end += -(-int(np.prod(shape, dtype=np.int64)) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    host.need(end)
    views = [host.view(shape, dtype, offset) for (_, shape, dtype), offset in zip(found, offsets, strict=True)]
    for (address, _, _), offset, view in zip(found, offsets, views, strict=True):
        if view.nbytes:
            copier.start(host.address + offset, address, view.nbytes)
    copier.finish()
    return [view.copy() for view in views]


class StagedRuns:
    """Takes the place of the runtime's session for `run`. Any thread, several at once.

    Args:
        session: The runtime's session.
        device: Where its tensors lie.
        dtypes: Element types of its outputs by name.
    """

    def __init__(self, session: Any, device: Device, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self._session = session
        self._device = device
        self._dtypes = dtypes
        self._lanes: list[_Lane] = []  # free ones: there are as many as there were runs at once
        self._is_full = False

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        """Run as the runtime's session does, with its errors; the arrays returned are the caller's own."""
        if not self._is_full:
            with contextlib.suppress(NoRoom):
                return self._run_staged(names, feeds, options)
        outputs: list[Array] = self._session.run(names, feeds, options)
        return outputs

    def _run_staged(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        try:
            lane = self._lanes.pop()
        except IndexError:
            lane = _Lane(self._session, self._device, self._dtypes)
        try:
            outputs = lane.run(names, feeds, options)
        except BaseException as error:
            # The lane goes, and what the device was given may still be reading its memory.
            with contextlib.suppress(CudaError):
                self._device.wait()
            if isinstance(error, NoRoom):
                self._is_full = True
                self._lanes.clear()
                log.warning("runs go without page-locked memory from now on: %s", error)
            raise
        if not self._is_full:
            self._lanes.append(lane)
        return outputs


def device_of(providers: Sequence[str], number: int) -> Device:
    """Find the device that a session's tensors lie on.

    Args:
        providers: The session's, most preferred first.
        number: Which of the first one's devices.

    Raises:
        ModelLoadError: It is none of those that can be copied to from here.
    """
    if providers[0] != CUDA:
        raise ModelLoadError(f"it works on CUDA, and the model runs on {providers[0]}")
    try:
        return cuda_device(number)
    except CudaError as error:
        raise ModelLoadError(str(error)) from error


def stage(session: Any, device: Device, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> StagedRuns:
    """Make the runs of a session that go through buffers of its own.

    Raises:
        ModelLoadError: Some tensor cannot be bound on the device.
    """
    check_bindable(session, device, inputs, outputs)
    return StagedRuns(session, device, {tensor.name: tensor.datatype.dtype for tensor in outputs})


def check_bindable(session: Any, device: Device, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> None:
    """Refuse a session with a tensor that cannot be bound on the device.

    Raises:
        ModelLoadError: One holds strings, or is read by the runtime on the host: binding would copy it there once and
            not again.
    """
    for tensor in (*inputs, *outputs):
        if tensor.datatype.dtype.hasobject:
            raise ModelLoadError(f"{tensor.kind} {tensor.name!r} holds strings, which stay on the host")
    if device.name == "cpu":
        return
    places = dict(zip((node.name for node in session.get_inputs()), session.get_input_memory_infos(), strict=True))
    for tensor in inputs:
        place = str(places[tensor.name].name).lower()
        if place.startswith("cpu") or "pinned" in place:
            raise ModelLoadError(f"input {tensor.name!r} is read on the host, not on the device")
