"""Padding of a loaded model: from the names in a configuration to a rule, and a proposal where names make it plain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from batchserve.backends.proof import Run
from batchserve.backends.samples import Mask, Settings, draw, find_mask
from batchserve.backends.tensors import GraphTensor
from batchserve.config import PadConfig
from batchserve.config.names import did_you_mean
from batchserve.core.padding import PadRule, Value
from batchserve.core.tensors import DataType
from batchserve.errors import BackendError, ModelLoadError

__all__ = ["guess", "mask_of", "resolve", "sized"]

PROBE_LENGTHS = (5, 8, 13)
"""Lengths that tell which axes of outputs are as long as the inputs: no sum or multiple of one is another."""


def resolve(
    config: PadConfig, max_tokens: int | None, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> PadRule:
    """Find what a configuration names in a model.

    Args:
        config: Names and axes.
        max_tokens: Most rows times length of one run.
        inputs: The model's inputs, all with the batch first.
        outputs: The model's outputs.

    Raises:
        ModelLoadError: Something that is named is not there, cannot be padded, or tells nothing of padding.
    """
    _check_names("axes", config.axes, inputs)
    _check_names("outputs", config.outputs, outputs)
    _check_names("mask", [config.mask], inputs)
    for tensor in (*inputs, *outputs):
        for axis in (config.axes if tensor.kind == "input" else config.outputs).get(tensor.name, ()):
            _check_axis(tensor, axis)
    _check_namesakes(config, inputs)
    mask = next(tensor for tensor in inputs if tensor.name == config.mask)
    _check_mask(mask, config)
    return PadRule(
        axes=tuple(config.axes.get(tensor.name, ()) for tensor in inputs),
        values=tuple(_value(config.values.get(tensor.name), tensor) for tensor in inputs),
        mask=inputs.index(mask),
        outputs=tuple(config.outputs.get(tensor.name, ()) for tensor in outputs),
        multiple=config.multiple,
        max_tokens=max_tokens,
    )


def mask_of(rule: PadRule, inputs: Sequence[GraphTensor]) -> Mask:
    """Describe a rule's mask for drawing inputs: what is not padding is 1, or 0 where padding is something else."""
    padding = float(rule.values[rule.mask])
    axes = rule.axes[rule.mask]
    return Mask(inputs[rule.mask].name, axes[0] if axes else None, 0.0 if padding else 1.0, padding)


def sized(inputs: Sequence[GraphTensor], rule: PadRule, length: int) -> list[GraphTensor]:
    """Give the padded axes a fixed size, so that rows of that length can be drawn."""
    return [
        replace(tensor, axes=tuple(length if place in axes else axis for place, axis in enumerate(tensor.axes or ())))
        for tensor, axes in zip(inputs, rule.axes, strict=True)
    ]


def guess(
    run: Run, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor], settings: Settings
) -> PadConfig | None:
    """Say what `pad` would be, if the names of the inputs make it plain; nothing is proved. A few runs of one row.

    Args:
        run: Computes every output; raises BackendError.
        inputs: The model's inputs.
        outputs: The model's outputs.
        settings: How to draw inputs that the model accepts.
    """
    mask = find_mask(inputs)
    if mask is None:
        return None
    axes = next(tensor.axes for tensor in inputs if tensor.name == mask.name)
    config = PadConfig({tensor.name: (1,) for tensor in inputs if tensor.axes == axes}, mask.name)
    rule = resolve(config, None, inputs, outputs)
    shapes = {}
    for length in PROBE_LENGTHS:
        try:
            got = run(draw(sized(inputs, rule, length), settings, 1, np.random.default_rng(length)))
        except BackendError:
            continue
        shapes[length] = [output.shape for output in got]
    if len(shapes) < 2:
        return None
    cut = {
        tensor.name: tuple(
            axis
            for axis in range(1, min(len(of[index]) for of in shapes.values()))
            if all(of[index][axis] == length for length, of in shapes.items())
        )
        for index, tensor in enumerate(outputs)
    }
    return replace(config, outputs={name: found for name, found in cut.items() if found})


def _check_names(what: str, names: Iterable[str], tensors: Sequence[GraphTensor]) -> None:
    known = [tensor.name for tensor in tensors]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            kind = tensors[0].kind
            raise ModelLoadError(
                f"pad.{what} names {name!r}, which is no {kind} of the model: {f'{hint} ' if hint else ''}"
                f"its {kind}s are {', '.join(known)}"
            )


def _check_axis(tensor: GraphTensor, axis: int) -> None:
    what = "axes" if tensor.kind == "input" else "outputs"
    if tensor.axes is None:
        return
    if axis >= len(tensor.axes):
        raise ModelLoadError(
            f"pad.{what} names axis {axis} of {tensor.kind} {tensor.name!r}, which has {len(tensor.axes)} axes: "
            "they count from the batch, which is 0"
        )
    if isinstance(size := tensor.axes[axis], int):
        raise ModelLoadError(
            f"pad.{what} names axis {axis} of {tensor.kind} {tensor.name!r}, which has the fixed size {size}: "
            "only free axes differ in length"
        )


def _check_namesakes(config: PadConfig, inputs: Sequence[GraphTensor]) -> None:
    """Find inputs left out whose axis has the same name as one that is padded: they must grow along with it."""
    padded = {
        axis: tensor.name
        for tensor in inputs
        for place, axis in enumerate(tensor.axes or ())
        if isinstance(axis, str) and place in config.axes.get(tensor.name, ())
    }
    for tensor in inputs:
        for place, axis in enumerate(tensor.axes or ()):
            if place and axis in padded and place not in config.axes.get(tensor.name, ()):
                raise ModelLoadError(
                    f"axis {place} of input {tensor.name!r} is {axis!r}, as that of {padded[axis]!r}, which is padded: "
                    "name it in pad.axes too"
                )


def _check_mask(mask: GraphTensor, config: PadConfig) -> None:
    what = f"pad.mask is {mask.name!r}"
    if mask.name in config.axes:
        if mask.datatype.kind == "bytes":
            raise ModelLoadError(f"{what}, which holds strings: a mask holds numbers or booleans")
        if set(config.axes) == {mask.name}:
            raise ModelLoadError(f"{what}, and nothing else is padded: name the inputs that it masks in pad.axes too")
        return
    if mask.datatype.kind != "int" or any(size != 1 for size in (mask.axes or ())[1:]):
        raise ModelLoadError(
            f"{what}, which is neither padded nor one whole number a row: name it in pad.axes if it is a mask; "
            "a length has one number for each row"
        )


def _value(given: Value | None, tensor: GraphTensor) -> Value:
    """Settle what an input is padded with."""
    datatype = tensor.datatype
    if given is None:
        return "" if datatype.kind == "bytes" else 0
    if isinstance(given, str) != (datatype.kind == "bytes") or not _holds(datatype, given):
        raise ModelLoadError(
            f"pad.values has {given!r} for input {tensor.name!r}, which holds {datatype.name}: "
            "expected a value of that type"
        )
    return given


def _holds(datatype: DataType, value: Value) -> bool:
    if datatype.kind == "int":
        limits = np.iinfo(datatype.dtype)
        return isinstance(value, int) and limits.min <= value <= limits.max
    if datatype.kind == "bool":
        return value in (0, 1)
    return True
