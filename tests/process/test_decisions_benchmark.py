"""The benchmark of decisions measures every size, and writes down what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_short_run_measures_every_size(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "loadtest" / "decisions.py"), "--batches=20", f"--results={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.json")
    sizes = json.loads(path.read_text())["sizes"]
    assert [one["rows"] for one in sizes] == [1, 2, 4, 8, 16, 32]
    assert all(0 < one["quarter"] <= one["together"] <= one["three_quarters"] for one in sizes)
    assert "| rows in a batch |" in done.stdout
