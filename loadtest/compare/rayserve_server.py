"""Ray Serve: one replica, up to 32 rows, 5 ms of waiting, 64 + 32 may wait, the target as timeout; binary.

    python loadtest/compare/rayserve_server.py --model model.onnx --port 8001 --latency-ms 60

Asked at / with a row's bytes, answered with the output's.
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

import numpy as np
import onnxruntime
import ray  # type: ignore[import-not-found]  # not installed where types are checked
from ray import serve  # type: ignore[import-not-found]
from starlette.responses import Response  # type: ignore[import-not-found]

MAX_BATCH_SIZE = 32
MAX_WAIT_S = 0.005
MOST_ONGOING = 64
"""Requests that the replica takes at once, two batches; with its own 5 no batch would ever be larger."""
MOST_QUEUED = 32
"""Requests that may wait for that; the others are refused, for they would be late."""


@serve.deployment(num_replicas=1, max_ongoing_requests=MOST_ONGOING, max_queued_requests=MOST_QUEUED)
class Model:
    """Runs batches of rows."""

    def __init__(self, path: str) -> None:
        """Load the model."""
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=MAX_WAIT_S)  # type: ignore[untyped-decorator]
    async def run(self, rows: list[Any]) -> list[Any]:
        """Run a batch."""
        (answer,) = self._session.run(None, {self._input: np.stack(rows)})
        return list(answer)

    async def __call__(self, request: Any) -> Response:
        """Answer one request."""
        answer = await self.run(np.frombuffer(await request.body(), np.float32))
        return Response(answer.tobytes(), media_type="application/octet-stream")


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve a model with Ray Serve.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=int, default=60_000)
    arguments = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    timeout_s = arguments.latency_ms / 1e3
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port, "request_timeout_s": timeout_s})
    serve.run(Model.bind(arguments.model), route_prefix="/")
    print(f"http://127.0.0.1:{arguments.port}", flush=True)
    signal.sigwait([signal.SIGTERM])
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    main()
