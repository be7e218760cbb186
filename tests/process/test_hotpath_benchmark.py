"""The frontend's benchmark measures real servers, and its baselines and troublemakers do their part."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.benchmarks import client, conversation, hotpath_scenarios, models, questions, scrape, server, trouble, wrk

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "loadtest" / "hotpath.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)


def baseline(script: str, *arguments: str) -> server.Process:
    return server.Process([sys.executable, str(ROOT / "loadtest" / "baselines" / script), *arguments])


@pytest.mark.needs("wrk")
def test_one_short_round_compares_batchserve_with_the_echo_and_writes_its_result(tmp_path: Path) -> None:
    done = run("--only", "latency", "--rounds", "1", "--seconds", "1", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "left out: mosec" in done.stderr
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    by_variant = {one["variant"]: one["values"] for one in result["samples"]}
    assert set(by_variant) == {"batchserve", "echo"}
    assert all(values["requests_per_s"] > 0 and values["p50_us"] > 0 for values in by_variant.values())
    (finding,) = result["findings"]
    assert finding["median"] == by_variant["batchserve"]["p50_us"] - by_variant["echo"]["p50_us"]
    assert "| latency | 1 | echo |" in done.stdout
    assert result["wrk"].startswith("wrk ")


@pytest.mark.needs("wrk")
def test_python_without_mosec_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    done = run("--only", "small", "--mosec-python", str(tmp_path / "python"), "--results", str(tmp_path))
    assert done.returncode == 1
    assert "cannot be run" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("wrk")
def test_answers_that_are_errors_end_the_measurement_without_a_result() -> None:
    with baseline("aiohttp_fixed.py", "--path", "/a", "--answer-bytes", "5") as served:
        good = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
        assert wrk.measure(served.port, [good], 2, 1, [served.pid]).answered > 0
        with pytest.raises(client.LoadError, match="'status'"):
            wrk.measure(served.port, [good, good.replace(b"/a", b"/b")], 2, 1, [served.pid])
    with pytest.raises(client.LoadError, match="wrk"):
        wrk.measure(served.port, [good], 2, 1, [])


@pytest.mark.parametrize("body_bytes", [1, 1 << 20])
@pytest.mark.parametrize(
    ("script", "arguments"), [("echo.py", ()), ("aiohttp_fixed.py", ("--path", "/a")), ("aiohttp_fixed.py", ("json",))]
)
def test_baseline_reads_the_whole_body_and_answers_so_many_bytes(
    script: str, arguments: Sequence[str], body_bytes: int
) -> None:
    body = b"x" * body_bytes
    if arguments == ("json",):
        arguments, body = ("--path", "/a", "--decode-json"), b'{"inputs":[{"data":[1%b]}]}' % (b",1" * body_bytes)
    request = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with (
        baseline(script, "--answer-bytes", "300", *arguments) as served,
        conversation.Conversation(served.port) as asked,
    ):
        for _ in range(2):
            assert len(asked.ask(request).partition(b"\r\n\r\n")[2]) == 300


def test_every_client_of_the_soak_is_answered_as_it_expects() -> None:
    small = hotpath_scenarios.small_questions()
    rows = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    image = questions.Questions("identity-image", models.model_folder("identity-image"), "x", rows)
    waiting = questions.Questions("identity", models.model_folder("identity"), "x", rows[:, 0, 0, :16])
    large = hotpath_scenarios.large_questions()
    folders = [each.folder for each in (small, large, image, waiting)]
    with hotpath_scenarios.batchserve(folders, **{"models.identity.max_queue_delay": "50ms"}) as served:
        before = served.settled_descriptors()
        for name, kind in trouble.clients(small, large, image, waiting).items():
            assert kind.step(served.port) > 0 or name.startswith("left"), name
        assert served.settled_descriptors() <= before
        page = scrape.scrape(served.port)
    assert page.total("batchserve_requests_total", model="identity", outcome="cancelled") > 0


def test_client_of_the_soak_notices_a_wrong_answer() -> None:
    """The questions are put to a model with the same name and other weights."""
    small = hotpath_scenarios.small_questions()
    other = questions.Questions("mlp-small", small.folder, "x", small.rows[::-1].copy())
    other.rows = small.rows
    with hotpath_scenarios.batchserve([small.folder]) as served:
        kinds = trouble.clients(other, other, other, other)
        for name in ("binary", "json", "mixed", "nonsense"):
            with pytest.raises(questions.WrongAnswerError, match="mlp-small, connection 0"):
                kinds[name].step(served.port)
