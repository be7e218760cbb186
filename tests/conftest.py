"""Shared by every test: the folder of support modules, Hypothesis profiles, and programs that may be absent."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# `ci` keeps the suite quick and repeatable; `nightly` explores (make test-nightly).
settings.register_profile("ci", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "nightly", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own for every process they start: nothing is ever written to the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose program is absent, and say so; CI names the programs without which it must fail."""
    required = os.environ.get("TESTS_REQUIRE", "").split(",")
    for mark in item.iter_markers("needs"):
        (tool,) = mark.args
        if not (_has_provider(tool) if tool == "openvino" else shutil.which(tool)):
            if tool in required:
                pytest.fail(f"{tool} is not installed, and TESTS_REQUIRE asks for it", pytrace=False)
            pytest.skip(f"{tool} is not installed")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("there is no NVIDIA GPU, or no onnxruntime-gpu")


def _has_gpu() -> bool:
    from batchserve.backends.providers import cuda_devices

    return _has_provider("cuda") and cuda_devices() > 0


def _has_provider(name: str) -> bool:
    import onnxruntime

    return any(provider.lower().startswith(name) for provider in onnxruntime.get_available_providers())
