"""mosec: Rust frontend, one worker process, up to 32 rows, 5 ms of waiting, 64 may queue, target as timeout; binary.

    python loadtest/compare/mosec_server.py --model model.onnx --port 8001 --latency-ms 60

Asked at /inference with a row's bytes, answered with the output's. mosec reads `--port` and its environment itself.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
import onnxruntime
from mosec import Server, Worker  # type: ignore[import-not-found]  # not installed where types are checked

MAX_BATCH_SIZE = 32
MAX_WAIT_MS = 5
RUN_TIMEOUT_S = 10
CAPACITY = 64
"""Two batches: what waits behind more is late. With the default of 1024 all requests are, under overload."""


class Model(Worker):  # type: ignore[misc]
    """Runs batches of rows. The file comes by the environment, since mosec starts a process of its own."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        """Load the model."""
        super().__init__()
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> Any:
        """Read a row."""
        return np.frombuffer(data, np.float32)

    def forward(self, data: list[Any]) -> list[Any]:
        """Run a batch."""
        return list(self._session.run(None, {self._input: np.stack(data)})[0])

    def serialize(self, data: Any) -> bytes:
        """Write a row of the output."""
        return bytes(data.tobytes())


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve a model with mosec.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=int, default=3000)
    arguments, _ = parser.parse_known_args()
    settings = {"ADDRESS": "127.0.0.1", "TIMEOUT": str(arguments.latency_ms), "CAPACITY": str(CAPACITY)}
    os.environ |= {f"MOSEC_{name}": value for name, value in settings.items()}
    server = Server()
    server.append_worker(
        Model,
        max_batch_size=MAX_BATCH_SIZE,
        max_wait_time=MAX_WAIT_MS,
        timeout=RUN_TIMEOUT_S,  # of a run alone; without it that would be the requests', and a slow one an error
        env=[{"MODEL": arguments.model}],
    )
    print(f"http://127.0.0.1:{arguments.port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
