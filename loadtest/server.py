"""Real servers for a benchmark, each a process of its own: `python -m batchserve serve`, or anything else."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtest import procfs

__all__ = ["Process", "Server", "ServerError"]

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
SETTLE_TIMEOUT_S = 10.0
SETTLED_S = 0.3
URL = re.compile(r"http://127\.0\.0\.1:(\d+)")


class ServerError(Exception):
    """The server did not start or does not answer as it should; the text has its last lines."""


class Process:
    """A running server; a context manager that waits until it is ready and stops it at the end.

    Args:
        command: Starts it. It prints the URL it listens on, and ends by SIGTERM.
        ready_path: Answers 200 once it is ready; "" if it is when it prints its URL.
    """

    def __init__(self, command: Sequence[str], ready_path: str = "") -> None:
        self.command = list(command)
        self.port = 0
        self.pid = 0
        self._ready_path = ready_path
        self._lines: deque[str] = deque(maxlen=20)
        self._is_listening = threading.Event()

    def __enter__(self) -> Self:
        # Variables of the caller's would change what is measured, and so would what an earlier run has learnt.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHSERVE_")}
        environment["BATCHSERVE_SERVER__PROFILE_CACHE"] = "false"
        self._process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.pid = self._process.pid
        # Read to the end of the process's life: a full pipe would stop it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
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

    def get(self, path: str) -> Any:
        """Ask for a JSON answer.

        Raises:
            ServerError: The answer is not 200 with JSON, or there is none.
        """
        try:
            status, body = self._get(path)
            if status == 200:
                return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failure(f"GET {path} failed: {error}") from error
        raise self._failure(f"GET {path} answered {status}: {body[:200]!r}")

    def settled_descriptors(self) -> int:
        """Wait until it has taken note of connections opened and closed; return its open descriptors then.

        Raises:
            ServerError: Their number does not come to rest.
        """
        deadline, seen, since = time.monotonic() + SETTLE_TIMEOUT_S, -1, 0.0
        while (now := time.monotonic()) < deadline:
            count = procfs.descriptors(self.pid)
            if count != seen:
                seen, since = count, now
            elif now - since > SETTLED_S:
                return seen
            time.sleep(0.02)  # the server has no way to call us
        raise self._failure(f"the open descriptors did not come to rest within {SETTLE_TIMEOUT_S:g} s: {seen}")

    def _read(self) -> None:
        assert self._process.stdout is not None, "the pipe was asked for"
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            found = URL.search(line)
            if found and not self.port:
                self.port = int(found[1])
                self._is_listening.set()
        self._is_listening.set()

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _wait_ready(self, deadline: float) -> None:
        if not self._is_listening.wait(deadline - time.monotonic()) or not self.port:
            raise self._failure("the server printed no address")
        if not self._ready_path:
            return
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self._failure(f"the server ended with {self._process.returncode}")
            try:
                if self._get(self._ready_path)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)  # the server has no way to call us
        raise self._failure(f"the server was not ready after {START_TIMEOUT_S:.0f} s")

    def _stop(self) -> None:
        self._terminate()
        self._close()

    def _terminate(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _close(self) -> None:
        """Let go of its output: once nobody has the other end of the pipe, or this waits for ever."""
        self._reader.join(5)
        assert self._process.stdout is not None, "the pipe was asked for"
        self._process.stdout.close()

    def _failure(self, text: str) -> ServerError:
        lines = "\n  ".join(self._lines) or "(nothing)"
        return ServerError(f"{text}\n{' '.join(self.command)}\nlast lines:\n  {lines}")


class Server(Process):
    """A running batchserve.

    Args:
        paths: What to serve.
        settings: Configuration by key, as for `--set`.
        command: What to run instead of `python -m batchserve`.
    """

    def __init__(
        self, paths: Sequence[Path], settings: Mapping[str, str] | None = None, command: Sequence[str] = ()
    ) -> None:
        program = command or (sys.executable, "-m", "batchserve")
        sets = [part for key, value in (settings or {}).items() for part in ("--set", f"{key}={value}")]
        super().__init__([*program, "serve", *map(str, paths), "--port", "0", *sets], "/v2/health/ready")

    def executions(self, model: str) -> tuple[int, int]:
        """Read how many rows a model has run so far, and in how many executions."""
        entries = self.get(f"/v2/models/{model}/stats")["model_stats"]
        return sum(e["inference_count"] for e in entries), sum(e["execution_count"] for e in entries)
