"""Prometheus' own checker on the page that `/metrics` answers."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support.telemetry_fakes import full_metrics

PROMTOOL = shutil.which("promtool")


@pytest.mark.needs("promtool")
def test_promtool_has_nothing_to_say_about_our_metrics() -> None:
    assert PROMTOOL is not None
    page, _ = full_metrics().render()
    # The interpreter's and the process' metrics come from prometheus-client as they are.
    own = b"".join(line for line in page.splitlines(keepends=True) if b"batchserve_" in line)
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=own, capture_output=True, timeout=30, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    whole = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, timeout=30, check=False)
    assert b"error" not in whole.stderr.lower()
