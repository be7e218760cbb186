"""What an ONNX file says about its inputs and outputs, read without a runtime.

ONNX Runtime tells this only after a session exists, when its options can no longer be changed, and it shows a scalar
and a tensor of unknown rank alike. This reads the few bytes that are needed and jumps over the weights.

Source: onnx/onnx `onnx/onnx.proto` (field numbers), and the protocol buffers encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Axes", "Header", "header_of", "read_header"]

Axes = tuple[int | str | None, ...]
"""One entry per axis: its size, its name if it is free and has one, else None."""

HALVES = (10, 16)
"""TensorProto.DataType of FP16 and BF16."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Header:
    """The graph's tensors by name. None in place of axes: the file does not say the rank (or it is no tensor).

    Attributes:
        inputs: Inputs, which in old files include the weights.
        outputs: Outputs.
        has_half_weights: True if a weight is FP16 or BF16.
    """

    inputs: dict[str, Axes | None]
    outputs: dict[str, Axes | None]
    has_half_weights: bool = False

    @property
    def is_dynamic(self) -> bool:
        """True if any axis of any tensor may change from run to run."""
        every = [*self.inputs.values(), *self.outputs.values()]
        return any(axes is None or any(not isinstance(axis, int) for axis in axes) for axes in every)


def read_header(path: Path) -> Header | None:
    """Read a model file's inputs and outputs; None if it is not an ONNX file that this understands.

    Reads a few pages of the file, whatever its size. Never raises on the file's content: the runtime has the last
    word on whether it is a model.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _header(_Message(mapped, 0, len(mapped)))
    except (OSError, ValueError, IndexError):  # unreadable, empty, or not protocol buffers
        return None


def header_of(content: bytes) -> Header | None:
    """Do as `read_header`, for a file's content."""
    try:
        return _header(_Message(content, 0, len(content)))
    except (ValueError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class _Message:
    """A stretch of the file that holds one message: offsets, so that nothing keeps the mapping open."""

    file: mmap.mmap | bytes
    start: int
    end: int

    def fields(self) -> Iterator[tuple[int, int | _Message]]:
        at = self.start
        while at < self.end:
            tag, at = self._varint(at)
            kind = tag & 7
            value: int | _Message = 0
            if kind == VARINT:
                value, at = self._varint(at)
            elif kind == BYTES:
                size, at = self._varint(at)
                if not 0 <= size <= self.end - at:
                    raise ValueError("a field reaches past the end")
                value, at = _Message(self.file, at, at + size), at + size
            elif kind in (FIXED64, FIXED32):
                at += 8 if kind == FIXED64 else 4
            else:
                raise ValueError(f"wire type {kind} is not used by ONNX")
            yield tag >> 3, value

    def last(self, number: int) -> _Message | None:
        """Find a field that holds bytes; of several the last counts, as protocol buffers have it."""
        found = [value for field, value in self.fields() if field == number and isinstance(value, _Message)]
        return found[-1] if found else None

    def text(self) -> str:
        return self.file[self.start : self.end].decode("utf-8", errors="replace")

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.file[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value - (1 << 64) if value >> 63 else value), at
        raise ValueError("a number has more than ten bytes")


def _header(model: _Message) -> Header | None:
    graph = model.last(7)
    if graph is None:
        return None
    tensors: dict[int, dict[str, Axes | None]] = {11: {}, 12: {}}
    has_half = False
    for number, value in graph.fields():
        if number in tensors and isinstance(value, _Message):
            name = value.last(1)
            tensors[number][name.text() if name else ""] = _axes(value)
        elif number == 5 and isinstance(value, _Message) and not has_half:
            has_half = any(field == 2 and kind in HALVES for field, kind in value.fields())
    return Header(tensors[11], tensors[12], has_half)


def _axes(info: _Message) -> Axes | None:
    shape: _Message | None = info
    for number in (2, 1, 2):  # ValueInfoProto.type, TypeProto.tensor_type, TypeProto.Tensor.shape
        shape = shape.last(number) if shape else None
    if shape is None:
        return None
    return tuple(_axis(dim) for number, dim in shape.fields() if number == 1 and isinstance(dim, _Message))


def _axis(dim: _Message) -> int | str | None:
    for number, value in dim.fields():
        if number == 1 and isinstance(value, int):
            return value if value >= 0 else None  # some exporters write -1 for a free axis
        if number == 2 and isinstance(value, _Message):
            return value.text() or None
    return None
