"""`batchserve simulate`: predictions from a model's own curve, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import run_command

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits"
START = '{"format": "batchserve-arrivals/1", "started": "2026-01-01T00:00:00+00:00"}\n'


def test_made_up_traffic_is_predicted(tmp_path: Path) -> None:
    json_file = tmp_path / "a.json"
    cache = ("--set", f"server.cache_dir={tmp_path}")
    options = ("--arrivals", "poisson:200", "--load", "2", "--duration", "2s", "--target", "50ms", "--json", json_file)
    done = run_command("simulate", DIGITS, *cache, *options)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(json_file.read_text())["predictions"]
    assert one["offered_per_s"] == pytest.approx(400, rel=0.2)
    assert one["within_share"] == 1.0
    assert 0 < one["p50_s"] <= one["p99_s"] < 0.05
    assert "digits" in done.stdout


def test_recorded_traffic_is_predicted(tmp_path: Path) -> None:
    lines = [json.dumps({"t": n / 100, "model": "digits", "rows": 1 + n % 2, "dims": [[64]]}) for n in range(100)]
    (tmp_path / "a.jsonl").write_text(START + "\n".join(lines) + "\n")
    cache = ("--set", f"server.cache_dir={tmp_path / 'cache'}")
    done = run_command("simulate", DIGITS, *cache, "--replay", tmp_path / "a.jsonl", "--load", "1.5", "--slots", "2")
    assert done.returncode == 0, done.stderr
    assert "100.0%" in done.stdout
    assert "Nothing is known of digits in service" in done.stderr
    assert not list((tmp_path / "cache").rglob("*.json"))  # profiles are the servers' own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --replay, --scenario and --arrivals"),
        (("--arrivals", "poisson:5", "--replay", "x"), "give one of"),
        (("--arrivals", "nope:5"), "no kind of schedule"),
        (("--replay", "absent.jsonl"), "cannot be read"),
    ],
)
def test_traffic_that_is_none_says_so(options: tuple[str, ...], message: str) -> None:
    done = run_command("simulate", DIGITS, *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_traffic_for_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(START + '{"t": 0.0, "model": "other", "rows": 1, "dims": [[4]]}\n')
    done = run_command("simulate", DIGITS, "--replay", tmp_path / "a.jsonl")
    assert done.returncode == 2
    assert "asks for other" in done.stderr
