"""The benchmark of the tuner: which settings are compared, and what a choice is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.benchmarks import tuning

from batchserve.config import Settings


def test_grid_has_every_layout_and_size_and_the_choice() -> None:
    chosen = tuning.Cell(2, 1, 64)
    cells = tuning.grid(2, (1, 8), chosen)
    assert chosen in cells
    assert len(cells) == 3 * 2 + 1
    assert tuning.grid(2, (1, 64), chosen).count(chosen) == 1


def test_settings_are_taken_by_the_server() -> None:
    sets = [f"{key}={value}" for key, value in tuning.Cell(2, 1, 8).settings("encoder", 0.1).items()]
    config = Settings.load(None, sets).model("encoder")
    assert (config.instances, config.intra_op_threads, config.max_batch_size) == (2, 1, 8)
    assert config.latency_target_s == pytest.approx(0.09)


def test_choice_is_compared_with_the_best_by_medians_and_in_each_round() -> None:
    found = tuning.judged({"a": [100.0, 90.0, 110.0], "b": [96.0, 97.0, 20.0], "c": [1.0, 2.0, 3.0]}, "b")
    assert found["best"] == "a"
    assert found["ratio"] == pytest.approx(0.96)
    assert found["ratios"] == pytest.approx([0.96, 97 / 90, 20 / 110])
    assert found["is_good"]
    assert not tuning.judged({"a": [100.0], "b": [94.0]}, "b")["is_good"]
    assert tuning.judged({"a": [100.0], "b": [94.0]}, "a")["ratio"] == 1.0


def test_table_has_a_line_for_each_model() -> None:
    one = {
        "model": "m", "target_s": 0.02, "took_s": 59.0, "budget_s": 60.0, "chosen": "1 x 2, 8", "chosen_per_s": 96.0,
        "best": "2 x 1, 8", "best_per_s": 100.0, "ratio": 0.96, "ratios": [0.95, 0.97],
        "tuned": {"batching": {"gain": 1.04}, "spent_s": 58.0, "says": ["Chosen: x.", "Batching does not pay: no."]},
    }  # fmt: skip
    line = "| m | 20 | 59 (60) | 1 x 2, 8 | 96 | 2 x 1, 8 | 100 | 0.960 (0.95-0.97) | x 1.04 | does not pay |"
    assert line in tuning.table([one])
    good, quick = tuning.findings([one])
    assert (good.verdict, quick.verdict) == ("met", "met")
    late, _ = tuning.findings([{**one, "ratios": [0.9, 0.94]}])
    assert late.verdict == "NOT met"


def test_models_of_an_earlier_result_are_kept_if_it_is_of_the_same_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [{"model": name, "goodput_per_s": {"1 x 2, 8": [1.0, 2.0]}} for name in ("encoder", "mlp-wide")]
    file = tmp_path / "tuning.json"
    file.write_text(json.dumps({"machine": {"commit": "abc"}, "models": models}))
    monkeypatch.setattr(tuning.machine, "commit", lambda: "abc")
    assert tuning.earlier(file, ["encoder"], 2) == models[1:]
    with pytest.raises(tuning.RunError, match="rounds"):
        tuning.earlier(file, [], 3)
    monkeypatch.setattr(tuning.machine, "commit", lambda: "def")
    with pytest.raises(tuning.RunError, match="another version"):
        tuning.earlier(file, [], 2)
    file.write_text("[]")
    with pytest.raises(tuning.RunError, match="no result"):
        tuning.earlier(file, [], 2)
