"""`batchserve doctor` says what there is and what starts."""

from __future__ import annotations

import onnxruntime
from support.command import run_command


def test_doctor_names_packages_cores_and_what_starts() -> None:
    done = run_command("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["packages"].startswith("onnxruntime")
    assert lines["runtime"] == f"ONNX Runtime {onnxruntime.__version__}"
    assert lines["CPUExecutionProvider"] == "starts and runs"
    assert set(onnxruntime.get_available_providers()) <= lines.keys()
    assert done.stdout.endswith("Nothing is wrong\n")
