"""TensorRT: which shapes an engine is built for, where it is kept, and the provider's options that say so.

An engine is good for one model, on one kind of GPU, with one driver and one version of each library, and for shapes
within its profile. Built once, it is kept in a folder named by all of these, and a later start reads it in seconds. A
run outside the profile fails, and without a profile the provider builds anew, inside a run, for each new shape; so
every free axis needs a shortest and a longest length before the engine is built.

Sources: ONNX Runtime's page on the TensorRT execution provider (options, explicit shape ranges, caches), its
`tensorrt_execution_provider.cc` (outside of the profile `EP_FAIL`), and its Python binding, which reads flags as `True`
and `False` only.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING

from batchserve.errors import ModelLoadError

if TYPE_CHECKING:
    from batchserve.core.tensors import Array

__all__ = [
    "LEAST_ROWS",
    "PROFILE_OPTIONS",
    "Bounds",
    "EngineFolders",
    "Shape",
    "cache_options",
    "has_unknown_lengths",
    "is_inside",
    "model_digest",
    "profile",
    "profile_bounds",
]

PROFILE_OPTIONS = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
"""Smallest, usual and largest shapes; the provider takes all three or none."""

LEAST_ROWS = 8
"""What proofs and comparisons run at once, however small `max_batch_size` is."""

Shape = tuple[int, ...]
"""-1 where an axis is free."""

Bounds = Sequence[tuple[Shape, Shape]]
"""The smallest and the largest shape of each input."""

_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")
"""Where an ONNX file names another file that holds weights (`TensorProto.external_data`), and the name's length."""


# --- shapes ---------------------------------------------------------------------------------------------------------


def has_unknown_lengths(inputs: Mapping[str, Shape], max_rows: int) -> bool:
    """Say whether an axis is free whose lengths nothing but requests tells.

    Args:
        inputs: The model's inputs.
        max_rows: Rows of one run; 0 if rows of different requests do not share one: then axis 0 is like any other.
    """
    return any(size < 0 for shape in inputs.values() for size in shape[1 if max_rows else 0 :])


def profile(
    inputs: Mapping[str, Shape],
    max_rows: int,
    usual_rows: int = 0,
    seen: Sequence[Sequence[Shape]] = (),
    also: Sequence[Sequence[Shape]] = (),
) -> dict[str, str]:
    """Say which shapes an engine is built for.

    Rows go from 1 to the largest batch. Other free axes go from the shortest length to the next power of two above the
    longest one seen, and the fastest kernels are sought for the median.

    Args:
        inputs: The model's inputs.
        max_rows: Rows of one run; 0 if rows of different requests do not share one.
        usual_rows: Rows that the fastest kernels are sought for; 0 for the largest batch.
        seen: Shapes of runs in service, one for each input.
        also: Shapes that must be possible, too.

    Returns:
        The provider's three options; empty if no axis is free.

    Raises:
        ModelLoadError: An axis is free, and no length of it is known.
    """
    said: tuple[list[str], ...] = ([], [], [])
    for index, (name, shape) in enumerate(inputs.items()):
        if all(size >= 0 for size in shape):
            continue
        ranges = []
        for axis, size in enumerate(shape):
            lengths = [shapes[index][axis] for shapes in seen]
            every = [*lengths, *(shapes[index][axis] for shapes in also)]
            if size >= 0:
                ranges.append((size, size, size))
            elif axis == 0 and max_rows:
                ranges.append((1, min(usual_rows, max_rows) or max_rows, max(max_rows, LEAST_ROWS)))
            elif every:
                ranges.append((max(1, min(every)), max(1, median_low(lengths or every)), _power_from(max(every))))
            else:
                raise ModelLoadError(
                    f"TensorRT builds an engine for a range of lengths, and axis {axis} of input '{name}' may have "
                    f"any: set {', '.join(PROFILE_OPTIONS)} in provider_options.tensorrt, declare its size in a "
                    'config.pbtxt, or leave build at "auto", which learns them from requests'
                )
        for sizes, texts in zip(zip(*ranges, strict=True), said, strict=True):
            texts.append(f"{name}:{'x'.join(map(str, sizes))}")
    return dict(zip(PROFILE_OPTIONS, map(",".join, said), strict=True)) if said[0] else {}


