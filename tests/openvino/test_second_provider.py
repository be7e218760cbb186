"""OpenVINO as a second provider on the CPU, for real: `make test-openvino` has an environment for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support import image_models as images
from support import onnx_models as models

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.onnx import OnnxBackend
from batchserve.backends.swapping import SwappingBackend, SwappingSession
from batchserve.config import ModelConfig, PreprocessConfig
from batchserve.errors import ModelLoadError, ProviderUnavailable

pytestmark = pytest.mark.needs("openvino")

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
OPENVINO, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    return ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))


def test_auto_takes_openvino_and_proves_it_batchable(file: ModelFile) -> None:
    session = OnnxBackend().load(file, ModelConfig())
    assert session.providers[0] == OPENVINO
    assert session.batchability.is_batchable
    session.close()


def test_both_providers_give_the_same_answers(file: ModelFile) -> None:
    ours = OnnxBackend().load(file, ModelConfig(providers=("openvino",)))
    plain = OnnxBackend().load(file, ModelConfig(providers=("cpu",)))
    assert plain.providers == (CPU,)
    inputs = plain.sample(7)
    for got, expected in zip(ours.run(inputs, 1), plain.run(inputs, 1), strict=True):
        assert np.allclose(got, expected, 1e-3, 1e-5)
    ours.close()
    plain.close()


@pytest.mark.parametrize("is_external", [False, True])
@pytest.mark.parametrize("how", ["none", "linear", "nearest"])
def test_images_as_bytes_are_prepared_by_the_provider(tmp_path: Path, how: str, is_external: bool) -> None:
    """Weights in another file are found although the changed graph is handed over as bytes."""
    path = tmp_path / "net.onnx"
    place = {"location": "weights.bin", "size_threshold": 0} if is_external else {}
    onnx.save_model(images.image_net(), path, save_as_external_data=is_external, **place)
    preprocess = PreprocessConfig(scale=images.SCALE, mean=images.MEAN, std=images.STD, resize=how)
    session = OnnxBackend().load(ModelFile("net", 1, path), ModelConfig(providers=("openvino",), preprocess=preprocess))
    pixels = images.pixels(3)
    expected = images.normalised(pixels) * images.weights_of()
    assert np.allclose(session.run([pixels], 1)[0], expected, 1e-3, 1e-3)
    session.close()


def test_options_are_handed_over(file: ModelFile) -> None:
    config = ModelConfig(providers=("openvino",), provider_options=(("openvino", (("device_type", "CPU"),)),))
    session = OnnxBackend().load(file, config)
    assert session.providers[0] == OPENVINO
    session.close()


def test_option_that_the_provider_does_not_know_is_an_error(file: ModelFile) -> None:
    config = ModelConfig(providers=("openvino",), provider_options=(("openvino", (("no_such_option", "1"),)),))
    with pytest.raises(ModelLoadError, match="no_such_option"):
        OnnxBackend().load(file, config)


def test_device_that_is_not_there_is_an_error_and_no_quiet_run_on_the_cpu(
    file: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    """The runtime itself prints a line and goes on without the provider."""
    config = ModelConfig(providers=("openvino",), provider_options=(("openvino", (("device_type", "GPU"),)),))
    with pytest.raises(ProviderUnavailable, match=f"{OPENVINO} could not be started"):
        OnnxBackend().load(file, config)
    session = OnnxBackend().load(file, replace(config, fallback="cpu"))
    assert session.providers == (CPU,)
    assert "as fallback allows" in caplog.text
    session.close()


def test_provider_that_is_missing_beside_it_names_what_is_there(file: ModelFile) -> None:
    with pytest.raises(ModelLoadError, match=f"'cuda' is not in the installed ONNX Runtime, which has {OPENVINO}"):
        OnnxBackend().load(file, ModelConfig(providers=("cuda",)))


def test_model_serves_on_the_cpu_while_openvino_is_built(file: ModelFile) -> None:
    config = ModelConfig(providers=("openvino", "cpu"), build="background")
    session = SwappingBackend(OnnxBackend()).load(file, config)
    assert isinstance(session, SwappingSession)
    assert session.providers == (CPU,)
    before = session.run(session.sample(3), 1)
    session.serve(Layout(1, 1), 8)
    assert session.wait(50)
    assert session.build.state in ("swapped", "refused"), session.build
    if session.build.state == "refused":
        assert "times as long" in session.build.why, "the model is tiny: its answers are right, its speed may not be"
    else:
        assert session.providers[0] == OPENVINO
    assert np.allclose(before[0], session.run(session.sample(3), 1)[0], 1e-2, 1e-3)
    session.close()


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.onnx")), ids=lambda path: path.relative_to(EXAMPLES).parts[0])
def test_auto_takes_openvino_only_where_it_answers_as_the_cpu(path: Path) -> None:
    """OpenVINO's provider of ONNX Runtime 1.24 answers the model `language` otherwise, by up to 0.5."""
    file = ModelFile("m", 1, path)
    session = SwappingBackend(OnnxBackend(), onnxruntime.get_available_providers).load(file, ModelConfig())
    assert isinstance(session, SwappingSession)
    assert session.providers == (CPU,)
    session.serve(Layout(1, 1), 8)
    assert session.wait(50)
    assert session.build.state in ("swapped", "declined"), session.build
    plain = OnnxBackend().load(file, ModelConfig(providers=("cpu",)))
    for rows in (1, 4):
        inputs = plain.sample(rows)
        assert np.allclose(session.run(inputs, 1)[0], plain.run(inputs, 1)[0], 2e-2, 2e-2)
    session.close()
    plain.close()
