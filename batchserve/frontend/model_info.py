"""What the codecs need of a loaded model, worked out once at load so that requests only look it up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from batchserve.frontend.plans import Plans
from batchserve.frontend.tensor_json import JsonReader
from batchserve.frontend.wording import quoted

if TYPE_CHECKING:
    from batchserve.core.tensors import DataType, ModelSignature, TensorSpec

__all__ = ["InputInfo", "ModelInfo", "OutputInfo", "json_string"]


def json_string(text: str) -> bytes:
    """Write a JSON string; one that UTF-8 cannot encode is written with escapes."""
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return json.dumps(text).encode()


@dataclass(frozen=True, slots=True)
class InputInfo:
    """One input of a model.

    Attributes:
        index: Its place in the signature.
        name: Its name.
        where: How messages name it: `input 'x' of model 'addone'`.
        datatype: Its element type.
        datatype_name: Wire name of that.
        dtype: numpy's type of it.
        view_itemsize: Bytes per element; 0 if a body cannot simply be viewed (BOOL is normalised, BYTES decoded).
        shape: Full wire shape, -1 where free.
        json: Reads it from JSON.
    """

    index: int
    name: str
    where: str
    datatype: DataType
    datatype_name: str
    dtype: np.dtype[Any]
    view_itemsize: int
    shape: tuple[int, ...]
    json: JsonReader

    @classmethod
    def of(cls, index: int, spec: TensorSpec, model: str) -> InputInfo:
        """Prepare an input; `model` is how messages name its model."""
        where = f"input {quoted(spec.name)} of {model}"
        datatype = spec.datatype
        return cls(
            index=index,
            name=spec.name,
            where=where,
            datatype=datatype,
            datatype_name=datatype.name,
            dtype=datatype.dtype,
            view_itemsize=0 if datatype.kind in ("bool", "bytes") else datatype.itemsize,
            shape=spec.shape,
            json=JsonReader(where, datatype, len(spec.shape)),
        )


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """One output of a model.

    Attributes:
        index: Its place in the signature.
        name: Its name.
        where: How messages name it: `output 'y' of model 'addone'`.
        datatype: Its element type.
        head: The beginning of its object in an answer, up to the shape's value.
    """

    index: int
    name: str
    where: str
    datatype: DataType
    head: bytes

    @classmethod
    def of(cls, index: int, spec: TensorSpec, model: str) -> OutputInfo:
        """Prepare an output; `model` is how messages name its model."""
        head = b'{"name":%b,"datatype":"%b","shape":' % (json_string(spec.name), spec.datatype.name.encode())
        return cls(index, spec.name, f"output {quoted(spec.name)} of {model}", spec.datatype, head)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of a model, as the codecs see it. Immutable; any thread.

    Attributes:
        name: The model's name on the wire.
        version: The version that answers, as the wire has it.
        signature: Its inputs and outputs.
        max_queue_size: Rows its queue holds.
        split_large: True if a request of more than `max_batch_size` rows is cut into several runs.
        allow_timeout_override: False if the `timeout` parameter is checked and then ignored.
        priority_levels: Its number of priority levels.
        label: How messages name it: `model 'addone'`.
        row_limit: Rows that a request may have (batching.md section 6, rule 2).
        inputs: By name.
        outputs: In the signature's order.
        output_index: Place of each output by name.
        every_output: All indices of `outputs`.
        every_bit: The output mask that asks for all.
        no_json: Indices of the outputs that have no JSON form.
        has_plain_outputs: True if no output is of BYTES, whose length on the wire differs from answer to answer.
        plans: Request JSON seen before.
        head: The beginning of an answer without an id, up to the first output.
    """

    name: str
    version: str
    signature: ModelSignature
    max_queue_size: int
    split_large: bool = True
    allow_timeout_override: bool = True
    priority_levels: int = 1
    label: str = field(init=False)
    row_limit: int = field(init=False)
    inputs: Mapping[str, InputInfo] = field(init=False, repr=False)
    outputs: tuple[OutputInfo, ...] = field(init=False, repr=False)
    output_index: Mapping[str, int] = field(init=False, repr=False)
    every_output: tuple[int, ...] = field(init=False, repr=False)
    every_bit: int = field(init=False, repr=False)
    no_json: frozenset[int] = field(init=False, repr=False)
    head: bytes = field(init=False, repr=False)
    has_plain_outputs: bool = field(init=False, repr=False)
    plans: Plans = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        signature = self.signature
        label = f"model {quoted(self.name)}"
        outputs = tuple(OutputInfo.of(i, spec, label) for i, spec in enumerate(signature.outputs))
        derived = {
            "label": label,
            "row_limit": max(signature.max_batch_size, self.max_queue_size if self.split_large else 0),
            "inputs": {spec.name: InputInfo.of(i, spec, label) for i, spec in enumerate(signature.inputs)},
            "outputs": outputs,
            "output_index": signature.output_index,
            "every_output": tuple(range(len(outputs))),
            "every_bit": (1 << len(outputs)) - 1,
            "no_json": frozenset(info.index for info in outputs if not info.datatype.is_json),
            "has_plain_outputs": all(info.datatype.itemsize for info in outputs),
            "plans": Plans(),
            "head": b'{"model_name":%b,"model_version":%b,"outputs":['
            % (json_string(self.name), json_string(self.version)),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
