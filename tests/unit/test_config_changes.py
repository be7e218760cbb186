"""Which changed keys a model takes while it serves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchserve.config import MODEL_KEYS, DeclaredTensor, ModelConfig
from batchserve.core.limits import Limits
from batchserve.engine.changes import RELOADABLE, compare


def test_nothing_changed_changes_nothing() -> None:
    changes, config = compare(ModelConfig(), ModelConfig())
    assert (changes.applied, dict(changes.not_applied), config) == ((), {}, ModelConfig())


def test_keys_are_sorted_and_only_the_first_kind_is_put_in_force() -> None:
    before = ModelConfig(weight=1.0, latency_target_s=0.1)
    wanted = ModelConfig(weight=2.0, latency_target_s=None, shed=True, max_batch_size=4, timeout_s=9.0)
    changes, config = compare(before, wanted)
    assert changes.applied == ("latency_target", "shed", "weight")
    assert list(changes.not_applied) == ["max_batch_size", "timeout"]
    assert config == replace(before, weight=2.0, latency_target_s=None, shed=True)


def test_a_target_longer_than_the_timeout_in_force_waits_for_it() -> None:
    """Both are longer in the files, which is fine together; the timeout takes a load, and so does the target then."""
    before = ModelConfig(timeout_s=1.0, latency_target_s=0.5)
    changes, config = compare(before, ModelConfig(timeout_s=3.0, latency_target_s=2.0))
    assert (changes.applied, config) == ((), before)
    assert "longer than the timeout in force" in changes.not_applied["latency_target"]
    assert compare(before, ModelConfig(timeout_s=3.0, latency_target_s=1.0))[0].applied == ("latency_target",)


def test_declared_tensors_take_a_load() -> None:
    changes, config = compare(ModelConfig(), ModelConfig(inputs=(DeclaredTensor("x"),)))
    assert changes.not_applied == {"inputs and outputs": "take effect when the model is loaded again"}
    assert config == ModelConfig()


@pytest.mark.parametrize("name", RELOADABLE)
def test_every_key_that_changes_in_service_is_one_that_the_rules_let_change(name: str) -> None:
    assert MODEL_KEYS[name].field in Limits.RECONFIGURABLE
