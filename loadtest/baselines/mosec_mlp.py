"""mosec serving a perceptron through ONNX Runtime: its frontend in Rust, one worker in Python, batches of up to 32.

    python loadtest/baselines/mosec_mlp.py --model model.onnx --port 8001

Run it with a Python that has mosec, onnxruntime and numpy, best a virtual environment of their own. A request's body is
one row, `float32[64]`, as it lies in memory; the answer's is one row of the first output. mosec reads `--port` itself.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
import onnxruntime
from mosec import Server, Worker  # type: ignore[import-not-found]  # not installed where types are checked

__all__ = ["Perceptron"]

MAX_BATCH_SIZE = 32
MAX_WAIT_MS = 1


class Perceptron(Worker):  # type: ignore[misc]
    """Runs batches of rows. The model's file comes by the environment, since mosec starts a process of its own."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        """Load the model."""
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self._input_name = self._session.get_inputs()[0].name
        self._output_names = [self._session.get_outputs()[0].name]

    def deserialize(self, data: bytes) -> Any:
        """Read a body: a view, `float32[64]`."""
        return np.frombuffer(data, np.float32)

    def forward(self, data: list[Any]) -> list[Any]:
        """Run a batch of rows."""
        (answer,) = self._session.run(self._output_names, {self._input_name: np.stack(data)})
        return list(answer)

    def serialize(self, data: Any) -> bytes:
        """Write a row of the output."""
        answer: bytes = data.tobytes()
        return answer


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve a perceptron with mosec.")
    parser.add_argument("--model", required=True, help="the model's file")
    parser.add_argument("--port", type=int, required=True, help="a free port")
    arguments, _ = parser.parse_known_args()
    server = Server()
    server.append_worker(
        Perceptron, num=1, max_batch_size=MAX_BATCH_SIZE, max_wait_time=MAX_WAIT_MS, env=[{"MODEL": arguments.model}]
    )
    print(f"http://127.0.0.1:{arguments.port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
