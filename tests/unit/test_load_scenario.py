"""Scenario files and targets: what is read, and what is refused with a reason."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from batchserve.errors import ConfigError
from batchserve.load.arrivals import Ramp, Steady
from batchserve.load.scenario import Scenario, Stream, read_scenario
from batchserve.load.target import parse_target

WHOLE = """
arrivals = "ramp:10-50"
connections = 8
duration = "5s"
warmup = "500ms"
timeout = "2s"
latency_target = "20ms"
max_requests = 1000
timing_every = 4
tick = "1ms"
seed = 7

[[stream]]
name = "short"
model = "encoder"
version = "2"
weight = 3
rows = [1, 4]
lengths = [8, 128]
values.input_ids = [0, 30521]
priority = 1
timeout = "1s"
format = "json"
variants = 5
latency_target = "10ms"

[[stream]]
model = "image"
shapes.pixels = [1, 3, 32, 32]
arrivals = "constant:5"
check = false
headers = { X-Client = "a" }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(text)
    return path


def test_every_key_reaches_its_field(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path, WHOLE))
    assert scenario == Scenario(
        streams=[
            Stream(
                name="short",
                model="encoder",
                version="2",
                weight=3.0,
                rows=(1, 4),
                lengths=(8, 128),
                values={"input_ids": (0, 30521)},
                priority=1,
                timeout_s=1.0,
                form="json",
                variants=5,
                target_s=0.01,
                path="/",
            ),
            Stream(
                name="image",
                model="image",
                shapes={"pixels": (1, 3, 32, 32)},
                arrivals=Steady(5.0, is_even=True),
                headers={"X-Client": "a"},
                is_checked=False,
                path="/",
            ),
        ],
        arrivals=Ramp(10.0, 50.0),
        connections=8,
        duration_s=5.0,
        warmup_s=0.5,
        timeout_s=2.0,
        target_s=0.02,
        most_requests=1000,
        timing_every=4,
        tick_s=0.001,
        seed=7,
    )
    assert scenario.is_open_loop


def test_scenario_without_arrivals_is_a_closed_loop(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path, '[[stream]]\nmodel = "m"\n'))
    assert not scenario.is_open_loop


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no stream"),
        ("duration = 5", "expected a duration with its unit"),
        ("durration = '5s'", "durration: there is no such key; did you mean 'duration'"),
        ("[[stream]]\n", r"stream\[0\].model is missing"),
        ("[[stream]]\nmodel='m'\nrows=[4,1]", r"stream\[0\].rows = \[4, 1\]: expected a whole number"),
        ("[[stream]]\nmodel='m'\nformat='jsn'", "expected one of binary, json, raw; did you mean 'json'"),
        ("[[stream]]\nmodel='m'\nweight=0", "expected a number above 0"),
        ("[[stream]]\nmodel='m'\nvalues.x=[1]", r"values.x = \[1\]: expected the least and the most value"),
        ("[[stream]]\nmodel='m'\nlength=8", "length: there is no such key; did you mean 'lengths'"),
        ("warmup='10s'\n[[stream]]\nmodel='m'", "warmup 10 s is not shorter than duration 10 s"),
        ("[[stream]]\nmodel='a'\narrivals='poisson:1'\n[[stream]]\nmodel='b'", "some streams have arrivals and some"),
        ("x = ", "cannot be read"),
    ],
)
def test_scenario_that_cannot_be_used_says_why(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_scenario(written(tmp_path, text))


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        read_scenario(tmp_path / "absent.toml")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:8000/", "http://127.8.9.1:8000"])
def test_addresses_of_this_machine_are_loaded(url: str) -> None:
    target = parse_target(url)
    assert target.port == 8000
    assert target.prefix == ""


def test_name_of_several_addresses_is_the_one_that_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.9.9.9", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert parse_target(f"http://localhost:{port}").host == "127.0.0.1"


def test_address_elsewhere_is_refused_unless_it_is_meant() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1, which is not this machine; .*--yes-remote"):
        parse_target("http://192.0.2.1:8000")
    assert parse_target("http://192.0.2.1:8000/a/", may_be_remote=True).url == "http://192.0.2.1:8000/a"


@pytest.mark.parametrize("url", ["https://127.0.0.1", "127.0.0.1:8000", "http://", "http://127.0.0.1:8000?a", "nope"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address to load"):
        parse_target(url)


def test_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="the port is no number"):
        parse_target("http://127.0.0.1:99999")
