"""The real `batchserve` command in a process of its own: start it, read what it prints, send it signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

__all__ = ["COMMAND", "PATIENCE_S", "ServeProcess", "clean_environment", "run_command", "wait_until_ready"]

PATIENCE_S = 40.0
"""How long anything may take on a machine that does other things, too; a test fails after it, none waits for it."""

COMMAND = (sys.executable, "-m", "batchserve")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any of our variables, and with those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHSERVE_")}
    return {**kept, **(extra or {})}


def run_command(*arguments: str | Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=clean_environment(environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def wait_until_ready(url: str) -> None:
    """Ask for readiness, over and over, until it is there."""
    address, end = urlsplit(url), time.monotonic() + PATIENCE_S
    assert address.hostname is not None
    connection = HTTPConnection(address.hostname, address.port, timeout=PATIENCE_S)
    try:
        while True:
            connection.request("GET", "/v2/health/ready")
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return
            assert time.monotonic() < end, body
    finally:
        connection.close()


class _Lines:
    """Collects the lines of a pipe on a thread of its own, so that the process never waits for a reader."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._is_at_end = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._is_at_end = True
            self._changed.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str] | None:
        """Wait until some line matches; None if the pipe ended without one."""

        def match() -> re.Match[str] | None:
            return next((found for line in self._lines if (found := re.search(pattern, line))), None)

        with self._changed:
            self._changed.wait_for(lambda: match() is not None or self._is_at_end, PATIENCE_S)
            return match()

    def text(self) -> str:
        with self._changed:
            return "\n".join(self._lines)

    def close(self) -> None:
        self._thread.join(PATIENCE_S)
        self._pipe.close()


class ServeProcess:
    """`batchserve serve` on a free port. Whoever starts it calls `close`, which ends it in any case."""

    def __init__(self, arguments: Sequence[str | Path], environ: Mapping[str, str] | None = None, **popen: Any) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "serve", *map(str, arguments)],
            env=clean_environment({"BATCHSERVE_SERVER__PROFILE_CACHE": "false", **(environ or {})}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **{"stdin": subprocess.DEVNULL, **popen},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = _Lines(self.process.stdout), _Lines(self.process.stderr)

    @property
    def url(self) -> str:
        """Where it listens, as it printed it."""
        return self.expect(r"Listening on (http://[^;\s]+)")[1]

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line on stdout."""
        found = self.out.wait_for(pattern)
        assert found is not None, f"no line matches {pattern!r}\nstdout:\n{self.out.text()}\nstderr:\n{self.err.text()}"
        return found

    def loaded(self) -> str:
        """Wait until all models are loaded or have failed; return the URL."""
        self.expect(r"^Serving \d+ of \d+")
        return self.url

    def connect(self) -> HTTPConnection:
        """Make a connection of one's own."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        return HTTPConnection(address.hostname, address.port, timeout=PATIENCE_S)

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send one request on a connection of its own; return status and JSON."""
        connection = self.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        finally:
            connection.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return the exit status."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End it if it has not ended, and give the pipes back."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self.out.close()
        self.err.close()
