"""A graph's inputs and outputs: from the runtime's description, against what a configuration declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchserve.backends.header import Axes
from batchserve.config import DeclaredTensor
from batchserve.config.names import did_you_mean
from batchserve.core.tensors import DATATYPES, DataType
from batchserve.errors import ModelLoadError

__all__ = ["GraphTensor", "declare", "describe"]

_BY_ONNX = {f"tensor({datatype.onnx})": datatype for datatype in DATATYPES.values()}

_NO_NUMPY = "numpy cannot hold this type: cast it to float or float16 inside the model"
_REMEDIES = (
    ("seq(map(", "not a tensor: export the classifier without ZipMap (options={'zipmap': False})"),
    ("map(", "not a tensor: export the classifier without ZipMap (options={'zipmap': False})"),
    ("seq(", "not a tensor: stack or concatenate the sequence inside the model"),
    ("optional(", "not a tensor: export the model with a plain tensor in its place"),
    ("sparse_tensor(", "not a dense tensor: make it dense inside the model"),
    ("tensor(bfloat16)", _NO_NUMPY),
    ("tensor(float8", _NO_NUMPY),
    ("tensor(float4", _NO_NUMPY),
    ("tensor(int4)", "elements of less than a byte cannot be served: cast it to int8 inside the model"),
    ("tensor(uint4)", "elements of less than a byte cannot be served: cast it to uint8 inside the model"),
    ("tensor(complex", "complex numbers cannot be served: split it into real and imaginary parts inside the model"),
)


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output as the graph has it.

    Attributes:
        name: The model's name for it.
        datatype: Element type.
        axes: A size, a name or None (free without a name) per axis; None if the model does not say the rank.
        kind: `input` or `output`, for messages.
        is_image: True if its values are those of pixels, 0 to 255.
    """

    name: str
    datatype: DataType
    axes: Axes | None
    kind: str
    is_image: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The wire shape: sizes, -1 where free. An unknown rank shows one free axis."""
        if self.axes is None:
            return (-1,)
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.axes)

    def with_rank(self, rank: int) -> GraphTensor:
        """Give it free axes if its rank is unknown; otherwise it stays as it is."""
        return replace(self, axes=(None,) * rank) if self.axes is None else self


def describe(nodes: Sequence[Any], kind: str, ranks: Mapping[str, Axes | None]) -> list[GraphTensor]:
    """Read the runtime's descriptions.

    Args:
        nodes: The session's NodeArgs: `name`, `type`, and `shape`, `[]` for a scalar and for an unknown rank alike.
        kind: `input` or `output`.
        ranks: The axes in the file by name, None where it does not say the rank.

    Raises:
        ModelLoadError: A type that cannot travel as a tensor; the text names it and what to do.
    """
    made = []
    for node in nodes:
        datatype = _BY_ONNX.get(node.type)
        if datatype is None:
            remedy = next(
                (text for start, text in _REMEDIES if node.type.startswith(start)), "this type cannot be served"
            )
            raise ModelLoadError(f"{kind} {node.name!r} has type {node.type}: {remedy}")
        axes: Axes | None = tuple(_axis(axis) for axis in node.shape)
        if not axes and ranks.get(node.name, ()) is None:
            axes = None
        made.append(GraphTensor(node.name, datatype, axes, kind))
    return made


def declare(
    found: Sequence[GraphTensor], declared: Sequence[DeclaredTensor], overridable: Sequence[str] = ()
) -> list[GraphTensor]:
    """Check declarations against the graph, and take over what they say more exactly.

    A declared size may stand where the graph has a free axis; the tensor then has that size.

    Args:
        found: All inputs, or all outputs.
        declared: Those declared; the others stay as they are.
        overridable: Names of the graph's optional inputs.

    Raises:
        ModelLoadError: A declared tensor is not there, or differs; the text says what was declared and what was found.
            Or neither the graph nor a declaration says the rank of an input.
    """
    by_name = {tensor.name: tensor for tensor in found}
    for entry in declared:
        tensor = by_name.get(entry.name)
        if tensor is None:
            raise ModelLoadError(_not_there(entry.name, found, overridable))
        what = f"{tensor.kind} {entry.name!r}"
        if entry.data_type and entry.data_type != tensor.datatype.config:
            raise ModelLoadError(
                f"{what} is declared as {entry.data_type}, but the model has {tensor.datatype.config}: "
                "correct data_type in the model's configuration"
            )
        whole = entry.shape
        if whole is not None:
            if not _fits(whole, tensor.axes):
                raise ModelLoadError(_differs(what, entry, tensor))
            axes = tensor.axes or (None,) * len(whole)
            narrowed = tuple(axis if size < 0 else size for size, axis in zip(whole, axes, strict=True))
            by_name[entry.name] = replace(tensor, axes=narrowed)
    for tensor in by_name.values():
        if tensor.axes is None and tensor.kind == "input":
            raise ModelLoadError(
                f"input {tensor.name!r} has no shape in the model, so requests could not be checked against it: "
                "declare its dims in a config.pbtxt, or export the model with shapes"
            )
    return list(by_name.values())


def _fits(whole: Sequence[int], axes: Axes | None) -> bool:
    if axes is None:
        return True
    return len(whole) == len(axes) and all(
        not isinstance(axis, int) or size == axis for size, axis in zip(whole, axes, strict=True)
    )


def _differs(what: str, entry: DeclaredTensor, tensor: GraphTensor) -> str:
    if entry.leaves_out_batch:
        meant = "dims leave out the batch axis because max_batch_size is above 0 there"
    else:
        meant = "dims name every axis, the batch axis too, because max_batch_size is not above 0 there"
    return (
        f"{what} is declared with dims {list(entry.dims or ())}, but the model has {list(tensor.shape)}: "
        f"correct dims in the model's configuration ({meant})"
    )


def _not_there(name: str, found: Sequence[GraphTensor], overridable: Sequence[str]) -> str:
    kind = found[0].kind if found else "input"
    if name in overridable:
        return (
            f"{kind} {name!r} is declared, but the model has a default value for it, and such inputs cannot be given: "
            "remove it from the model's configuration"
        )
    names = [tensor.name for tensor in found]
    hint = did_you_mean(name, names)
    hint += " " * bool(hint)
    have = ", ".join(names) or "none"
    return f"{kind} {name!r} is declared, but the model does not have it: {hint}its {kind}s are {have}"


def _axis(axis: object) -> int | str | None:
    if isinstance(axis, int):
        return axis if axis >= 0 else None
    return axis if isinstance(axis, str) and axis else None
