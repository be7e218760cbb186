"""Loading models that a test builds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto
from support import onnx_models

from batchserve.backends.base import ModelFile
from batchserve.backends.onnx import OnnxBackend, OnnxSession
from batchserve.config import ModelConfig


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., OnnxSession]]:
    """Load a model built in memory: `load(proto, max_batch_size=8)`; sessions are closed after the test."""
    sessions: list[OnnxSession] = []

    def load_model(proto: ModelProto, **config: Any) -> OnnxSession:
        path = onnx_models.save(proto, tmp_path / f"model{len(sessions)}" / "model.onnx")
        session = OnnxBackend().load(ModelFile("m", 1, path), ModelConfig(**config))
        sessions.append(session)
        return session

    yield load_model
    for session in sessions:
        session.close()
