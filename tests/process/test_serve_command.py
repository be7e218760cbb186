"""`batchserve serve` as a person meets it: what it prints, what works as printed, what it says when it cannot."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.command import COMMAND, PATIENCE_S, ServeProcess, clean_environment, run_command, wait_until_ready
from support.onnx_models import identity, one_op, save, string_suffix, zipmap

from loadtest.scrape import scrape

Serve = Callable[..., ServeProcess]


def run_printed(line: str) -> dict[str, object]:
    """Run a printed line in a shell and read the JSON that it prints."""
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, timeout=PATIENCE_S, check=True, env=clean_environment()
    )
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_summary_says_what_was_found(serve: Serve, models: Path) -> None:
    process = serve(models)
    url = process.loaded()
    text = process.out.text()
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", url)
    assert "add_one, version 1" in text
    assert re.search(r"^  inputs +x +FP32 \[-1, 4\]$", text, re.MULTILINE)
    assert re.search(r"^  outputs +y +FP32 \[-1, 4\]$", text, re.MULTILINE)
    assert re.search(r"^  batching +yes, up to 32 rows in one run: .+", text, re.MULTILINE)
    assert re.search(r"^  cost +1 row [\d.]+ [um]?s, .*32 rows [\d.]+ [um]?s$", text, re.MULTILINE)
    assert re.search(
        r"^  limits +max_batch_size 32, instances [12], max_queue_size 1024, max_queue_delay auto, timeout 60s$",
        text,
        re.MULTILINE,
    )
    assert f"Serving 1 of 1 model on {url}" in text


def test_printed_curl_line_works_as_printed(serve: Serve, models: Path) -> None:
    process = serve(models)
    answer = run_printed(process.expect(r"^curl -s http://.+")[0])
    assert answer["model_name"] == "add_one"
    (output,) = answer["outputs"]  # type: ignore[misc]
    assert (output["name"], output["shape"]) == ("y", [1, 4])


def test_printed_line_survives_names_that_a_shell_would_eat(serve: Serve, tmp_path: Path) -> None:
    """Quotes, spaces and dollars in the model's name, strings as values."""
    save(string_suffix("it's"), tmp_path / "it's $HOME & co.onnx")
    answer = run_printed(serve(tmp_path).expect(r"^curl -s .+")[0])
    assert answer["model_name"] == "it's $HOME & co"
    assert answer["outputs"][0]["data"][0].endswith("it's")  # type: ignore[index]


def test_printed_line_for_a_large_input_stays_short_and_works(serve: Serve, tmp_path: Path) -> None:
    save(one_op("Relu", shape=("batch", 3, 64, 64), out=("batch", 3, 64, 64)), tmp_path / "image.onnx")
    line = serve(tmp_path).expect(r"^python3 -c .+ \| curl -s .+")[0]
    assert len(line) < 400
    assert run_printed(line)["outputs"][0]["shape"] == [1, 3, 64, 64]  # type: ignore[index]


def test_model_without_json_form_gets_advice_in_place_of_a_line(serve: Serve, tmp_path: Path) -> None:
    save(one_op("Relu", element=10, out_element=10), tmp_path / "half.onnx")
    process = serve(tmp_path)
    assert "FP16, which has no JSON form" in process.expect(r"^# x is .+")[0]


