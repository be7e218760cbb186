"""Fixtures of tests that run the real command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command import ServeProcess
from support.onnx_models import add_one, save
from support.slow_model import slow_echo

Serve = Callable[..., ServeProcess]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts `batchserve serve` with the given arguments on a free port; ends every process at the end of the test."""
    started: list[ServeProcess] = []

    def start(*arguments: str | Path, environ: dict[str, str] | None = None) -> ServeProcess:
        started.append(ServeProcess((*arguments, "--port", "0"), environ))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plain model files: `add_one.onnx` (`FP32[-1, 4]`, `y = x + 1`)."""
    folder = tmp_path_factory.mktemp("models")
    save(add_one(), folder / "add_one.onnx")
    return folder


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives every row back after some tens of milliseconds of work."""
    return save(slow_echo(layers=1000), tmp_path_factory.mktemp("slow") / "slow.onnx")
