"""Servers of other projects: how each is started and asked, of which version it is, and whether it answers rightly."""

from __future__ import annotations

import ast
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import onnxruntime

from batchserve.config.units import format_duration
from loadtest import procfs
from loadtest.models import model_file, model_folder
from loadtest.server import Process, Server, ServerError

__all__ = ["ADAPTERS", "CONTENDERS", "MODEL", "OURS", "Contender", "asked", "check_answer", "described", "serving"]

MODEL = "mlp-wide"
WIDTH = 1024
ADAPTERS = Path(__file__).parent / "compare"
OURS = "batchserve"


@dataclass(frozen=True)
class Contender:
    """A server of another project.

    Attributes:
        package: What it is installed as.
        ready_path: Answers 200 once it is ready.
        stream: How it is asked, as keys of a scenario's stream.
        takes_target: True if its adapter is told the latency target.
    """

    package: str
    ready_path: str
    stream: Mapping[str, object]
    takes_target: bool = True


def _bytes(path: str) -> dict[str, object]:
    return {"format": "raw", "raw": {"path": path, "shape": [WIDTH]}}


def _json(path: str, body: str) -> dict[str, object]:
    return {"format": "raw", "raw": {"path": path, "shape": [WIDTH], "json": body}}


CONTENDERS = {
    "mosec": Contender("mosec", "/", _bytes("/inference")),
    "litserve": Contender("litserve", "/health", _json("/predict", '{"x":[DATA]}')),
    "bentoml": Contender("bentoml", "/readyz", _json("/predict", '{"x":[[DATA]]}')),
    "rayserve": Contender("ray", "/-/healthz", _bytes("/")),
    "mlserver": Contender("mlserver", "/v2/health/ready", {"model": "model", "format": "json"}, takes_target=False),
}

_VERSIONS = """
import importlib.metadata, platform, sys
print(*(f"{one} {importlib.metadata.version(one)}" for one in sys.argv[1:]), f"Python {platform.python_version()}")
"""


class _Group(Process):
    """A server that starts processes of its own: what is left of them goes with it."""

    def _stop(self) -> None:
        descendants = _family(self.pid)
        self._terminate()
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._close()


def _family(pid: int) -> list[int]:
    try:
        return procfs.family(pid)[1:]
    except (FileNotFoundError, ProcessLookupError):
        return []


def asked(name: str) -> dict[str, object]:
    """Say how a contender, or batchserve, is asked: keys of a scenario's stream."""
    return {"model": MODEL} if name == OURS else dict(CONTENDERS[name].stream)


def described(name: str, python: Path | None) -> dict[str, str]:
    """Say what a contender is: its versions, and its settings as its adapter's first line has them.

    Raises:
        ServerError: Its Python cannot be run, or does not have it.
    """
    if python is None:
        return {"server": name, "settings": "as it comes, with the latency target; binary both ways"}
    packages = (CONTENDERS[name].package, "onnxruntime", "numpy")
    try:
        done = subprocess.run([python, "-c", _VERSIONS, *packages], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ServerError(f"{name}: {python} cannot be run: {error}") from error
    if done.returncode != 0:
        raise ServerError(f"{name}: {python} has not all of {', '.join(packages)}; pip install them there")
    text = ast.get_docstring(ast.parse((ADAPTERS / f"{name}_server.py").read_text(encoding="utf-8"))) or ""
    return {"server": done.stdout.strip(), "settings": text.partition("\n")[0].partition(": ")[2].rstrip(".")}


@contextlib.contextmanager
def serving(name: str, python: Path | None, target_s: float) -> Iterator[str]:
    """Start a contender, batchserve where it has no Python of its own, and give its URL.

    Raises:
        ServerError: It does not start.
    """
    if python is None:
        target = format_duration(target_s)
        with Server([model_folder(MODEL)], {f"models.{MODEL}.latency_target": target}) as server:
            yield f"http://127.0.0.1:{server.port}"
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    adapter = str(ADAPTERS / f"{name}_server.py")
    command = [str(python), adapter, "--model", str(model_file(MODEL)), "--port", str(port)]
    if CONTENDERS[name].takes_target:
        command += ["--latency-ms", str(round(target_s * 1e3))]
    with _Group(command, CONTENDERS[name].ready_path) as process:
        yield f"http://127.0.0.1:{process.port}"


def check_answer(name: str, url: str) -> None:
    """Ask for one row, and compare the answer with what ONNX Runtime says; the load compares all others with such.

    Raises:
        ServerError: It is another one, or none.
    """
    row = np.random.default_rng(0).standard_normal((1, WIDTH), np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_file(MODEL)), options, providers=["CPUExecutionProvider"])
    (right,) = session.run(None, {session.get_inputs()[0].name: row})
    path, body, is_json = _question(asked(name), row)
    kind = "application/json" if is_json else "application/octet-stream"
    try:
        with urlopen(Request(url + path, body, {"Content-Type": kind}), timeout=30) as answer:
            given = _numbers(answer.read(), is_json=is_json)
    except HTTPError as error:
        raise ServerError(f"{name}: one row alone gave {error.code}: {error.read()[:300]!r}") from error
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise ServerError(f"{name}: one row alone gave no answer that can be read: {error!r}") from error
    if given.size != right.size or not np.allclose(given.ravel(), right.ravel(), 1e-3, 1e-4):
        raise ServerError(f"{name}: its answer is not what ONNX Runtime says: {given.ravel()[:4]}, {right.ravel()[:4]}")


def _question(stream: Mapping[str, Any], row: np.ndarray[Any, Any]) -> tuple[str, bytes, bool]:
    """Write one row as a stream does: path, body, and whether it is JSON."""
    if raw := stream.get("raw"):
        if "json" in raw:
            return raw["path"], raw["json"].replace("DATA", ",".join(map(repr, row.ravel().tolist()))).encode(), True
        return raw["path"], row.tobytes(), False
    x = {"name": "x", "datatype": "FP32", "shape": list(row.shape), "data": row.ravel().tolist()}
    return f"/v2/models/{stream['model']}/infer", json.dumps({"inputs": [x]}).encode(), True


def _numbers(body: bytes, *, is_json: bool) -> np.ndarray[Any, Any]:
    """Read an answer: bytes, an output of the Open Inference Protocol, `{"y": [...]}`, or bare lists."""
    if not is_json:
        return np.frombuffer(body, np.float32)
    answer = json.loads(body)
    if isinstance(answer, dict):
        answer = answer["outputs"][0]["data"] if "outputs" in answer else answer["y"]
    return np.array(answer, np.float32)
