"""Datatypes and signatures: the names that the wire, numpy, ONNX and model configurations give the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from batchserve.core.padding import PadRule

__all__ = ["DATATYPES", "Array", "DataType", "ModelSignature", "TensorSpec"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class DataType:
    """One element type under all its names (protocol.md section 3).

    Attributes:
        name: Wire name, such as `FP32`.
        dtype: numpy's type, little-endian. BYTES: `object`, each element a `str` (ONNX strings are UTF-8).
        onnx: The element type as ONNX Runtime spells it inside `tensor(...)`.
        config: The name in a model configuration, such as `TYPE_FP32`.
        itemsize: Bytes per element on the wire; 0 for BYTES, whose elements differ.
        kind: `bool`, `int`, `float` or `bytes`.
        is_json: False if its values cannot be written in JSON (FP16 and BF16).
    """

    name: str
    dtype: np.dtype[Any]
    onnx: str
    config: str
    itemsize: int
    kind: str
    is_json: bool = True


def _table() -> dict[str, DataType]:
    rows = [
        DataType("BOOL", np.dtype(np.bool_), "bool", "TYPE_BOOL", 1, "bool"),
        *(
            DataType(
                f"{sign}INT{bits}", np.dtype(f"<{letter}{bits // 8}"), onnx, f"TYPE_{sign}INT{bits}", bits // 8, "int"
            )
            for sign, letter in (("U", "u"), ("", "i"))
            for bits, onnx in ((b, f"{sign.lower()}int{b}") for b in (8, 16, 32, 64))
        ),
        DataType("FP16", np.dtype("<f2"), "float16", "TYPE_FP16", 2, "float", is_json=False),
        DataType("FP32", np.dtype("<f4"), "float", "TYPE_FP32", 4, "float"),
        DataType("FP64", np.dtype("<f8"), "double", "TYPE_FP64", 8, "float"),
        DataType("BYTES", np.dtype(object), "string", "TYPE_STRING", 0, "bytes"),
    ]
    return {row.name: row for row in rows}


DATATYPES: Mapping[str, DataType] = _table()
"""Every datatype that can be served, by wire name. BF16 is on the wire's list but numpy cannot hold it: see docs."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: The model's own name for it.
        datatype: Element type.
        shape: The full wire shape, -1 where a dimension is free. A batching model shows -1 first.
    """

    name: str
    datatype: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """What a model takes and gives, in the model's own order.

    Attributes:
        inputs: Required inputs first to last.
        outputs: Outputs first to last.
        max_batch_size: Rows in one run; 0 means no batch axis: a request is one whole run (batching.md section 3).
        pad: How requests of different lengths are padded to share a run; None if they are not.
        output_index: Position of each output by name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    pad: PadRule | None = None
    output_index: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_index", {spec.name: i for i, spec in enumerate(self.outputs)})

    @property
    def is_batching(self) -> bool:
        """True if axis 0 of every tensor is the batch."""
        return self.max_batch_size > 0
