"""ONNX Runtime's tools that make another model of a model: 8-bit integers, half precision, an optimised graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchserve.backends.runtime import plain_text, require_runtime
from batchserve.core.tensors import Array
from batchserve.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["convert", "whole_size_bytes"]

MOST_BYTES = (2 << 30) - (64 << 20)
"""Weights included: the tools hold the whole model in one message, which can have 2 GiB, and add to it."""

PER_CHANNEL_OPSET = 13
"""Scales of weights are one for each channel from this opset on, which keeps more of the accuracy."""


def convert(source: Path, target: Path, method: str, calibration: Sequence[dict[str, Array]] = ()) -> None:
    """Write a converted model. Blocks, for minutes with large models.

    Args:
        source: The model; weights in other files are found beside it.
        target: The file to write, in one piece; replaced if it is there.
        method: `int8-dynamic`, `int8-static`, `fp16` or `optimize`.
        calibration: For `int8-static`: inputs by name, whose ranges are measured.

    Raises:
        ConversionError: The tools are not installed, the model is too large, or the tools cannot do it. Nothing is
            written.
    """
    with tempfile.TemporaryDirectory(prefix="batchserve-convert-") as folder:
        try:
            model = _whole(source)
            converted = _apply(model, method, calibration, Path(folder))
            target.write_bytes(converted.SerializeToString())
        except ConversionError:
            raise
        except ModuleNotFoundError as error:
            raise ConversionError(
                f"converting needs the package {error.name}, which is not installed: install batchserve[onnx]"
            ) from error
        except OSError as error:
            raise ConversionError(f"{error.filename}: {error.strerror}") from error
        except Exception as error:  # the tools' errors are of every kind, bare Exception and AssertionError among them
            raise ConversionError(f"ONNX Runtime's tools failed on it: {plain_text(error, source)}") from error


def _whole(source: Path) -> ModelProto:
    """Read a model with all its weights.

    Raises:
        ConversionError: It is too large for that.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    model = onnx.load_model(str(source), load_external_data=False)
    size_bytes = _size_bytes(source, model)
    if size_bytes > MOST_BYTES:
        raise ConversionError(
            f"the model has {size_bytes / (1 << 30):.1f} GiB, and only up to {MOST_BYTES / (1 << 30):.1f} GiB can be "
            "converted: call onnxruntime.quantization with use_external_data_format on a machine with enough memory"
        )
    load_external_data_for_model(model, str(source.parent))
    return model


def whole_size_bytes(source: Path) -> int:
    """Return the size of a model's file and of those that its weights are in. Blocks."""
    import onnx

    return _size_bytes(source, onnx.load_model(str(source), load_external_data=False))


def _size_bytes(source: Path, model: ModelProto) -> int:
    files: set[Path] = {
        source.parent / entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return source.stat().st_size + sum(file.stat().st_size for file in files)


def _apply(model: ModelProto, method: str, calibration: Sequence[dict[str, Array]], folder: Path) -> ModelProto:
    if method == "optimize":
        return _optimized(model, folder)
    if method == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        half: ModelProto = convert_float_to_float16(model, keep_io_types=True)
        return half
    return _quantized(model, folder, calibration if method == "int8-static" else None)


def _optimized(model: ModelProto, folder: Path) -> ModelProto:
    """Let the runtime write the graph as it would run it, without what ties it to this kind of processor."""
    import onnx

    runtime = require_runtime()
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load_model(str(folder / "optimized.onnx"))


def _quantized(model: ModelProto, folder: Path, calibration: Sequence[dict[str, Array]] | None) -> ModelProto:
    """Quantise weights, and activations by measured ranges or, with None, by those of each run.

    Raises:
        ConversionError: Nothing in the model can be quantised.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import IntegerOpsRegistry
    from onnxruntime.quantization.shape_inference import quant_pre_process

    before = _operators(model)
    whole, ready, made = (folder / f"{name}.onnx" for name in ("whole", "ready", "quantized"))
    whole.write_bytes(model.SerializeToString())  # the tool prepares a model in memory only if it has weights
    quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)  # symbolic shapes would need one more package
    if calibration is None:
        # Convolutions are left out: with scales of each run they take five times as long on a CPU (onnxruntime.md).
        operators = [name for name in IntegerOpsRegistry if name != "Conv"]
        quantization.quantize_dynamic(str(ready), str(made), op_types_to_quantize=operators)
    else:
        opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
        quantization.quantize_static(
            str(ready),
            str(made),
            _reader(calibration),
            per_channel=opset >= PER_CHANNEL_OPSET,
            # Signed activations are slow on x86.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    quantized = onnx.load_model(str(made))
    if _operators(quantized) <= before:
        hint = "convolutions are left out of dynamic quantisation: try --int8 static" if calibration is None else ""
        raise ConversionError(f"nothing in the model can be quantised{f' ({hint})' if hint else ''}")
    return quantized


def _operators(model: ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node if "Quant" in node.op_type or "Integer" in node.op_type}


def _reader(calibration: Sequence[dict[str, Array]]) -> Any:
    """Make the object that the tool asks for one input after the other."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the runtime has no types
        def __init__(self, inputs: Iterator[dict[str, Array]]) -> None:
            self._inputs = inputs

        def get_next(self) -> dict[str, Array] | None:
            return next(self._inputs, None)

    return Reader(iter(calibration))
