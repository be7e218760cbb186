"""What a model's configuration comes to once it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.core.limits import Limits
from batchserve.engine.loading import load_model


async def limits_of(backend: FakeBackend | None = None, **config: object) -> Limits:
    given = ModelConfig(**{"warmup_budget_s": 0.0, **config})  # type: ignore[arg-type]
    model = await load_model(ModelFile("m", 1, Path("m.onnx")), given, backend or FakeBackend(), executor=None)  # type: ignore[arg-type]
    limits = model.limits
    await model.close()
    return limits


@pytest.mark.parametrize(
    ("target", "shed", "is_shedding"),
    [(None, None, False), (0.05, None, True), (0.05, False, False), (0.05, True, True), (None, True, True)],
)
async def test_a_target_sheds_unless_the_configuration_says_no(
    target: float | None, shed: bool | None, is_shedding: bool
) -> None:
    limits = await limits_of(latency_target_s=target, shed=shed)
    assert (limits.latency_target_s, limits.shed) == (target, is_shedding)


async def test_what_is_configured_reaches_the_rules() -> None:
    limits = await limits_of(preferred_batch_sizes=(4, 8), max_batch_size=8, weight=2.5, run_timeout_s=7.0)
    assert (limits.preferred_batch_sizes, limits.weight, limits.run_timeout_s) == ((4, 8), 2.5, 7.0)


@pytest.mark.parametrize(
    ("batchable", "used", "left_out", "most"), [(True, (8, 32), "64", 32), (False, (), "8, 32, 64", 1)]
)
async def test_preferred_sizes_above_what_auto_came_to_are_left_out_aloud(
    batchable: bool, used: tuple[int, ...], left_out: str, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    limits = await limits_of(FakeBackend(batchable=batchable), preferred_batch_sizes=(8, 32, 64))
    assert limits.preferred_batch_sizes == used
    assert f"of preferred_batch_sizes {left_out} are not used: one run takes at most {most} rows" in caplog.text
