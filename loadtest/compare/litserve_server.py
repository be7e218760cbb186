"""LitServe: one worker process, up to 32 rows, 5 ms of waiting, the target as timeout; JSON both ways.

    python loadtest/compare/litserve_server.py --model model.onnx --port 8001 --latency-ms 60

Asked at /predict with {"x": [numbers of a row]}.
"""

from __future__ import annotations

import argparse
from typing import Any

import litserve  # type: ignore[import-not-found]  # not installed where types are checked
import numpy as np
import onnxruntime

MAX_BATCH_SIZE = 32
MAX_WAIT_S = 0.005


class Model(litserve.LitAPI):  # type: ignore[misc]
    """Runs batches of rows."""

    def __init__(self, path: str) -> None:
        """Remember the file; the worker loads it."""
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=MAX_WAIT_S)
        self._path = path

    def setup(self, device: str) -> None:
        """Load the model."""
        self._session = onnxruntime.InferenceSession(self._path, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads an annotation as FastAPI would
        """Read a row."""
        return np.asarray(request["x"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """Put rows together."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Run a batch."""
        return self._session.run(None, {self._input: x})[0]

    def unbatch(self, output: Any) -> list[Any]:
        """Take rows apart."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Write a row of the output."""
        return {"y": output.tolist()}


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve a model with LitServe.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=int, default=30_000)
    arguments = parser.parse_args()
    print(f"http://127.0.0.1:{arguments.port}", flush=True)
    server = litserve.LitServer(
        Model(arguments.model), accelerator="cpu", workers_per_device=1, timeout=arguments.latency_ms / 1e3
    )
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
