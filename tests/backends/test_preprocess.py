"""Preprocessing that becomes part of a model: what it computes, what clients see of it, and what it refuses."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import image_models as images
from support import onnx_models

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.onnx import OnnxBackend, OnnxSession
from batchserve.config import ModelConfig, PreprocessConfig
from batchserve.errors import ModelLoadError

Load = Callable[..., OnnxSession]

NORMALISE: dict[str, Any] = {"scale": images.SCALE, "mean": images.MEAN, "std": images.STD}
CLOSE = 1e-5
"""A channel's factor and summand are rounded once each, where a client rounds three times: some 1e-7 of 255/std."""


def answer(session: OnnxSession, *inputs: Any) -> Any:
    return session.run([np.ascontiguousarray(one) for one in inputs], 1)[0]


def test_bytes_give_the_answer_of_floats_prepared_by_the_client(load: Load) -> None:
    plain = load(images.image_net())
    prepared = load(images.image_net(), preprocess=PreprocessConfig(**NORMALISE))
    pixels = images.pixels(4)
    expected = answer(plain, images.normalised(pixels))
    np.testing.assert_allclose(answer(prepared, pixels), expected, rtol=CLOSE, atol=CLOSE)


def test_clients_see_bytes_in_their_own_layout(load: Load) -> None:
    session = load(images.image_net(), preprocess=PreprocessConfig(**NORMALISE))
    (spec,) = session.inputs
    assert (spec.name, spec.datatype.name, spec.shape) == ("image", "UINT8", (-1, 8, 6, 3))
    assert session.outputs[0].shape == (-1, 3, 8, 6)
    assert session.facts["preprocess"].startswith("image: uint8 NHWC->NCHW, times 0.0039")


def test_model_stays_batchable_and_is_proved_with_values_of_pixels(load: Load) -> None:
    session = load(images.image_net(), preprocess=PreprocessConfig())
    assert session.batchability.is_batchable, session.batchability.why
    sample = session.sample(4)[0]
    assert sample.dtype == np.uint8
    assert sample.max() > 200


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12, 13, 17, 18, 19, 21])
def test_operators_are_of_the_models_own_opset(load: Load, opset: int) -> None:
    session = load(images.image_net(opset=opset), preprocess=PreprocessConfig(**NORMALISE))
    pixels = images.pixels(2)
    expected = images.normalised(pixels) * images.weights_of()
    np.testing.assert_allclose(answer(session, pixels), expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 19, 21])
