"""A server of its own for a real run: started with a setting, ready when it is given, gone afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from batchserve.errors import LoadError

__all__ = ["served"]

STOP_S = 10.0
SETS = (
    "server.host=127.0.0.1",
    "server.port=0",
    "server.tls_cert=",
    "server.record=off",
    "server.access_log=false",
    "server.tracing=false",
    "server.profile_cache=false",
)
"""What is not as it is configured: reachable from here alone, and nothing written."""
_URL = re.compile(r"Listening on (http://\S+?);")

# The server must not outlive its caller, which may be killed: the kernel tells it (PR_SET_PDEATHSIG is 1).
_START = """
import ctypes, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from batchserve.cli.main import main
main()
"""


@contextmanager
def served(arguments: Sequence[str], timeout_s: float) -> Iterator[str]:
    """Run `batchserve serve` with these arguments, on a free port of this machine; blocks until it is ready.

    Yields:
        Its URL.

    Raises:
        LoadError: It is not ready in time, with its last lines.
    """
    command = [sys.executable, "-c", _START, "serve", *arguments, *(part for one in SETS for part in ("--set", one))]
    process = subprocess.Popen(  # noqa: S603  # a command of our own
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=os.environ
    )
    assert process.stdout is not None, "the pipe was asked for"
    lines: deque[str] = deque(maxlen=20)
    found: SimpleQueue[str] = SimpleQueue()
    # Read to the end of the process's life: a full pipe would stop it.
    reader = threading.Thread(target=_read, args=(process.stdout, lines, found), daemon=True)
    reader.start()
    try:
        yield _ready(process, found, lines, time.monotonic() + timeout_s)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()


def _read(pipe: IO[str], lines: deque[str], found: SimpleQueue[str]) -> None:
    for line in pipe:
        lines.append(line.rstrip())
        if match := _URL.search(line):
            found.put(match[1])
    found.put("")


def _ready(process: subprocess.Popen[str], found: SimpleQueue[str], lines: deque[str], end_s: float) -> str:
    try:
        url = found.get(timeout=max(0.1, end_s - time.monotonic()))
    except Empty:
        url = ""
    while url and process.poll() is None and time.monotonic() < end_s:
        try:
            with urlopen(f"{url}/v2/health/ready", timeout=5):  # noqa: S310  # it begins with http://
                return url
        except (URLError, OSError):
            time.sleep(0.05)  # the server has no way to call us
    raise LoadError("the server for a real run was not ready in time; its last lines:\n  " + "\n  ".join(lines))
