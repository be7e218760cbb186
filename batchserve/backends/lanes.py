"""Tensors from process to process through shared memory, with a socket that says what lies where.

A lane carries one run at a time: a socket, and a piece of anonymous shared memory each way. Arrays are copied in on one
side and seen as views on the other. Strings and other objects, which have no fixed size, go through the socket.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from batchserve.core.tensors import Array

__all__ = ["Closed", "Lane", "receive", "send"]

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64
_PAGE = mmap.PAGESIZE

Placed = tuple[str, tuple[int, ...], int] | Array
"""Where an array lies: dtype, shape and offset; or the array itself if it holds objects."""


class Closed(Exception):
    """The other process is gone."""


def send(end: socket.socket, message: object) -> None:
    """Send an object to the other process of this program, which is trusted.

    Raises:
        Closed: It is gone.
    """
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    try:
        end.sendall(_LENGTH.pack(len(body)) + body)
    except OSError as error:
        raise Closed from error


def receive(end: socket.socket) -> Any:
    """Wait for an object from the other process.

    Raises:
        Closed: It is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return pickle.loads(_exactly(end, length))  # noqa: S301  # our own child or parent


def _exactly(end: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = end.recv(count - len(parts))
        except OSError as error:
            raise Closed from error
        if not part:
            raise Closed
        parts += part
    return bytes(parts)


class _Memory:
    """Shared memory that one side writes and grows, and the other maps again when it has grown."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    def close(self) -> None:
        """Unmap it once no view is left; the descriptor is closed at once."""
        os.close(self._descriptor)
        self._mapped = None  # a view of it may still be alive: the mapping goes with the last one

    def put(self, arrays: Sequence[Array]) -> list[Placed]:
        """Copy arrays in, one after the other, and say where they lie."""
        placed: list[Placed] = []
        end = 0
        for array in arrays:
            if array.dtype.hasobject:
                placed.append(array)
                continue
            placed.append((array.dtype.str, array.shape, end))
            end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        mapped = self._at_least(end)
        for array, place in zip(arrays, placed, strict=True):
            if isinstance(place, tuple) and array.nbytes:
                np.copyto(_view(mapped, place), array)
        return placed

    def get(self, placed: Sequence[Placed]) -> list[Array]:
        """Return views of arrays that the other side has put; they are good until it puts others."""
        ends = [place[2] + _size(place) for place in placed if isinstance(place, tuple)]
        mapped = self._at_least(max(ends, default=0), grow=False)
        return [_view(mapped, place) if isinstance(place, tuple) else place for place in placed]

    def _at_least(self, size: int, *, grow: bool = True) -> mmap.mmap:
        mapped = self._mapped
        if mapped is None or len(mapped) < size:
            whole = max(_PAGE, 1 << max(0, size - 1).bit_length())
            if grow:
                os.ftruncate(self._descriptor, whole)
            else:
                whole = os.fstat(self._descriptor).st_size
            mapped = self._mapped = mmap.mmap(self._descriptor, whole)
        return mapped


def _size(place: tuple[str, tuple[int, ...], int]) -> int:
    return int(np.prod(place[1], dtype=np.int64)) * np.dtype(place[0]).itemsize


def _view(mapped: mmap.mmap, place: tuple[str, tuple[int, ...], int]) -> Array:
    dtype, shape, offset = place
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, dtype, count, offset).reshape(shape)


class Lane:
    """One side of a lane; one run at a time.

    Args:
        end: This side's socket.
        outgoing: Descriptor of the memory that this side writes.
        incoming: Descriptor of the memory that the other side writes.
    """

    def __init__(self, end: socket.socket, outgoing: int, incoming: int) -> None:
        self._end = end
        self._outgoing = _Memory(outgoing)
        self._incoming = _Memory(incoming)

    @classmethod
    def pair(cls) -> tuple[Lane, tuple[int, int, int]]:
        """Make a lane: this side, and the descriptors that the other side makes its own of.

        Returns:
            The lane, and the other side's socket, outgoing and incoming memory; they are to be closed here when they
            were handed over.
        """
        here, there = socket.socketpair()
        to_there, to_here = os.memfd_create("to-worker"), os.memfd_create("from-worker")
        theirs = (there.detach(), os.dup(to_here), os.dup(to_there))
        return cls(here, to_there, to_here), theirs

    def send(self, what: str, arrays: Sequence[Array], detail: object = None) -> None:
        """Hand arrays over.

        Raises:
            Closed: The other process is gone.
        """
        send(self._end, (what, self._outgoing.put(arrays), detail))

    def receive(self) -> tuple[str, list[Array], Any]:
        """Wait for arrays; they are views that are good until the next `send` of this side is answered.

        Raises:
            Closed: The other process is gone.
        """
        what, placed, detail = receive(self._end)
        return what, self._incoming.get(placed), detail

    def close(self) -> None:
        """Let the other side know, and give the memory back."""
        self._end.close()
        self._outgoing.close()
        self._incoming.close()
