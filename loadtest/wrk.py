"""Load by wrk, a client in C: for servers so quick that a client in Python would be what is measured.

wrk is a package of Debian and of other distributions. It runs with one thread, in a closed loop: each connection sends
a request, waits for the whole answer and sends the next. Its percentiles are taken from the moment before a request is
written, in whole microseconds; where an answer took longer than twice the mean, wrk adds the latencies of the requests
that could have been sent meanwhile ("coordinated omission"), so its p99 is rather too high than too low.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest import procfs
from loadtest.client import LoadError

__all__ = ["Rate", "measure", "require_wrk", "version"]

SCRIPT = Path(__file__).parent / "load.lua"

ANSWER_TIMEOUT_S = 10
"""An answer that takes longer ends the measurement without a result."""


@dataclass(frozen=True)
class Rate:
    """What happened in one run of wrk.

    Attributes:
        answered: Number of answers, all of status below 400.
        elapsed_s: Length of the run.
        p50_us: Median latency in microseconds; the others likewise.
        server_cpu_us: Processor time of the server by answers, in microseconds.
        client_cpu_us: Processor time of wrk by answers, in microseconds.
        others_share: Share of the machine's processor time that neither of the two used.
    """

    answered: int
    elapsed_s: float
    p50_us: float
    p99_us: float
    max_us: float
    server_cpu_us: float
    client_cpu_us: float
    others_share: float

    @property
    def requests_per_s(self) -> float:
        """Answers by time."""
        return self.answered / self.elapsed_s

    def values(self) -> dict[str, float]:
        """Return the figures that are compared, by name."""
        names = ("p50_us", "p99_us", "max_us", "server_cpu_us", "client_cpu_us", "others_share")
        return {"requests_per_s": self.requests_per_s} | {name: getattr(self, name) for name in names}


def require_wrk() -> str:
    """Find wrk.

    Raises:
        LoadError: It is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadError("the program wrk was not found on the PATH; install it (Debian, Ubuntu: apt-get install wrk)")
    return path


def version() -> str:
    """Name wrk's version."""
    answer = subprocess.run([require_wrk(), "-v"], capture_output=True, text=True, check=False)
    return answer.stdout.partition("Copyright")[0].strip()


def measure(port: int, requests: Sequence[bytes], connections: int, seconds: int, server_pids: Sequence[int]) -> Rate:
    """Load a server on this machine. Blocks for as long.

    Args:
        port: Where it listens.
        requests: Whole HTTP requests, sent in turns.
        connections: How many to open; closed at the end, whether or not their answers have come.
        seconds: Whole seconds, which is all that wrk knows.
        server_pids: Whose processor time to count.

    Raises:
        LoadError: wrk is not there or failed, a connection broke, or an answer was an error or came too late.
    """
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        command = [require_wrk(), "-t1", f"-c{connections}", f"-d{seconds}", f"--timeout={ANSWER_TIMEOUT_S}"]
        command += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}", "--", *_write(requests, Path(folder))]
        server_s, client_s, machine_s = _server_s(server_pids), _children_s(), procfs.machine_s()
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
        server_s = _server_s(server_pids) - server_s
        client_s, machine_s = _children_s() - client_s, procfs.machine_s() - machine_s
    said = _read(run)
    answered, elapsed_s = said["answered"], said["elapsed_us"] / 1e6
    return Rate(
        answered=int(answered),
        elapsed_s=elapsed_s,
        p50_us=said["p50_us"],
        p99_us=said["p99_us"],
        max_us=said["max_us"],
        server_cpu_us=server_s / answered * 1e6,
        client_cpu_us=client_s / answered * 1e6,
        others_share=max(0.0, (machine_s - server_s - client_s) / (cores * elapsed_s)),
    )


def _write(requests: Sequence[bytes], folder: Path) -> list[str]:
    """Write each distinct request to a file; return the files in the order of the requests."""
    paths: dict[bytes, str] = {}
    for request in requests:
        if request not in paths:
            path = folder / str(len(paths))
            path.write_bytes(request)
            paths[request] = str(path)
    return [paths[request] for request in requests]


def _read(run: subprocess.CompletedProcess[str]) -> Mapping[str, float]:
    """Read what the script wrote at the end.

    Raises:
        LoadError: There is nothing, or it names errors.
    """
    last = run.stdout.strip().rpartition("\n")[2]
    if run.returncode != 0 or not last.startswith("{"):
        raise LoadError(f"wrk ended with {run.returncode}: {(run.stderr or run.stdout).strip()[-500:]}")
    said = json.loads(last)
    errors = {kind: count for kind, count in said.pop("errors").items() if count}
    if errors or not said["answered"]:
        raise LoadError(f"expected wrk to get answers alone, got {said['answered']} answers and errors {errors}")
    answers: Mapping[str, float] = said
    return answers


def _server_s(pids: Sequence[int]) -> float:
    return sum(procfs.process_s(pid) for pid in pids)


def _children_s() -> float:
    """Read the processor time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
