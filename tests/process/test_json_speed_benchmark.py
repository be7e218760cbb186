"""The benchmark of large JSON compares what reads the same, and says so in one line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_short_run_measures_every_parser_that_is_here() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "loadtest" / "json_speed.py"), "--rounds=1", "--lag-rounds=1", "--seconds=0.1"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    cases = {one["case"] for one in result["speed"]}
    assert cases == {"FP32 flat", "FP32 nested", "UINT8 flat", "UINT8 nested"}
    assert all(one["least"] <= one["speedup"] <= one["most"] for one in result["speed"])
    assert all(one["ticks"] > 0 for one in result["lag"])
    assert {(one["work"], one["with"]) for one in result["lag"]} >= {
        ("idle", ""),
        ("decode FP32 nested", "built-in"),
        ("decode FP32 nested", "json.loads + np.array"),
        ("encode FP32", "in pieces"),
        ("encode FP32", "json.dumps"),
    }
    assert "| FP32 flat, 3.1 MB | built-in |" in done.stdout
