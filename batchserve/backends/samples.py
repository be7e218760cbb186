"""Random inputs that a model accepts, for the proof of its batchability and for warm-up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from batchserve.backends.tensors import GraphTensor
from batchserve.core.tensors import Array

__all__ = ["Mask", "Settings", "candidates", "draw", "draw_distinct", "find_mask", "take"]

LENGTHS = (5, 8, 16, 32, 64, 128, 224, 256, 384, 512, 640, 1024, 7, 6, 4, 3, 2, 1)
"""Sizes tried for free axes: short ones that are not 1 first (a softmax over one element is always 1), then those that
image and text models are built for, then the rest."""

MAX_ROW_ELEMENTS = 1 << 22
"""Longer free axes are not tried where they would make a row of an input larger than this (16 MiB of float32)."""
REDRAWS = 20
MOST_OF_PIXELS = 255


@dataclass(frozen=True, slots=True)
class Mask:
    """The input that tells a model which elements of a row count. Noise in it would make rows that nobody sends.

    Attributes:
        name: The input.
        axis: Its axis along the row's elements; None if it holds each row's length instead.
        kept: What stands for an element that counts.
        padding: What stands for one that does not.
    """

    name: str
    axis: int | None
    kept: float = 1
    padding: float = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """How to draw inputs.

    Attributes:
        length: Size of every free axis but the batch.
        floats: `normal`, `unit` (even over 0 to 1) or `wide` (normal times 10).
        most: Integers are drawn from 0 to this: 1, or 0 where the model takes no 1.
        strings: `words`, or `numbers` in words' place.
        is_first_free: True if a free first axis is as long as the others instead of one entry per row: the model's
            first axis is no batch.
        mask: The input in which the first elements of each row, one at least, count and the others do not.
    """

    length: int = LENGTHS[0]
    floats: str = "normal"
    most: int = 1
    strings: str = "words"
    is_first_free: bool = False
    mask: Mask | None = None

    def __str__(self) -> str:
        return f"free axes {self.length}, floats {self.floats}, integers to {self.most}, strings {self.strings}"


def find_mask(inputs: Sequence[GraphTensor]) -> Mask | None:
    """Find the input that is plainly a mask by its name: `attention_mask` beside ids of the same axes."""
    for tensor in inputs:
        is_mask = tensor.name.lower().endswith("mask") and tensor.datatype.kind in ("int", "bool", "float")
        if not is_mask or tensor.axes is None or len(tensor.axes) != 2 or not _is_free(tensor.axes[1]):
            continue
        if any(other.axes == tensor.axes and other is not tensor for other in inputs):
            return Mask(tensor.name, 1)
    return None


def candidates(inputs: Sequence[GraphTensor], *, may_batch: bool, mask: Mask | None = None) -> Iterator[Settings]:
    """Give settings to try, the most telling first.

    Args:
        inputs: The model's inputs.
        may_batch: True if the graph has a batch axis; if not, free first axes are tried at other sizes than 1 too.
        mask: The input that is a mask; None to go by the names.
    """
    mask = mask or find_mask(inputs)
    kinds = {tensor.datatype.kind for tensor in inputs}
    has_lengths = any(_is_free(axis) for tensor in inputs for axis in (tensor.axes or ())[1:])
    has_first = not may_batch and any(_is_free(axis) for tensor in inputs for axis in (tensor.axes or ())[:1])
    lengths = LENGTHS if has_lengths or has_first else LENGTHS[:1]
    values = sorted(
        itertools.product(
            ("normal", "unit", "wide") if "float" in kinds else ("normal",),
            (1, 0) if "int" in kinds else (1,),
            ("words", "numbers") if "bytes" in kinds else ("words",),
        ),
        key=lambda value: (value[0] != "normal") + (value[1] != 1) + (value[2] != "words"),
    )
    for is_first_free in (False, True) if has_first else (False,):
        for length in lengths:
            for floats, most, strings in values:
                settings = Settings(length, floats, most, strings, is_first_free, mask)
                if length == LENGTHS[0] or all(_elements(tensor, settings) <= MAX_ROW_ELEMENTS for tensor in inputs):
                    yield settings


def draw(inputs: Sequence[GraphTensor], settings: Settings, rows: int, random: np.random.Generator) -> list[Array]:
    """Draw one array per input, `rows` long where the first axis is free."""
    return [_values(tensor, settings, _shape(inputs, tensor, settings, rows), random) for tensor in inputs]


def draw_distinct(
    inputs: Sequence[GraphTensor], settings: Settings, rows: int, random: np.random.Generator
) -> tuple[list[Array], list[Array]]:
    """Draw two lots of `rows` rows; row i of the second differs from row i of the first, and all differ if they can.

    They cannot where too few values are allowed: one integer from {0, 1} has two rows, one from {0} a single one.

    Returns:
        Two lists of one array per input. Only for inputs whose first axis is the batch.
    """
    pool = draw(inputs, settings, 2 * rows, random)
    for _ in range(REDRAWS):
        keys = _row_keys(pool)
        wrong = [i for i, key in enumerate(keys) if key in keys[:i]]
        if not wrong:
            break
        _put(pool, wrong, draw(inputs, settings, len(wrong), random))
    for _ in range(REDRAWS):
        keys = _row_keys(pool)
        wrong = [i + rows for i in range(rows) if keys[i] == keys[i + rows]]
        if not wrong:
            break
        _put(pool, wrong, draw(inputs, settings, len(wrong), random))
    return take(pool, range(rows)), take(pool, range(rows, 2 * rows))


def take(arrays: Sequence[Array], rows: Sequence[int]) -> list[Array]:
    """Copy some rows of each array, in the order given."""
    return [array[list(rows)] for array in arrays]


def _put(pool: list[Array], rows: Sequence[int], new: list[Array]) -> None:
    for array, fresh in zip(pool, new, strict=True):
        array[list(rows)] = fresh


def _row_keys(arrays: Sequence[Array]) -> list[bytes]:
    def key(row: Array) -> bytes:
        return repr(row.tolist()).encode() if row.dtype == object else row.tobytes()

    return [b"|".join(key(np.asarray(array[i])) for array in arrays) for i in range(len(arrays[0]))]


def _is_free(axis: int | str | None) -> bool:
    return not isinstance(axis, int)


def _elements(tensor: GraphTensor, settings: Settings) -> int:
    sizes = [axis if isinstance(axis, int) else settings.length for axis in (tensor.axes or ())[1:]]
    return int(np.prod(sizes, dtype=np.float64))


def _shape(inputs: Sequence[GraphTensor], tensor: GraphTensor, settings: Settings, rows: int) -> list[int]:
    first = settings.length if settings.is_first_free else rows
    named = {axes[0]: first for other in inputs if (axes := other.axes) and isinstance(axes[0], str)}

    def size(place: int, axis: int | str | None) -> int:
        if isinstance(axis, int):
            return axis
        if axis is None:
            return first if place == 0 else settings.length
        if axis in named:
            return named[axis]
        return _sum(axis, named, settings.length)

    return [size(place, axis) for place, axis in enumerate(tensor.axes or ())]


def _sum(name: str, named: dict[str, int], length: int) -> int:
    """Read an axis name such as `past + sequence` or `past + 1`, as exporters of decoders write them."""
    terms = [term.strip() for term in name.split("+")]
    return sum(int(term) if term.isdecimal() else named.get(term, length) for term in terms)


def _values(tensor: GraphTensor, settings: Settings, shape: Sequence[int], random: np.random.Generator) -> Array:
    datatype = tensor.datatype
    if settings.mask is not None and settings.mask.name == tensor.name and shape:
        return _mask_values(tensor, settings.mask, settings.length, shape, random)
    if datatype.kind == "bytes":
        return _strings(settings, shape, random)
    if datatype.kind == "float":
        values = random.random(shape) if settings.floats == "unit" else random.normal(size=shape)
        return np.asarray(values * (10 if settings.floats == "wide" else 1), dtype=datatype.dtype)
    most = 1 if datatype.kind == "bool" else MOST_OF_PIXELS if tensor.is_image else settings.most
    return np.asarray(random.integers(0, most + 1, shape), dtype=datatype.dtype)


def _mask_values(
    tensor: GraphTensor, mask: Mask, length: int, shape: Sequence[int], random: np.random.Generator
) -> Array:
    """Let some elements of each row count, the first ones."""
    longest = length if mask.axis is None else shape[mask.axis]
    counts = random.integers(1, max(longest, 1) + 1, shape[0])
    if mask.axis is None:
        return np.asarray(np.broadcast_to(counts.reshape(-1, *[1] * (len(shape) - 1)), shape), tensor.datatype.dtype)
    places = np.arange(longest).reshape(-1, *[1] * (len(shape) - 1 - mask.axis))
    is_kept = places < counts.reshape(-1, *[1] * (len(shape) - 1))
    values = np.where(np.broadcast_to(is_kept, shape), mask.kept, mask.padding)
    return values.astype(tensor.datatype.dtype)


def _strings(settings: Settings, shape: Sequence[int], random: np.random.Generator) -> Array:
    made = np.empty(shape, dtype=object)
    for place in np.ndindex(*shape):
        if settings.strings == "numbers":
            made[place] = str(random.integers(0, settings.most + 1))
        else:
            made[place] = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), random.integers(3, 9)))
    return made
