"""SIGHUP and the reload endpoint of the real command: changed files take effect, bad ones change nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import ServeProcess
from support.onnx_models import add_one, save

Serve = Callable[..., ServeProcess]

RELOAD = "/v2/models/{}/config/reload"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository of the models `one` and `two`, each with a `model.toml`."""
    for name in ("one", "two"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        save(add_one(), tmp_path / "models" / name / "1" / "model.onnx")
        (tmp_path / "models" / name / "model.toml").write_text("max_queue_size = 100\n")
    return tmp_path


def start(serve: Serve, folder: Path, text: str) -> ServeProcess:
    file = folder / "batchserve.toml"
    file.write_text(text)
    process = serve(folder / "models", "--config", file)
    process.loaded()
    return process


def queue_size(process: ServeProcess, model: str) -> str:
    _, config = process.request("GET", f"/v2/models/{model}/config")
    size = config["parameters"]["max_queue_size"]["string_value"]
    assert isinstance(size, str)
    return size


def test_sighup_reads_every_file_again_and_tells_what_became_of_each_key(serve: Serve, folder: Path) -> None:
    process = start(serve, folder, '[server]\nidle_timeout = "70s"\n')
    (folder / "batchserve.toml").write_text('[server]\nidle_timeout = "71s"\n[models.two]\nmax_queue_size = 7\n')
    (folder / "models" / "one" / "model.toml").write_text(
        'max_queue_size = 5\nlatency_target = "1s"\nmax_batch_size = 8\n'
    )
    process.signal(signal.SIGHUP)
    for line in (
        r"INFO .*model one: changed from now on: latency_target, max_queue_size",
        r"INFO .*model two: changed from now on: max_queue_size",
        r"WARNING .*model one: max_batch_size has changed and takes effect when the model is loaded again",
        r"WARNING .*server: server\.idle_timeout has changed and takes effect when the server is started again",
    ):
        assert process.err.wait_for(line), process.err.text()
    assert (queue_size(process, "one"), queue_size(process, "two")) == ("5", "7")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_bad_file_changes_nothing_anywhere_and_says_why(serve: Serve, folder: Path) -> None:
    """The good change of one model waits until the bad file of the other is mended."""
    process = start(serve, folder, "")
    (folder / "models" / "one" / "model.toml").write_text("max_queue_size = 5\n")
    bad = folder / "models" / "two" / "model.toml"
    bad.write_text("max_queue_size = 0\n")
    process.signal(signal.SIGHUP)
    assert process.err.wait_for(r"ERROR .*the configuration is as it was: .*max_queue_size = 0 is too small")
    assert (queue_size(process, "one"), queue_size(process, "two")) == ("100", "100")
    bad.write_text("max_queue_size = 6\n")
    process.signal(signal.SIGHUP)
    assert process.err.wait_for(r"model two: changed from now on: max_queue_size")
    assert (queue_size(process, "one"), queue_size(process, "two")) == ("5", "6")
    process.signal(signal.SIGHUP)
    assert process.err.wait_for(r"INFO .*the configuration was read again: nothing has changed")


def test_settings_for_a_model_that_is_not_served_are_a_bad_file(serve: Serve, folder: Path) -> None:
    process = start(serve, folder, "")
    (folder / "batchserve.toml").write_text("[models.on]\nweight = 2\n[models.two]\nmax_queue_size = 7\n")
    process.signal(signal.SIGHUP)
    assert process.err.wait_for(
        r"ERROR .*the configuration is as it was: .*no model 'on' is served; did you mean 'one'"
    )
    assert queue_size(process, "two") == "100"


def test_the_endpoint_reloads_one_model_and_names_files_without_their_folders(serve: Serve, folder: Path) -> None:
    process = start(serve, folder, "[server]\nadmin = true\n")
    for name in ("one", "two"):
        (folder / "models" / name / "model.toml").write_text("max_queue_size = 5\ninstances = 2\n")
    (folder / "batchserve.toml").write_text("[server]\nadmin = true\nport = 1\n[models.one]\nmax_queue_delay = 'xx'\n")
    status, answer = process.request("POST", RELOAD.format("one"))
    assert (status, queue_size(process, "one")) == (400, "100")
    assert (
        "the configuration of model 'one' is as it was: batchserve.toml: models.one.max_queue_delay" in answer["error"]
    )
    assert str(folder) not in answer["error"]
    (folder / "batchserve.toml").write_text("[server]\nadmin = true\nmax_connections = 9\n")
    load = "takes effect when the model is loaded again"
    restart = "takes effect when the server is started again"
    assert process.request("POST", RELOAD.format("one")) == (
        200,
        {"applied": ["max_queue_size"], "not_applied": {"instances": load, "server.max_connections": restart}},
    )
    assert (queue_size(process, "one"), queue_size(process, "two")) == ("5", "100")
    assert process.request("POST", "/v2/repository/models/one/load") == (200, {})
    assert process.request("POST", RELOAD.format("one"))[1]["applied"] == []
    _, config = process.request("GET", "/v2/models/one/config")
    assert config["instance_group"][0]["count"] == 2


def test_a_load_after_a_reload_reads_the_changed_configuration_file(serve: Serve, folder: Path) -> None:
    process = start(serve, folder, "[server]\nadmin = true\n")
    (folder / "batchserve.toml").write_text("[server]\nadmin = true\n[models.one]\nmax_batch_size = 3\n")
    process.signal(signal.SIGHUP)
    assert process.err.wait_for(r"WARNING .*model one: max_batch_size has changed")
    assert process.request("POST", "/v2/repository/models/one/load")[0] == 200
    assert process.request("GET", "/v2/models/one/config")[1]["max_batch_size"] == 3


def test_a_server_whose_terminal_is_closed_drains_and_stops(folder: Path) -> None:
    """A terminal sends SIGHUP, too, when it goes; the server must not live on where nobody sees it."""
    terminal, side = os.openpty()
    process = ServeProcess(
        (folder / "models", "--port", "0"),
        stdin=side,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(side, termios.TIOCSCTTY, 0),
    )
    try:
        process.loaded()
        process.signal(signal.SIGHUP)
        assert process.err.wait_for(r"INFO .*the configuration was read again: nothing has changed")
        os.close(side)
        os.close(terminal)
        assert process.wait() == 0
        assert process.out.wait_for(r"^SIGHUP: finishing the requests that were admitted")
    finally:
        process.close()
