"""`batchserve bench` against a real server, and on a model file."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import ServeProcess, run_command
from support.onnx_models import add_one, save

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits"
SHORT = ("--duration", "600ms", "--warmup", "100ms")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    served = ServeProcess([DIGITS, "--port", "0"])
    try:
        yield served.loaded()
    finally:
        served.close()


def test_open_loop_is_measured_and_written_down(url: str, tmp_path: Path) -> None:
    json_file, page = tmp_path / "a.json", tmp_path / "a.html"
    files = ("--json", json_file, "--html", page)
    done = run_command("bench", url, "--model", "digits", "--rate", "50,100", "--target", "p99=2s", *SHORT, *files)
    assert done.returncode == 0, done.stderr
    document = json.loads(json_file.read_text())
    assert [run["label"] for run in document["runs"]] == ["50/s", "100/s"]
    for run in document["runs"]:
        assert run["loop"] == "open"
        assert run["total"]["failed"] == {}
        assert run["total"]["answered"] == run["offered"] > 0
        assert run["total"]["within_share"] == 1.0
        assert {"queue", "run", "total"} <= run["phases_s"].keys()
        assert sum(run["batch_rows"].values()) > 0
    assert document["versions"]["server"].startswith("batchserve")
    assert "100/s" in done.stdout
    assert "Latency against load" in page.read_text()


def test_without_a_speed_it_asks_over_several_connections_in_json_too(url: str) -> None:
    done = run_command("bench", url, "--model", "digits", "--connections", "1,4", "--format", "json", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "1 connections" in done.stdout
    assert "4 connections" in done.stdout
    assert "failed:" not in done.stdout


def test_search_finds_a_rate_that_holds_the_target(url: str, tmp_path: Path) -> None:
    """Half a second is held at any rate that the load can offer in so short a time; what is found is a rate."""
    json_file = tmp_path / "a.json"
    options = ("--duration", "300ms", "--warmup", "50ms", "--json", json_file)
    done = run_command("bench", url, "--model", "digits", "--target", "p90=500ms", *options)
    assert done.returncode == 0, done.stderr
    search = json.loads(json_file.read_text())["search"]
    assert search["rate"] > 100
    assert search["confirmed_share"] >= 0.9
    assert "Largest rate with p90 within 500 ms" in done.stdout


def test_missed_target_ends_with_status_1(url: str) -> None:
    done = run_command("bench", url, "--model", "digits", "--rate", "50", "--target", "p50=1us", *SHORT)
    assert done.returncode == 1
    assert "50/s" in done.stdout


def test_scenario_file_mixes_streams(url: str, tmp_path: Path) -> None:
    scenario, json_file = tmp_path / "mixed.toml", tmp_path / "a.json"
    scenario.write_text(
        'arrivals = "poisson:200"\nduration = "600ms"\nwarmup = "0"\n'
        '[[stream]]\nmodel = "digits"\nrows = [1, 4]\nweight = 3\n'
        '[[stream]]\nname = "volleys"\nmodel = "digits"\nformat = "json"\narrivals = "volleys:5,every=100ms"\n'
    )
    done = run_command("bench", url, "--scenario", scenario, "--json", json_file)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(json_file.read_text())["runs"]
    by_name = {stream["name"]: stream for stream in run["streams"]}
    assert by_name["volleys"]["answered"] == 30
    assert 60 < by_name["digits"]["answered"] < 200
    assert run["total"]["failed"] == {}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("{url}", "--model", "absent", "--rate", "5"), 1, "model 'absent'.*404"),
        (("{url}",), 2, "--model is missing"),
        (("{url}", "--model", "digits", "--rate", "5", "--arrivals", "poisson:5"), 2, "exclude each other"),
        (("{url}", "--model", "digits", "--rate", "0"), 2, "expected numbers above 0"),
        (("{url}", "--model", "digits", "--target", "20ms"), 2, "expected a percentile and a duration"),
        (("http://192.0.2.1:1", "--model", "digits", "--rate", "5"), 2, "--yes-remote"),
        (("absent.onnx",), 2, "neither a file nor a URL"),
        ((str(DIGITS / "1" / "model.onnx"), "--rate", "5"), 2, "--rate: means nothing for a model"),
        ((str(DIGITS / "1" / "model.onnx"), "--rows", "4"), 2, "--rows: means nothing for a model"),
        (("{url}", "--model", "digits", "--provider", "cpu"), 2, "--provider: means nothing for a server"),
        (("{url}", "--scenario", "a.toml", "--duration", "1s", "--no-check"), 2, "--duration, --check: the scenario"),
        (("{url}", "--replay", "a", "--rows", "4"), 2, "--rows: the recording says that"),
    ],
)
def test_what_cannot_be_measured_says_why(url: str, arguments: tuple[str, ...], status: int, message: str) -> None:
    done = run_command("bench", *(one.format(url=url) for one in arguments), "--quiet")
    assert done.returncode == status, done.stderr
    assert re.search(message, done.stderr.replace("\n", " ")), done.stderr


def test_model_is_measured_at_each_batch_size(tmp_path: Path) -> None:
    json_file, page = tmp_path / "a.json", tmp_path / "a.html"
    model = DIGITS / "1" / "model.onnx"
    options = ("--batch-sizes", "1,8", "--provider", "cpu", "--threads", "1", "--duration", "400ms")
    done = run_command("bench", model, *options, "--json", json_file, "--html", page)
    assert done.returncode == 0, done.stderr
    document = json.loads(json_file.read_text())
    assert [(row["provider"], row["batch_size"]) for row in document["rows"]] == [("cpu", 1), ("cpu", 8)]
    for row in document["rows"]:
        assert 0 < row["p50_s"] <= row["p99_s"]
        assert row["rows_per_s"] * row["mean_s"] == pytest.approx(row["batch_size"])
        assert row["memory_bytes"] > 0
    assert "intra_op_threads 1" in done.stdout
    assert "Throughput against batch size" in page.read_text()


def test_model_on_a_provider_that_is_not_there_says_so(tmp_path: Path) -> None:
    path = save(add_one(), tmp_path / "echo.onnx")
    done = run_command("bench", path, "--provider", "tensorrt")
    assert done.returncode == 1
    assert "cannot be loaded on tensorrt" in done.stderr


def test_recorded_traffic_is_sent_again(tmp_path: Path) -> None:
    """What a server writes down of one load, `--replay` sends to another server: as many, of the same kinds."""
    record, scenario, json_file = tmp_path / "record", tmp_path / "mixed.toml", tmp_path / "a.json"
    scenario.write_text(
        'arrivals = "poisson:150"\nduration = "800ms"\nwarmup = "0"\n[[stream]]\nmodel = "digits"\nrows = [1, 3]\n'
        "variants = 6\n"
    )
    recording = ServeProcess([DIGITS, "--port", "0", "--set", f"server.record={record}"])
    try:
        first = run_command("bench", recording.loaded(), "--scenario", scenario, "--json", json_file)
        recording.signal(signal.SIGTERM)
        assert recording.wait() == 0
    finally:
        recording.close()
    assert first.returncode == 0, first.stderr
    (run,) = json.loads(json_file.read_text())["runs"]
    replayed = ServeProcess([DIGITS, "--port", "0"])
    try:
        done = run_command("bench", replayed.loaded(), "--replay", record, "--speed", "2", "--json", json_file)
    finally:
        replayed.close()
    assert done.returncode == 0, done.stderr
    (again,) = json.loads(json_file.read_text())["runs"]
    alone = 6  # the load asks each of its requests once before it begins, and the server writes that down, too
    assert again["total"]["answered"] == run["total"]["answered"] + alone
    assert again["total"]["failed"] == {}
    assert again["window_s"] < run["window_s"]
