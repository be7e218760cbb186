"""Puts what `preprocess` says before a model, as operators of its graph, so that the device does it.

The graph is changed in memory; the file stays as it is, and weights in other files stay there. The new operators are
of the model's own opset, so nothing else in it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchserve.config.names import did_you_mean
from batchserve.errors import ModelLoadError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

    from batchserve.config import PreprocessConfig

__all__ = ["Preprocessed", "preprocessed"]

RANK = 4
OLDEST_OPSET, OLDEST_RESIZE = 7, 11
"""Operators broadcast from opset 7 on, and Resize takes sizes from opset 11 on."""
_OPTIONAL_ROI = 13


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """A model that takes images as bytes.

    Attributes:
        content: The model, as bytes of an ONNX file. Weights in other files are not in it.
        input: The input that takes bytes now; its name is as it was.
        summary: What is done to it, in words.
    """

    content: bytes
    input: str
    summary: str


def preprocessed(path: Path, config: PreprocessConfig) -> Preprocessed:
    """Read a model and put the preprocessing before it. Blocks: the whole file is read, and held twice.

    Args:
        path: The model's file.
        config: What is to be done.

    Raises:
        ModelLoadError: The package onnx is missing, the file is no ONNX model, or its input is no image that this
            preprocessing fits.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError, EncodeError
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"preprocess changes the model's graph with the package {error.name}, which is not installed: "
            "install batchserve[onnx]"
        ) from error
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except DecodeError as error:
        raise ModelLoadError("the model file is not an ONNX model, or is cut short: export or copy it again") from error
    name, summary = _prepend(model, config)
    try:
        return Preprocessed(model.SerializeToString(), name, summary)
    except (EncodeError, ValueError) as error:
        raise ModelLoadError(
            "with preprocess the model is larger than 2 GiB, the most that one file can hold: save it with its weights "
            "in other files (external data)"
        ) from error


def _prepend(model: ModelProto, config: PreprocessConfig) -> tuple[str, str]:
    """Change a model in place; return the input's name and what is done to it."""
    graph = model.graph
    image = _find_input(graph, config.input)
    place = _Image(image, config)
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    oldest = OLDEST_OPSET if config.resize == "none" else OLDEST_RESIZE
    if opset < oldest:
        raise ModelLoadError(
            f"preprocess{'' if config.resize == 'none' else ' with resize'} needs a model of opset {oldest} or newer, "
            f"but this one has {opset}: export it with a newer opset"
        )
    if any(output.name == image.name for output in graph.output):
        raise ModelLoadError(f"input {image.name!r} is an output of the model too, so nothing can be put before it")
    chain = _Chain(image.name, set(_names(graph)))
    place.extend(chain, opset)
    ready = chain.value
    _rename(graph, image.name, ready)
    for node in reversed(chain.nodes):
        graph.node.insert(0, node)
    image.CopyFrom(place.outer())
    return image.name, place.summary


def _find_input(graph: GraphProto, name: str) -> ValueInfoProto:
    """Find the input that takes images: the one named, or the only one that can."""
    constants = {constant.name for constant in graph.initializer}
    inputs: list[ValueInfoProto] = [one for one in graph.input if one.name not in constants]
    known = ", ".join(one.name for one in inputs) or "none"
    if name:
        found = next((one for one in inputs if one.name == name), None)
        if found is None:
            hint = did_you_mean(name, [one.name for one in inputs])
            raise ModelLoadError(
                f"preprocess names input {name!r}, which the model does not have: {hint}{' ' * bool(hint)}"
                f"its inputs are {known}"
            )
        return found
    able = [one for one in inputs if not _obstacle(one)]
    if len(able) == 1:
        return able[0]
    if len(inputs) == 1:
        return inputs[0]  # the reason why it cannot be is for its check to say
    raise ModelLoadError(
        f"preprocess is for one image, but {len(able)} of the model's inputs ({known}) can be one: "
        'name it, such as preprocess.input = "pixels"'
    )


