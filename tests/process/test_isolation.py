"""A killed worker process of the real server: one model pauses, the other does not notice."""

from __future__ import annotations

import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from support.benchmarks import procfs
from support.command import ServeProcess
from support.onnx_models import add_one, save

Serve = Callable[..., ServeProcess]

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")


def test_killed_worker_is_replaced_and_other_models_go_on(serve: Serve, tmp_path: Path) -> None:
    for name in ("apart", "inside"):
        save(add_one(), tmp_path / f"{name}.onnx")
    process = serve(tmp_path, "--set", "models.apart.isolation=process", "--set", "defaults.instances=1")
    url = process.loaded()
    _, worker = procfs.family(process.process.pid)
    statuses: list[int] = []
    stop = threading.Event()

    def ask_the_other() -> None:
        while not stop.is_set():
            statuses.append(process.request("POST", "/v2/models/inside/infer", BODY)[0])

    assert process.request("POST", "/v2/models/apart/infer", BODY)[0] == 200
    asker = threading.Thread(target=ask_the_other)
    asker.start()
    os.kill(worker, signal.SIGKILL)
    answers = [process.request("POST", "/v2/models/apart/infer", BODY) for _ in range(20)]
    stop.set()
    asker.join()
    assert set(statuses) == {200}
    failed = [answer for answer in answers if answer[0] != 200]
    assert len(failed) <= 1, "only a request that ran while it died fails; those behind it wait for the next worker"
    assert answers[-1][1]["outputs"][0]["data"] == [2, 3, 4, 5]
    assert process.err.wait_for(r"its worker died \(killed by SIGKILL\)") is not None
    (_, again) = procfs.family(process.process.pid)
    assert again != worker
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as page:
        counted = [line for line in page.read().decode().splitlines() if "worker_restarts_total{" in line]
    assert {line.split('"')[1]: line.split()[-1] for line in counted} == {"apart": "1.0", "inside": "0.0"}
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not Path(f"/proc/{again}").exists(), "workers end with the server"