def test_failed_model_is_told_with_its_reason_and_the_others_serve(serve: Serve, models: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model at all")
    save(zipmap(), tmp_path / "zipmap.onnx")
    process = serve(models, tmp_path)
    process.expect("Serving 1 of 3 models")
    text = process.out.text()
    assert re.search(r"broken, version 1\n  FAILED +.*not an ONNX model", text)
    assert re.search(r"zipmap, version 1\n  FAILED +\S+", text)
    assert re.search(r"^Not ready: model 'broken': .+", text, re.MULTILINE)
    assert str(tmp_path) not in json.dumps(process.request("POST", "/v2/repository/index")[1])
    assert process.request("GET", "/v2/health/ready")[0] == 400
    assert process.request("GET", "/v2/models/add_one/ready")[0] == 200
    page = scrape(urlsplit(process.url).port or 0)
    assert page.total("batchserve_ready") == 0
    assert page.total("batchserve_model_load_failed", model="broken") == 1
    assert page.total("batchserve_model_load_failed", model="add_one") == 0


def test_names_that_are_no_text_harm_nobody(serve: Serve, models: Path, tmp_path: Path) -> None:
    """A file's name may hold a line end, bytes that are not UTF-8, or letters that the terminal does not have."""
    for name in (b"two\nlines.onnx", b"caf\xe9.onnx", "模型.onnx".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes((models / "add_one.onnx").read_bytes())
    process = serve(models, tmp_path, environ={"PYTHONIOENCODING": "latin-1"})
    process.expect(r"^Serving \d of 4")
    assert process.request("GET", "/v2/models/add_one/ready")[0] == 200
    assert "'two\\nlines', version 1" in process.out.text()
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_allow_partial_is_ready_without_the_failed_model(serve: Serve, models: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model at all")
    process = serve(models, tmp_path, "--allow-partial")
    process.loaded()
    assert process.request("GET", "/v2/health/ready")[0] == 200


def test_flags_variables_and_set_reach_the_model(serve: Serve, tmp_path: Path) -> None:
    for name in ("a.b", "c"):
        save(identity(), tmp_path / name / "1" / "model.onnx")
    (tmp_path / "c" / "config.pbtxt").write_text("max_batch_size: 6 dynamic_batching { preserve_ordering: true }")
    process = serve(
        tmp_path,
        "--set",
        "server.max_body_size=1KiB",
        "--set",
        'models."a.b".max_batch_size=5',
        "--set",
        "defaults.instances=3",
        environ={"BATCHSERVE_SERVER__HOST": "localhost", "BATCHSERVE_DEFAULTS__MAX_QUEUE_SIZE": "77"},
    )
    process.loaded()
    text = process.out.text()
    assert "max_batch_size 5, instances 3, max_queue_size 77" in text
    assert "max_batch_size 6, instances 3, max_queue_size 77" in text
    assert process.request("GET", "/v2/models/a.b/config")[1]["max_batch_size"] == 5
    assert process.request("POST", "/v2/models/c/infer", {"x": "y" * 2000})[0] == 413
    assert process.err.wait_for(r"WARNING .*dynamic_batching\.preserve_ordering") is not None


def test_configuration_file_is_read_from_flag_or_variable(serve: Serve, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "batchserve.toml"
    file.write_text("[server]\nlog_format = 'json'\n[models.add_one]\nmax_batch_size = 3\n")
    for process in (serve(models, "--config", file), serve(models, environ={"BATCHSERVE_CONFIG": str(file)})):
        process.loaded()
        assert "max_batch_size 3" in process.out.text()
        assert process.err.wait_for(r'^\{.*"level": "info".*\}$') is not None


def test_metrics_are_measured_for_the_whole_server_and_can_be_turned_off(serve: Serve, models: Path) -> None:
    """One real request is on the page with its bytes, its connection and its load; without metrics there is no page."""
    process = serve(models)
    process.loaded()
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    assert process.request("POST", "/v2/models/add_one/infer", body)[0] == 200
    page = scrape(urlsplit(process.url).port or 0)
    assert page.total("batchserve_http_body_bytes_total") == len(json.dumps(body))
    assert page.total("batchserve_http_connections_opened_total") >= 2
    assert page.total("batchserve_http_connections_limit") == 10_000
    assert page.total("batchserve_ready") == 1
    assert page.total("batchserve_http_inflight_limit_bytes") == 1 << 30
    assert page.total("batchserve_model_loads_total", outcome="ok") == 1
    assert page.total("batchserve_model_provider_info", provider="CPUExecutionProvider") == 1
    assert page.total("batchserve_gc_pause_seconds_total", generation="2") > 0
    off = serve(models, "--set", "server.metrics=false")
    off.loaded()
    status, answer = off.request("GET", "/metrics")
    assert (status, list(answer)) == (404, ["error"])
    assert "server.metrics" in answer["error"]
    assert off.request("POST", "/v2/models/add_one/infer", body)[0] == 200
    assert off.request("GET", "/v2/models/add_one/stats")[1]["model_stats"][0]["inference_count"] == 1


def test_access_log_writes_a_line_per_request(serve: Serve, models: Path) -> None:
    process = serve(models, "--access-log", "--log-level", "error", "--log-format", "json")
    process.loaded()
    assert process.request("GET", "/v2")[0] == 200
    assert process.err.wait_for(r'"path": "/v2"') is not None


def test_server_runs_on_asyncio_where_uvloop_is_missing(serve: Serve, models: Path, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not on this platform')\n")
    process = serve(models, environ={"PYTHONPATH": str(tmp_path)})
    process.loaded()
    assert process.request("GET", "/v2/models/add_one/ready")[0] == 200
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_an_idle_server_with_status_0(number: signal.Signals, serve: Serve, models: Path) -> None:
    process = serve(models)
    process.loaded()
    process.signal(number)
    assert process.wait() == 0
    process.expect("^Stopped$")
    assert process.err.wait_for("Traceback") is None


def test_signal_while_loading_ends_the_server_without_waiting_for_the_model(serve: Serve, slow: Path) -> None:
    """The warm-up of 4096 rows takes minutes and its thread cannot be interrupted; the process is gone in a moment."""
    process = serve(slow, "--set", "models.slow.max_batch_size=4096", "--set", "models.slow.warmup_budget=1h")
    assert process.err.wait_for("model is LOADING") is not None
    assert process.request("GET", "/v2/health/live")[0] == 200
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert time.monotonic() - began < 10


def test_server_goes_on_when_nobody_reads_what_it_prints(slow: Path) -> None:
    """As `batchserve serve … | head -1`: the pipe is closed before the summary is printed."""
    process = subprocess.Popen(
        [*COMMAND, "serve", slow, "--port", "0"],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2].decode().rstrip(";")
        process.stdout.close()
        wait_until_ready(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_taken_port_is_told_in_one_line(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("serve", models, "--port", str(port))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("batchserve: ")
    assert f"server.port = {port} on 127.0.0.1 is taken" in line


@pytest.mark.parametrize(
    ("arguments", "environ", "part"),
    [
        (["--port", "eighty"], {}, "--port: server.port = 'eighty' is not a whole number"),
        (["--set", "server.prot=1"], {}, "did you mean 'port'?"),
        (["--set", "models.add_on.timeout=1s"], {}, "did you mean 'add_one'?"),
        (["--config", "nowhere.toml"], {}, "nowhere.toml: cannot be read"),
        ([], {"BATCHSERVE_SERVER__DRAIN_TIMEOUT": "30"}, "'30' has no unit"),
        ([], {"BATCHSERVE_MODELS__OTHER__TIMEOUT": "30s"}, "no model 'OTHER' is served"),
        (["--host", "no-such-host.invalid"], {}, "no address that can be found"),
    ],
)
def test_configuration_error_is_one_line_and_status_2(
    arguments: list[str], environ: dict[str, str], part: str, models: Path
) -> None:
    done = run_command("serve", models, *arguments, environ={"BATCHSERVE_SERVER__LOG_LEVEL": "error", **environ})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("batchserve: ")
    assert part in line


def test_missing_path_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = run_command("serve", tmp_path / "nothing-here.onnx")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "nothing-here.onnx does not exist" in line


@pytest.mark.parametrize("command", ["serve", "check"])
def test_missing_runtime_is_one_line_that_names_both_extras(command: str, models: Path, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')\n"
    )
    done = run_command(command, models, environ={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "batchserve[cpu]" in line
    assert "batchserve[gpu]" in line
