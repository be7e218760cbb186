"""The batching benchmark measures real servers, and does not report what was answered wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.benchmarks import batching, server, wire

ROOT = Path(__file__).parents[2]


def test_one_short_round_compares_both_variants_and_writes_its_result(tmp_path: Path) -> None:
    short = ["--rounds", "1", "--seconds", "0.3", "--connections", "4", "--models", "digits"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "loadtest" / "batching.py"), *short, "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    by_variant = {one["variant"]: one for one in result["measurements"]}
    assert set(by_variant) == {"batching", "one by one"}
    assert by_variant["one by one"]["rows_per_execution"] == 1
    assert all(one["requests_per_s"] > 0 and one["server_cpu_us"] > 0 for one in by_variant.values())
    assert "| digits | 4 | batching |" in done.stdout
    assert str(path) in done.stdout


def test_wrong_answer_is_noticed() -> None:
    """Each connection asks about another row; two answers changed over are found out."""
    bench = batching.Bench("digits", 3)
    with server.Server([bench.folder]) as served:
        requests = bench.requests(3, f"127.0.0.1:{served.port}")
        job = batching.client.Job("127.0.0.1", served.port, requests, seconds=0.1)
        answers = batching.client.run(job).last_answers
    bench.check(answers)
    with pytest.raises(batching.WrongAnswerError, match=r"digits, connection 0: .* is not what its row gives alone"):
        bench.check([answers[1], answers[0], answers[2]])
    with pytest.raises(wire.WireError, match="status 500"):
        bench.check([b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}"])


def test_server_that_cannot_start_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(server.ServerError, match="no-such-folder"), server.Server([tmp_path / "no-such-folder"]):
        pass
