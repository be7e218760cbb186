"""A second start of the real command knows what the first one learnt, unless that is not so any more."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import ServeProcess

Serve = Callable[..., ServeProcess]

ON = {"BATCHSERVE_SERVER__PROFILE_CACHE": "true"}


@pytest.fixture
def start(serve: Serve, slow: Path, tmp_path: Path) -> Serve:
    """Serve a model whose runs take milliseconds, with a cache folder of the test's own."""

    def run(*arguments: str) -> ServeProcess:
        # A profile belongs to the threads it was learnt with, and a busy machine may choose others at the next start.
        fixed = ("--set", "defaults.instances=1")
        process = serve(slow, "--set", f"server.cache_dir={tmp_path}", *fixed, *arguments, environ=ON)
        process.loaded()
        return process

    return run


def stop(process: ServeProcess) -> None:
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def profile_file(folder: Path) -> Path:
    (file,) = (folder / "profiles").iterdir()
    return file


def test_second_start_knows_the_costs_of_the_first(start: Serve, tmp_path: Path) -> None:
    first = start()
    assert "as an earlier run found" not in first.out.text()
    tensor = {"name": "x", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]}
    assert first.request("POST", "/v2/models/slow/infer", {"inputs": [tensor]})[0] == 200
    stop(first)
    file = profile_file(tmp_path)
    before = json.loads(file.read_bytes())
    assert [rows for rows, _ in before["measured"]][:4] == [1, 2, 3, 4]
    second = start("--set", "defaults.warmup_budget=0")  # no runs that a slower machine could call the profile stale by
    assert second.out.wait_for(r"^  cost +1 row .+ \(as an earlier run found\)$")
    stop(second)
    assert json.loads(file.read_bytes()) == before


def test_stale_profile_is_thrown_away_and_replaced(start: Serve, tmp_path: Path) -> None:
    stop(start())
    file = profile_file(tmp_path)
    value = json.loads(file.read_bytes())
    value["measured"] = [[rows, 5 * seconds] for rows, seconds in value["measured"] if rows == 1]
    file.write_text(json.dumps(value))
    process = start()
    assert process.err.wait_for(
        r"INFO .*model slow: its profile is thrown away and it is measured anew: a run of 1 rows"
    )
    stop(process)
    assert json.loads(file.read_bytes())["measured"][0][1] < value["measured"][0][1]


def test_corrupt_profile_is_told_of_and_replaced(start: Serve, tmp_path: Path) -> None:
    stop(start())
    file = profile_file(tmp_path)
    file.write_bytes(b"\0\0\0\0")
    process = start()
    assert process.err.wait_for(rf"WARNING .*model slow/1: the profile .*{file.name} is not used")
    assert process.request("GET", "/v2/health/ready")[0] == 200
    stop(process)
    assert json.loads(file.read_bytes())["q"] >= 1


def test_profiles_that_are_switched_off_leave_no_file(serve: Serve, models: Path, tmp_path: Path) -> None:
    process = serve(models, "--set", f"server.cache_dir={tmp_path}", "--set", "server.profile_cache=false")
    process.loaded()
    stop(process)
    assert list(tmp_path.iterdir()) == []


def test_default_cache_folder_is_the_users(serve: Serve, models: Path, tmp_path: Path) -> None:
    process = serve(models, environ={**ON, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    process.loaded()
    stop(process)
    assert profile_file(tmp_path / "cache" / "batchserve").suffix == ".json"