def _power_from(length: int) -> int:
    return 1 << max(0, length - 1).bit_length()


def profile_bounds(options: Mapping[str, str], inputs: Mapping[str, Shape]) -> Bounds:
    """Read a profile back.

    Args:
        options: The provider's options.
        inputs: The model's inputs.

    Raises:
        ModelLoadError: An option of the three is missing, is not of the form `x:1x3x224,mask:1x8`, leaves out an input
            with a free axis, or names what is no input.
    """
    free = {name for name, shape in inputs.items() if any(size < 0 for size in shape)}
    found = []
    for option in PROFILE_OPTIONS:
        shapes = _read(option, options.get(option, ""))
        if missing := sorted(free - shapes.keys()):
            raise ModelLoadError(
                f"provider_options.tensorrt: {option} has no shape for {', '.join(missing)}: "
                f"expected one for each input with a free axis, in all of {', '.join(PROFILE_OPTIONS)}"
            )
        if foreign := sorted(shapes.keys() - inputs.keys()):
            raise ModelLoadError(
                f"provider_options.tensorrt: {option} names {', '.join(foreign)}: expected inputs of the model, which "
                f"are {', '.join(inputs)}"
            )
        found.append(shapes)
    least, _, most = found
    return [(least.get(name, shape), most.get(name, shape)) for name, shape in inputs.items()]


def _read(option: str, text: str) -> dict[str, Shape]:
    found = {}
    for part in filter(None, text.split(",")):
        name, _, sizes = part.rpartition(":")
        if not name or not all(size.isdecimal() for size in sizes.split("x")):
            raise ModelLoadError(
                f"provider_options.tensorrt: {option} has {part!r} in it: expected an input and its shape, as in x:1x3"
            )
        found[name.strip()] = tuple(map(int, sizes.split("x")))
    return found


def is_inside(inputs: Sequence[Array], bounds: Bounds) -> bool:
    """Say whether an engine takes the shapes of a run's inputs."""
    for array, (least, most) in zip(inputs, bounds, strict=True):
        for size, low, high in zip(array.shape, least, most, strict=True):
            if not low <= size <= high:
                return False
    return True


# --- where engines are kept -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineFolders:
    """Where engines are kept.

    Attributes:
        root: Folder of all; need not exist, and what is in it may be deleted at any time.
        machine: What an engine depends on besides the model and the options: GPU, driver, versions of libraries.
    """

    root: Path
    machine: Mapping[str, str]

    def of(self, model: str, options: Mapping[str, str]) -> Path:
        """Name the folder of one model's engines.

        Args:
            model: Digest of the model.
            options: The provider's options, the profile among them.
        """
        return self.root / _digest({"machine": dict(self.machine), "model": model, "options": dict(options)})

    @property
    def timings(self) -> Path:
        """The folder of measured kernels, which all models on the same machine share."""
        return self.root / f"timings-{_digest(dict(self.machine))}"


def cache_options(folders: EngineFolders, model: str, configured: Mapping[str, str]) -> dict[str, str]:
    """Add to the provider's options those that keep engines and timings.

    Args:
        folders: Where.
        model: Digest of the model.
        configured: All other options; they have the last word.
    """
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folders.of(model, configured)),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folders.timings),
        **configured,
    }


def model_digest(path: Path, more: str = "") -> str:
    """Make a digest of a model's file, and of size and age of the files that hold weights for it. Blocks.

    Args:
        path: The model's file.
        more: What else makes it another model.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is empty.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        whole = hashlib.sha256(content)
        starts = [(found.end(), found[1][0]) for found in _LOCATION.finditer(content)]
        names = {content[start : start + length] for start, length in starts}
    whole.update(more.encode())
    for name in sorted(names):
        weights = path.parent / name.decode(errors="replace")
        if weights.is_file():
            state = weights.stat()
            whole.update(b"%b %d %d" % (name, state.st_size, state.st_mtime_ns))
    return whole.hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:40]