@pytest.mark.parametrize("how", ["linear", "nearest"])
@pytest.mark.parametrize("size", [(16, 12), (5, 9), (8, 6), (1, 1)], ids=str)
def test_image_of_any_size_is_brought_to_the_models(load: Load, opset: int, how: str, size: tuple[int, int]) -> None:
    session = load(images.image_net(opset=opset), preprocess=PreprocessConfig(resize=how, **NORMALISE))
    assert session.inputs[0].shape == (-1, -1, -1, 3)
    pixels = images.pixels(2, *size)
    expected = images.normalised(images.resized(pixels, 8, 6, how)) * images.weights_of()
    np.testing.assert_allclose(answer(session, pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["none", "linear", "nearest"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_other_layouts_keep_their_axes(load: Load, layout: str, how: str) -> None:
    shape = ("batch", 3, 8, 6) if layout == "NCHW" else ("batch", 8, 6, 3)
    session = load(images.image_net(shape), preprocess=PreprocessConfig(layout=layout, resize=how, **NORMALISE))
    pixels = images.pixels(2)
    values = images.normalised(pixels)
    sent = pixels
    if layout == "NCHW":
        sent = pixels.transpose(0, 3, 1, 2)
    else:
        values = values.transpose(0, 2, 3, 1)
    assert session.inputs[0].shape[-3:] == tuple(-1 if how != "none" and size != 3 else size for size in shape[1:])
    expected = values * images.weights_of(shape[1:])  # type: ignore[arg-type]
    np.testing.assert_allclose(answer(session, sent), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_given_to_a_model_that_takes_it(load: Load) -> None:
    session = load(images.image_net(element=TensorProto.FLOAT16), preprocess=PreprocessConfig(scale=images.SCALE))
    pixels = images.pixels(2)
    expected = images.normalised(pixels, mean=0, std=1) * images.weights_of()
    np.testing.assert_allclose(answer(session, pixels).astype(np.float32), expected, rtol=5e-3, atol=5e-3)


def test_one_number_is_for_all_channels(load: Load) -> None:
    config = PreprocessConfig(scale=images.SCALE, mean=(0.5,), std=(0.25,))
    pixels = images.pixels(2)
    expected = images.normalised(pixels, mean=0.5, std=0.25) * images.weights_of()
    np.testing.assert_allclose(answer(load(images.image_net(), preprocess=config), pixels), expected, rtol=CLOSE)


def test_old_file_that_lists_its_weights_as_inputs(load: Load) -> None:
    session = load(images.image_net(opset=8, ir_version=3), preprocess=PreprocessConfig())
    assert [spec.name for spec in session.inputs] == ["image"]
    pixels = images.pixels(1)
    expected = images.normalised(pixels, 1, 0, 1) * images.weights_of()
    np.testing.assert_allclose(answer(session, pixels), expected, rtol=CLOSE)


def test_free_height_and_width_stay_free(load: Load) -> None:
    shape = ("batch", 3, "height", "width")
    session = load(images.image_net(shape), preprocess=PreprocessConfig())
    assert session.inputs[0].shape == (-1, -1, -1, 3)


def test_branch_that_reads_the_image_reads_the_prepared_one(load: Load) -> None:
    shape = ("batch", 3, 8, 6)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["image"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, shape)],
        )
        for name, op in (("then", "Neg"), ("else", "Abs"))
    }
    proto = onnx_models.model(
        [helper.make_node("If", ["yes"], ["y"], **branches)],
        [onnx_models.tensor("image", TensorProto.FLOAT, shape)],
        [onnx_models.tensor("y", TensorProto.FLOAT, shape)],
        {"yes": np.array(True)},
    )
    pixels = images.pixels(1)
    expected = -images.normalised(pixels, 1, 0, 1)
    np.testing.assert_array_equal(answer(load(proto, preprocess=PreprocessConfig()), pixels), expected)


def test_weights_in_another_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(images.image_net(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    session = OnnxBackend().load(ModelFile("m", 1, path), ModelConfig(preprocess=PreprocessConfig()))
    pixels = images.pixels(2)
    expected = images.normalised(pixels, 1, 0, 1) * images.weights_of()
    np.testing.assert_allclose(answer(session, pixels), expected, rtol=CLOSE)
    session.close()


def test_another_input_is_left_alone(load: Load) -> None:
    proto = images.image_net()
    proto.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, ("batch", 1, 1, 1)))
    proto.graph.node[0].output[0] = "weighted"
    proto.graph.node.append(helper.make_node("Mul", ["weighted", "factor"], ["y"]))
    with pytest.raises(ModelLoadError, match=r"2 of the model's inputs \(image, factor\) can be one: name it"):
        load(proto, preprocess=PreprocessConfig())
    session = load(proto, preprocess=PreprocessConfig(input="image"))
    assert [spec.datatype.name for spec in session.inputs] == ["UINT8", "FP32"]
    assert [one.dtype for one in session.sample(2)] == [np.uint8, np.float32]


def test_model_opened_again_takes_the_same(load: Load) -> None:
    session = load(images.image_net(), preprocess=PreprocessConfig(**NORMALISE))
    again = session.reopen(Layout(1, 1))
    pixels = images.pixels(3)
    np.testing.assert_array_equal(answer(again, pixels), answer(session, pixels))
    again.close()


def test_session_does_not_hold_the_files_content(load: Load) -> None:
    session = load(images.image_net(), preprocess=PreprocessConfig())
    held = [value for value in vars(session._session).values() if isinstance(value, bytes)]
    assert held == []


@pytest.mark.parametrize(
    ("proto", "config", "why"),
    [
        (images.image_net(), {"input": "imag"}, "does not have: did you mean 'image'.*its inputs are image"),
        (images.image_net(), {"mean": (1.0, 2.0)}, r"mean has 2 numbers, but .* has 3 channels in layout NHWC->NCHW"),
        (images.image_net(), {"std": (1.0,) * 4}, r"std has 4 numbers, but input 'image' .* has 3 channels"),
        (images.image_net(("batch", 8, 6, 3)), {"mean": (1.0,) * 3}, "has 8 channels .* correct preprocess.layout"),
        (images.image_net(("batch", "c", 8, 6)), {}, "axis 1 of input 'image' for the channels, but its size is free"),
        (images.image_net(("batch", 3, "h", 6)), {"resize": "linear"}, "to the model's own height and width, but"),
        (onnx_models.add_one(), {}, "cannot be for input 'x': it has 2 axes, and images have 4"),
        (onnx_models.one_op("Abs", shape=None, out=None), {}, "it has no known number of axes"),
        (images.image_net(element=TensorProto.INT64), {}, "it takes INT64, and preprocess gives FLOAT or FLOAT16"),
        (images.image_net(opset=6), {}, "needs a model of opset 7 or newer, but this one has 6"),
        (images.image_net(opset=10), {"resize": "nearest"}, "with resize needs a model of opset 11 or newer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_remedy(load: Load, proto: Any, config: Any, why: str) -> None:
    with pytest.raises(ModelLoadError, match=why):
        load(proto, preprocess=PreprocessConfig(**config))


def test_image_that_is_an_output_too_is_refused(load: Load) -> None:
    proto = images.image_net()
    proto.graph.output.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, 8, 6)))
    with pytest.raises(ModelLoadError, match="is an output of the model too"):
        load(proto, preprocess=PreprocessConfig())


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(ModelLoadError, match="not an ONNX model"):
        OnnxBackend().load(ModelFile("m", 1, tmp_path / "model.onnx"), ModelConfig(preprocess=PreprocessConfig()))


def test_missing_package_is_named(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return real(name, *rest, **more)

    proto = images.image_net()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelLoadError, match=r"the package onnx, which is not installed: install batchserve\[onnx\]"):
        load(proto, preprocess=PreprocessConfig())


def test_weights_are_not_read_into_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of many gigabytes with its weights elsewhere costs no memory here."""
    from batchserve.backends.preprocess import preprocessed

    proto = images.image_net()
    big = numpy_helper.from_array(np.zeros(1 << 18, np.float32), "unused")
    proto.graph.initializer.append(big)
    path = tmp_path / "model.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(preprocessed(path, PreprocessConfig()).content) < 4096
