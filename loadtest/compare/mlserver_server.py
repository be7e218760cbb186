"""MLServer: a runtime of ours in one worker process, up to 32 rows, 5 ms of waiting; the V2 protocol in JSON.

    python loadtest/compare/mlserver_server.py --model model.onnx --port 8001

Asked as any server of the Open Inference Protocol, in JSON. Its worker process (1.7.1) does not start with uvloop 0.22
and later: pip install "uvloop<0.22" there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

MAX_BATCH_SIZE = 32
MAX_WAIT_S = 0.005

if __name__ != "__main__":  # loaded by MLServer
    import numpy as np
    import onnxruntime
    from mlserver import MLModel  # type: ignore[import-not-found]  # not installed where types are checked
    from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
    from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

    class Model(MLModel):  # type: ignore[misc]
        """Runs batches of rows."""

        async def load(self) -> bool:
            """Load the model."""
            self._session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0].name
            return True

        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            """Run a batch that MLServer has put together."""
            x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
            (answer,) = self._session.run(None, {self._input: x})
            return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", answer)])


def main() -> None:
    """Serve until SIGTERM; this process becomes MLServer's."""
    parser = argparse.ArgumentParser(description="Serve a model with MLServer.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlserver-"))
    settings = {"host": "127.0.0.1", "http_port": arguments.port, "grpc_port": 0, "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 1}))
    model = {
        "name": "model",
        "implementation": f"{Path(__file__).stem}.Model",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": MAX_WAIT_S,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1024]}],
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    environment = os.environ | {"MODEL": arguments.model, "PYTHONPATH": str(Path(__file__).parent)}
    print(f"http://127.0.0.1:{arguments.port}", flush=True)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execve(program, [program, "start", str(folder)], environment)


if __name__ == "__main__":
    main()
