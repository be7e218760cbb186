"""What the metrics cost: processor time of a request with all of them, by that without any.

    python loadtest/metrics_cost.py

For each pair two servers of the same model are started, one with `server.metrics = false`, as two processes of one
program differ by more than what is looked for. They are loaded in turns at one fixed rate, and in each window that
server is asked for its page once; then as hard as sixteen connections can. Linux only; a minute and a half.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
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
from loadtest.server import Server, ServerError
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
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result (%(default)s)")
    arguments = parser.parse_args()
    try:
        result = _measure(arguments.pairs, arguments.seconds, arguments.rate)
    except (LoadError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    facts = {"command": " ".join(["python", "loadtest/metrics_cost.py", *sys.argv[1:]]), "machine": machine.describe()}
    path = write_json(
        "metrics-cost",
        {**facts, "started": datetime.now(UTC).isoformat(timespec="seconds"), **result},
        arguments.results,
    )
    print(_text(result), path, sep="\n")
    return 0


def _measure(pairs: int, seconds: float, rate: float) -> dict[str, Sequence[float]]:
    folder = [model_folder("identity")]
    cpu_us: dict[str, list[float]] = {"on": [], "off": []}
    per_s: dict[str, list[float]] = {"on": [], "off": []}
    for turn in range(pairs):
        with Server(folder, SETTINGS) as on, Server(folder, SETTINGS | {"server.metrics": "false"}) as off:
            servers = {"on": on, "off": off}
            for name in _order(turn):
                _at_rate(servers[name], 0.3, rate)
                cpu_us[name].append(_at_rate(servers[name], seconds, rate))
            for name in _order(turn):
                job = Job(HOST, servers[name].port, [REQUEST] * CONNECTIONS, 0.8, 0.2, servers[name].pid)
                result = measure(job)
                per_s[name].append(result.answered / result.elapsed_s)
    return {
        "cpu_us_on": cpu_us["on"],
        "cpu_us_off": cpu_us["off"],
        "requests_per_s_on": per_s["on"],
        "requests_per_s_off": per_s["off"],
    }


def _order(turn: int) -> tuple[str, str]:
    """Begin every other pair with the other one, so that a drift of the machine favours neither."""
    return ("on", "off") if turn % 2 == 0 else ("off", "on")


def _at_rate(server: Server, seconds: float, rate: float) -> float:
    """Load a server for a window; return its processor time by request, in microseconds."""
    load = Paced(server.port, [REQUEST], rate, CONNECTIONS)
    with load:
        end = time.monotonic() + seconds
        while not load.statuses and not load.error:
            time.sleep(0.001)  # until the connections are open
        answered, spent_s = sum(load.statuses.values()), procfs.threads_s(server.pid)
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
