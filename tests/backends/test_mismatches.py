"""What is warned of once a model is open: precision that a CPU does not gain by, and threads without cores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper
from support import onnx_models as models

from batchserve.backends import runtime
from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.mismatches import mismatches
from batchserve.backends.onnx import OnnxBackend
from batchserve.config import ModelConfig


def test_half_precision_on_a_cpu_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = models.save(models.identity(TensorProto.FLOAT16), tmp_path / "half.onnx")
    OnnxBackend().load(ModelFile("half", 1, path), ModelConfig()).close()
    assert "half takes or gives FP16" in caplog.text


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_inside_a_model_on_a_cpu_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, element: int
):
    proto = models.add_one()
    (one,) = proto.graph.initializer
    proto.graph.node.insert(0, helper.make_node("Cast", ["half"], [one.name], to=TensorProto.FLOAT))
    one.CopyFrom(helper.make_tensor("half", element, [], [1.0]))
    path = models.save(proto, tmp_path / "inside.onnx")
    OnnxBackend().load(ModelFile("inside", 1, path), ModelConfig()).close()
    assert "model inside keeps weights in 16 bits, with which a CPU computes no faster" in caplog.text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"instances": 3, "intra_op_threads": 2}, "runs 3 x 2 threads on 4 usable cores"),
        ({"intra_op_threads": 5}, "runs 1 x 5 threads on 4 usable cores"),
        ({"instances": 5}, "runs 5 x 1 threads on 4 usable cores"),
        ({"instances": 2, "intra_op_threads": 2}, ""),
        ({}, ""),
    ],
)
def test_more_threads_than_cores_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, config: dict[str, int], said: str
):
    monkeypatch.setattr("batchserve.backends.cores.usable_cores", lambda: 4)
    path = models.save(models.mlp(), tmp_path / "model.onnx")
    OnnxBackend().load(ModelFile("m", 1, path), ModelConfig(**config)).close()  # type: ignore[arg-type]
    assert said in caplog.text
    assert bool(said) == ("keep each other waiting" in caplog.text)


def test_affinity_that_a_provider_does_not_heed_is_named(tmp_path: Path):
    path = models.save(models.mlp(), tmp_path / "model.onnx")
    config = ModelConfig(cpu_affinity=(0,))
    for name, is_named in (("OpenVINOExecutionProvider", True), ("CUDAExecutionProvider", False)):
        session = SimpleNamespace(get_providers=lambda name=name: [name, "CPUExecutionProvider"])
        opened = runtime.Opened(path, session, None, 1, (Layout(1, 1),), "1")
        assert [f"which {name} does not heed" in told for told in mismatches(opened, config, ())] == [True] * is_named
