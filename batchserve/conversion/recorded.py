"""Inputs of a model that a user keeps in a folder: one `.npz` file for each run, with an array for each input."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from batchserve.core.tensors import Array, TensorSpec
from batchserve.errors import ConversionError

__all__ = ["read_folder"]


def read_folder(folder: Path, inputs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """Read all files of a folder, by name. Blocks.

    Args:
        folder: Its `.npz` files are read, other files are not.
        inputs: What the model takes. Arrays have these names, types and shapes, with any number of rows.

    Returns:
        The inputs of each file by name, in the model's order.

    Raises:
        ConversionError: There is no such folder or no such file in it, or one of them is not what the model takes.
    """
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        names = ", ".join(f"{spec.name}=…" for spec in inputs)
        raise ConversionError(f"{folder} holds no .npz files: write some there by numpy.savez(FILE, {names})")
    return [_read(file, inputs) for file in files]


def _read(file: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    try:
        with np.load(file) as held:
            return {spec.name: _checked(file, held[spec.name], spec) for spec in inputs}
    except KeyError:
        with np.load(file) as held:
            found = ", ".join(held.files) or "none"
        raise ConversionError(
            f"{file} holds the arrays {found}; expected one for each input: {', '.join(spec.name for spec in inputs)}"
        ) from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:  # ValueError: an array of objects, or rubbish
        raise ConversionError(f"{file} cannot be read as arrays of numpy: {error}") from error


def _checked(file: Path, array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind == "U" and spec.datatype.kind == "bytes":
        array = array.astype(object)
    fits = array.ndim == len(spec.shape) and all(
        size in (-1, given) for size, given in zip(spec.shape, array.shape, strict=False)
    )
    if array.dtype != spec.datatype.dtype or not fits:
        raise ConversionError(
            f"{file}: {spec.name!r} is {array.dtype}{list(array.shape)}, but the model takes "
            f"{spec.datatype.dtype}{list(spec.shape)}"
        )
    if not array.size:
        raise ConversionError(f"{file}: {spec.name!r} has no elements; expected at least one row")
    return np.ascontiguousarray(array)
