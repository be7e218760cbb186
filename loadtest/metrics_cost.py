"""What the metrics cost: processor time of a request with all of them, by that without any.

    python loadtest/metrics_cost.py

One server is loaded at a fixed rate in windows, its metrics on and off in turns (loadtest/metrics_switch.py); in each
window with metrics it is asked for its page once. After each pair it is loaded likewise as hard as sixteen connections
can. With `--processes` it is two servers for each pair, one with `server.metrics = false`: what a user would compare,
and much noisier. Linux only; a minute and a half.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from loadtest import machine, procfs
from loadtest.client import Job, LoadError, measure
from loadtest.conversation import Conversation
from loadtest.models import model_folder
from loadtest.paced import Paced
from loadtest.report import RESULTS, write_json
from loadtest.server import Process, Server, ServerError
from loadtest.wire import get_request, infer_request

__all__ = ["main"]

HOST = "127.0.0.1"
CONNECTIONS = 16
SETTINGS = {"server.profile_cache": "false", "models.identity.instances": "1"}
REQUEST = infer_request("identity", {"x": np.arange(16, dtype=np.float32)[None]}, HOST)


def main() -> int:
    """Measure, print and write the result; 1 if nothing could be measured."""
    parser = argparse.ArgumentParser(description="Measure what the metrics cost.")
    parser.add_argument("--pairs", type=int, default=10, help="windows at the fixed rate, on and off (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a window (%(default)s)")
    parser.add_argument("--rate", type=float, default=2000, help="requests a second (%(default)s)")
    parser.add_argument("--processes", action="store_true", help="two processes for each pair, not one that switches")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result (%(default)s)")
    arguments = parser.parse_args()
    facts = machine.facts()
    try:
        result = _measure(arguments.pairs, arguments.seconds, arguments.rate, uses_processes=arguments.processes)
    except (LoadError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = write_json("metrics-cost", facts | result, arguments.results)
    print(_text(result), path, sep="\n")
    return 0


def _measure(pairs: int, seconds: float, rate: float, *, uses_processes: bool) -> dict[str, Sequence[float]]:
    folder, figures = model_folder("identity"), _Figures()
    if uses_processes:
        for turn in range(pairs):
            with Server([folder], SETTINGS) as on, Server([folder], SETTINGS | {"server.metrics": "false"}) as off:
                figures.add_pair(turn, {"on": on, "off": off}.__getitem__, seconds, rate)
        return figures.values()
    script = str(Path(__file__).with_name("metrics_switch.py"))
    with Process([sys.executable, script, str(folder)], "/v2/health/ready") as server:
        switched = _Switched(server)
        _at_rate(server, 1.0, rate, is_scraped=True)
        for turn in range(pairs):
            figures.add_pair(turn, switched.to, seconds, rate)
    return figures.values()


class _Switched:
    """One server whose metrics are turned on and off."""

    def __init__(self, server: Process) -> None:
        self._server = server
        self._state = "on"

    def to(self, state: str) -> Process:
        """Turn the metrics on or off; what is asked afterwards is asked of a server in that state."""
        if state != self._state:
            os.kill(self._server.pid, signal.SIGUSR1)
            self._state = state
        return self._server


class _Figures:
    """Processor time and throughput, with metrics on and off."""

    def __init__(self) -> None:
        self._cpu_us: dict[str, list[float]] = {"on": [], "off": []}
        self._per_s: dict[str, list[float]] = {"on": [], "off": []}

    def add_pair(self, turn: int, server_of: Callable[[str], Process], seconds: float, rate: float) -> None:
        """Measure a pair of windows at the fixed rate, and a pair as fast as it goes."""
        for state in _order(turn):
            server = server_of(state)
            _at_rate(server, 0.3, rate, is_scraped=False)
            self._cpu_us[state].append(_at_rate(server, seconds, rate, is_scraped=state == "on"))
        for state in _order(turn):
            server = server_of(state)
            result = measure(Job(HOST, server.port, [REQUEST] * CONNECTIONS, 0.8, 0.2, server.pid))
            self._per_s[state].append(result.answered / result.elapsed_s)

    def values(self) -> dict[str, Sequence[float]]:
        """Return them by name."""
        return {
            "cpu_us_on": self._cpu_us["on"],
            "cpu_us_off": self._cpu_us["off"],
            "requests_per_s_on": self._per_s["on"],
            "requests_per_s_off": self._per_s["off"],
        }


def _order(turn: int) -> tuple[str, str]:
    """Begin every other pair with the other one, so that a drift of the machine favours neither."""
    return ("on", "off") if turn % 2 == 0 else ("off", "on")


def _at_rate(server: Process, seconds: float, rate: float, *, is_scraped: bool) -> float:
    """Load a server for a window; return its processor time by request, in microseconds."""
    load = Paced(server.port, [REQUEST], rate, CONNECTIONS)
    with load:
        end = time.monotonic() + seconds
        while not load.statuses and not load.error:
            time.sleep(0.001)  # until the connections are open
        answered, spent_s = sum(load.statuses.values()), procfs.threads_s(server.pid)
        if is_scraped:
            with Conversation(server.port) as conversation:
                conversation.ask(get_request("/metrics", HOST))
        time.sleep(max(0.0, end - time.monotonic()))  # the window
        answered, spent_s = sum(load.statuses.values()) - answered, procfs.threads_s(server.pid) - spent_s
    if not answered or set(load.statuses) != {200}:
        raise LoadError(f"expected answers 200 alone, got {dict(load.statuses)}")
    return spent_s / answered * 1e6


def _text(result: Mapping[str, Sequence[float]]) -> str:
    lines = []
    for name, unit in (("cpu_us", "µs of processor time a request"), ("requests_per_s", "requests a second")):
        on, off = result[f"{name}_on"], result[f"{name}_off"]
        ratios = [one / other for one, other in zip(on, off, strict=True)]
        lines.append(
            f"{unit}: on {statistics.median(on):.4g}, off {statistics.median(off):.4g}; ratio of the pairs: median "
            f"{statistics.median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f} ({len(ratios)} pairs)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
