"""Which models find each other on a device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from batchserve.config import ModelConfig
from batchserve.config.schema import MODEL_KEYS
from batchserve.engine.devices import device_name


@pytest.mark.parametrize(
    ("written", "providers"),
    [("cuda", ["CUDAExecutionProvider"]), ("cuda:0", ["TensorrtExecutionProvider"]), ("cpu", ["CPUExecutionProvider"])],
)
def test_a_device_that_is_named_is_the_one_that_auto_takes(written: str, providers: list[str]) -> None:
    """Two models on the same device share it, whether or not somebody wrote its name down."""
    session = SimpleNamespace(providers=providers)
    named = ModelConfig(device=MODEL_KEYS["device"].kind.read(written))
    assert device_name(session, named) == device_name(session, ModelConfig())  # type: ignore[arg-type]
    second = ModelConfig(device=MODEL_KEYS["device"].kind.read("cuda:1"))
    assert device_name(session, second) == "cuda:1"  # type: ignore[arg-type]
