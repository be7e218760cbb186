"""`batchserve tune` on a real model, from the command line to a file that the server takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.command import COMMAND, PATIENCE_S, clean_environment, run_command

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits"
MODEL = DIGITS / "1" / "model.onnx"
START = '{"format": "batchserve-arrivals/1", "started": "2026-01-01T00:00:00+00:00"}\n'


def test_digits_are_tuned_and_the_result_is_served(tmp_path: Path) -> None:
    """The file that is written is taken by the server, holds the choice, and says what speaks for it."""
    cache = ("--set", f"server.cache_dir={tmp_path / 'cache'}")
    folder = tmp_path / "models" / "digits"
    (folder / "1").mkdir(parents=True)
    shutil.copy(MODEL, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text('timeout = "7s"\nmax_batch_size = 3\n')
    output, json_file = folder / "tuned.toml", tmp_path / "a.json"
    options = ("--target", "p90=500ms", "--traffic", "poisson:300", "--budget", "20s", "--quiet")
    done = run_command("tune", folder, *options, *cache, "--output", output, "--json", json_file)
    assert done.returncode == 0, done.stderr

    document = json.loads(json_file.read_text())
    assert document["spent_s"] < 2 * 20, "however busy the machine is"
    assert document["is_held"]
    assert document["measured"]
    assert document["predicted"][0]["asked"]["within_share"] >= 0.9
    assert {run["speed"] for one in document["confirmed"] for run in one["runs"]} == {1.0}
    text = output.read_text()
    assert text.startswith("# Written by `batchserve tune`")
    assert re.search(r"^# Chosen: cpu \d+ x \d+, max_batch_size \d+\.$", text, re.MULTILINE)
    assert re.search(r"^# p90 within 500 ms is held at .* requests/s", text, re.MULTILINE)
    assert re.search(r"^# Batching (pays|does not pay)", text, re.MULTILINE)
    assert "onnxruntime" in text

    output.rename(folder / "model.toml")
    shown = run_command("config", "show", tmp_path / "models", "--json")
    assert shown.returncode == 0, shown.stderr
    values = {name: entry["value"] for name, entry in json.loads(shown.stdout)["models"]["digits"].items()}
    chosen = document["chosen"]
    assert {name: values[name] for name in chosen if name != "provider"} == {
        name: value for name, value in chosen.items() if name != "provider"
    }
    assert values["latency_target"] == "450ms"
    assert values["timeout"] == "7s"
    checked = run_command("check", tmp_path / "models", *cache)
    assert checked.returncode == 0, checked.stdout
    assert "1 of 1 model can be served" in checked.stdout


def test_killed_tuning_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was measured before the kill is known to the next tuning."""
    cache = tmp_path / "cache"
    arguments = ["tune", str(MODEL), "--target", "p99=1us", "--output", str(tmp_path / "model.toml")]
    arguments += ["--set", f"server.cache_dir={cache}", "--set", "models.digits.max_batch_size=0"]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--budget", "10m"], env=clean_environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        while not list((cache / "tune").glob("[!.]*.json")):
            assert process.poll() is None, process.stderr.read()
            os.sched_yield()
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    done = run_command(*arguments, "--budget", "15s")
    assert "Goes on from" in done.stderr
    assert done.returncode == 1, done.stderr
    assert "The target cannot be met: a run of one row alone takes" in done.stdout
    assert re.search(r"A target of .* would do", done.stdout)
    assert "The model cannot be batched" in done.stdout
    assert (tmp_path / "model.toml").exists()


def test_tuning_that_is_ended_leaves_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "tune", str(MODEL), "--target", "p99=1s", "--set", f"server.cache_dir={tmp_path}"],
        env=clean_environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not list(tmp_path.glob("tune/[!.]*.json")):
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "model.toml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Missing option '--target'"),
        (("--target", "20ms"), "expected a percentile and a duration"),
        (("--target", "p99=20ms", "--traffic", "nope:5"), "no kind of schedule"),
        (("--target", "p99=20ms", "--traffic", "{trace}"), "asks for other"),
        (("--target", "p99=20ms", "--budget", "5"), "expected a duration"),
        (("--target", "p99=20ms", "--output", "{foreign}"), "was not written by tune"),
    ],
)
def test_what_cannot_be_tuned_says_why(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    trace, foreign = tmp_path / "a.jsonl", tmp_path / "model.toml"
    trace.write_text(START + '{"t": 0.0, "model": "other", "rows": 1, "dims": [[4]]}\n')
    foreign.write_text("max_batch_size = 4\n")
    filled = [one.format(trace=trace, foreign=foreign) for one in options]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "new.toml")]
    done = run_command("tune", MODEL, *filled)
    assert done.returncode == 2
    assert message in done.stderr


def test_provider_that_is_not_there_says_so(tmp_path: Path) -> None:
    options = ("--target", "p99=20ms", "--provider", "tensorrt", "--output", tmp_path / "m.toml")
    done = run_command("tune", MODEL, *options, "--set", f"server.cache_dir={tmp_path}")
    assert done.returncode == 1
    assert "tensorrt" in done.stderr
