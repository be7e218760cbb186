"""A real Prometheus on this machine, set up as grafana/prometheus says, only quicker; and its answers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from loadtest.client import LoadError

__all__ = ["SCRAPE_S", "Prometheus", "require_prometheus"]

FOLDER = Path(__file__).parents[1] / "grafana" / "prometheus"
SCRAPE_S = 1.0
START_TIMEOUT_S = 30.0


def require_prometheus() -> str:
    """Find Prometheus.

    Raises:
        LoadError: It is not installed.
    """
    path = shutil.which("prometheus")
    if path is None:
        raise LoadError(
            "the program prometheus was not found on the PATH; install it (Debian: apt-get install prometheus)"
        )
    return path


class Prometheus:
    """A running Prometheus that scrapes servers on this machine every second; a context manager that stops it.

    Its configuration is grafana/prometheus/prometheus.yml with other targets and times, its rules are those there.

    Args:
        targets: Ports of the servers.
    """

    def __init__(self, targets: Sequence[int]) -> None:
        self._targets = [f"127.0.0.1:{port}" for port in targets]
        self._folder = tempfile.TemporaryDirectory(prefix="prometheus-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
        config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{SCRAPE_S:g}s")
        config["rule_files"] = [str(FOLDER / "rules" / "*.yml")]
        (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "batchserve")
        job["static_configs"] = [{"targets": self._targets}]
        config["scrape_configs"] = [job]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._log = (folder / "log").open("w+", encoding="utf-8")
        command = [
            require_prometheus(),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
        ]
        command += [f"--web.listen-address={self._address}", "--enable-feature=exemplar-storage", "--log.level=warn"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait_ready(time.monotonic() + START_TIMEOUT_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Ask for the present values: one entry for each series, with `metric` and `value`.

        Raises:
            LoadError: It cannot be evaluated.
        """
        found: list[dict[str, Any]] = self._ask("query", {"query": expr})["result"]
        return found

    def query_range(self, expr: str, seconds: float, step_s: float) -> list[dict[str, Any]]:
        """Ask for the values of the last seconds: one entry for each series, with `metric` and `values`.

        Raises:
            LoadError: It cannot be evaluated.
        """
        now = time.time()
        fields = {"query": expr, "start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": f"{step_s:g}"}
        found: list[dict[str, Any]] = self._ask("query_range", fields)["result"]
        return found

    def exemplars(self, expr: str, seconds: float) -> list[dict[str, Any]]:
        """Ask for the exemplars of the last seconds: one entry for each series, with `seriesLabels` and `exemplars`."""
        now = time.time()
        found: list[dict[str, Any]] = self._ask(
            "query_exemplars", {"query": expr, "start": f"{now - seconds:.3f}", "end": f"{now:.3f}"}
        )
        return found

    def rules(self) -> list[dict[str, Any]]:
        """List all rules with their health and, of alerts, their state."""
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def wait_for(self, expr: str, timeout_s: float) -> None:
        """Wait until a query has a result.

        Raises:
            LoadError: It has none in time.
        """
        end = time.monotonic() + timeout_s
        while not self.query(expr):
            if time.monotonic() > end:
                raise LoadError(f"{expr} had no result within {timeout_s:g} s")
            time.sleep(SCRAPE_S / 4)  # Prometheus has no way to call us

    def _ask(self, path: str, fields: Mapping[str, str]) -> Any:
        data = urllib.parse.urlencode(fields).encode()
        url = f"http://{self._address}/api/v1/{path}"
        try:
            with urllib.request.urlopen(url, data if fields else None, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise LoadError(
                f"Prometheus refuses {fields.get('query', path)!r}: {error.read().decode()[:500]}"
            ) from error
        except OSError as error:
            raise LoadError(f"Prometheus does not answer: {error}") from error

    def _wait_ready(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=2):
                    return
            except OSError:
                time.sleep(0.05)  # it has no way to call us
        self._log.seek(0)
        raise LoadError(f"Prometheus did not start: {self._log.read()[-2000:]}")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()
