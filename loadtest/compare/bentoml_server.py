"""BentoML: one worker process, adaptive batching of up to 32 rows within the target, 64 at once; JSON both ways.

    python loadtest/compare/bentoml_server.py --model model.onnx --port 8001 --latency-ms 60

Asked at /predict with {"x": [[numbers of a row]]}. Its batching tunes itself towards `max_latency_ms`, the
target of the comparison.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

MAX_BATCH_SIZE = 32
MOST_AT_ONCE = 64
"""Two batches; the others are refused, for they would be late."""

if __name__ != "__main__":  # loaded by bentoml's own command
    import bentoml  # type: ignore[import-not-found]  # not installed where types are checked
    import numpy as np
    import onnxruntime

    @bentoml.service(traffic={"timeout": 60, "max_concurrency": MOST_AT_ONCE}, workers=1)
    class Model:
        """Runs batches of rows."""

        def __init__(self) -> None:
            """Load the model."""
            self._session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0].name

        @bentoml.api(
            batchable=True,
            max_batch_size=MAX_BATCH_SIZE,
            max_latency_ms=int(os.environ["LATENCY_MS"]),
        )
        def predict(self, x: np.ndarray) -> np.ndarray:
            """Run a batch."""
            (answer,) = self._session.run(None, {self._input: x.astype(np.float32)})
            return np.asarray(answer)


def main() -> None:
    """Serve until SIGTERM; this process becomes BentoML's."""
    parser = argparse.ArgumentParser(description="Serve a model with BentoML.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--latency-ms", type=int, default=1000)
    arguments = parser.parse_args()
    environment = os.environ | {"MODEL": arguments.model, "LATENCY_MS": str(arguments.latency_ms)}
    print(f"http://127.0.0.1:{arguments.port}", flush=True)
    program = str(Path(sys.executable).with_name("bentoml"))
    command = [program, "serve", f"{Path(__file__).stem}:Model", "--host", "127.0.0.1", "--port", arguments.port]
    os.chdir(Path(__file__).parent)
    os.execve(program, command, environment)


if __name__ == "__main__":
    main()