def _obstacle(value: ValueInfoProto) -> str:
    """Say why an input takes no images; "" if it does."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        known = TensorProto.DataType.keys()
        kind = known[tensor.elem_type] if tensor.elem_type < len(known) else "of an unknown type"
        return f"takes {kind}, and preprocess gives FLOAT or FLOAT16"
    if not tensor.HasField("shape") or len(tensor.shape.dim) != RANK:
        axes = len(tensor.shape.dim) if tensor.HasField("shape") else "no known number of"
        return f"has {axes} axes, and images have {RANK} (batch, channels, height and width)"
    return ""


class _Image:
    """An input that takes images, and what is to be done to them.

    Args:
        value: The input as the model has it.
        config: What is to be done.

    Raises:
        ModelLoadError: It takes no images, or others.
    """

    def __init__(self, value: ValueInfoProto, config: PreprocessConfig) -> None:
        if problem := _obstacle(value):
            raise ModelLoadError(f"preprocess cannot be for input {value.name!r}: it {problem}")
        self._value, self._config = value, config
        self._outer, _, inner = config.layout.partition("->")
        self._inner = inner or self._outer
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        self._sizes = dict(zip(self._inner, sizes, strict=True))
        self._channels = channels = self._sizes["C"] or 0
        if not channels:
            raise ModelLoadError(
                f"preprocess takes axis {self._inner.index('C')} of input {value.name!r} for the channels, but its "
                "size is free: correct preprocess.layout, or export the model with a fixed number of channels"
            )
        for what, numbers in (("mean", config.mean), ("std", config.std)):
            if len(numbers) not in (0, 1, channels):
                raise ModelLoadError(
                    f"preprocess.{what} has {len(numbers)} numbers, but input {value.name!r} with the shape {sizes} "
                    f"has {channels} channels in layout {config.layout}: give one for each, one for all, or correct "
                    "preprocess.layout"
                )
        if config.resize != "none" and None in (self._sizes["H"], self._sizes["W"]):
            raise ModelLoadError(
                f"preprocess.resize brings images to the model's own height and width, but input {value.name!r} takes "
                "any: leave it out, or export the model with a fixed size"
            )

    @property
    def summary(self) -> str:
        """What is done, in words."""
        config = self._config
        done = [f"{self._value.name}: uint8 {config.layout}"]
        if config.resize != "none":
            done.append(f"resized to {self._sizes['H']} x {self._sizes['W']} ({config.resize})")
        if config.scale != 1:
            done.append(f"times {config.scale:.6g}")
        done += [f"minus {list(config.mean)}"] * bool(config.mean) + [f"over {list(config.std)}"] * bool(config.std)
        return ", ".join(done)

    def outer(self) -> ValueInfoProto:
        """Describe the input as clients see it."""
        from onnx import TensorProto, ValueInfoProto

        seen = ValueInfoProto()
        seen.CopyFrom(self._value)
        tensor = seen.type.tensor_type
        tensor.elem_type = TensorProto.UINT8
        del tensor.shape.dim[:]
        for axis in self._outer:
            dim = tensor.shape.dim.add()
            if axis in "NC" or self._config.resize == "none":
                dim.CopyFrom(self._value.type.tensor_type.shape.dim[self._inner.index(axis)])
        return seen

    def extend(self, chain: _Chain, opset: int) -> None:
        """Add the operators, cheapest data first: axes are moved while a value is a byte."""
        from onnx import TensorProto

        if self._outer != self._inner:
            chain.add("Transpose", perm=[self._outer.index(axis) for axis in self._inner])
        chain.add("Cast", to=TensorProto.FLOAT)
        if self._config.resize != "none":
            self._resize(chain, opset)
        factor, offset = self._factors()
        if np.any(factor != 1):
            chain.add("Mul", chain.constant(factor))
        if np.any(offset != 0):
            chain.add("Add", chain.constant(offset))
        if self._value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            chain.add("Cast", to=TensorProto.FLOAT16)

    def _factors(self) -> tuple[Any, Any]:
        """Return scale, mean and std as one factor and one summand: float32[1, C, 1, 1] in the model's layout."""
        config = self._config
        std = np.array(config.std or (1.0,))
        factor = np.broadcast_to(config.scale / std, (self._channels,))
        offset = np.broadcast_to(-np.array(config.mean or (0.0,)) / std, (self._channels,))
        shape = [-1 if axis == "C" else 1 for axis in self._inner]
        return factor.astype(np.float32).reshape(shape), offset.astype(np.float32).reshape(shape)

    def _resize(self, chain: _Chain, opset: int) -> None:
        """Bring height and width to the model's, without smoothing first, as OpenCV and PyTorch do by default."""
        image = chain.value
        shape = chain.node("Shape", [image])
        rows = chain.node("Slice", [shape, *(chain.constant(np.array([at])) for at in (0, 1))])
        rest = np.array([self._sizes[axis] for axis in self._inner if axis != "N"])
        sizes = chain.node("Concat", [rows, chain.constant(rest)], axis=0)
        if opset < _OPTIONAL_ROI:  # where both had to be given, empty
            roi = scales = chain.constant(np.zeros(0, np.float32))
        else:
            roi = scales = ""
        if self._config.resize == "linear":
            how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        else:
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        chain.value = chain.node("Resize", [image, roi, scales, sizes], **how)


class _Chain:
    """Operators one after the other, under names that the graph does not have.

    Attributes:
        value: The name of the last one's output.
        nodes: All of them, in order.
    """

    def __init__(self, value: str, taken: set[str]) -> None:
        self.value = value
        self.nodes: list[Any] = []
        self._taken = taken

    def add(self, op: str, *more: str, **attributes: Any) -> None:
        """Apply an operator to the value."""
        self.value = self.node(op, [self.value, *more], **attributes)

    def constant(self, array: Any) -> str:
        """Add a constant, as an operator: models of old IR versions would need an initialiser among the inputs."""
        from onnx import numpy_helper

        return self.node("Constant", [], value=numpy_helper.from_array(array))

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add an operator beside the value; return its output."""
        from onnx import helper

        name = f"preprocess/{op}"
        number = 0
        while name in self._taken:
            number += 1
            name = f"preprocess/{op}_{number}"
        self._taken.add(name)
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name


def _names(graph: GraphProto) -> Iterator[str]:
    """Give every name of a value or operator in a graph and the graphs inside it."""
    yield from (one.name for one in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield node.name
        yield from node.output
        for inner in _inside(node):
            yield from _names(inner)


def _rename(graph: GraphProto, name: str, new: str) -> None:
    """Let every operator that reads a value read another, those in graphs inside too unless the name means theirs."""
    for node in graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = new
        for inner in _inside(node):
            if all(one.name != name for one in inner.input):
                _rename(inner, name, new)


def _inside(node: Any) -> Iterator[GraphProto]:
    """Give the graphs that an operator holds, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
