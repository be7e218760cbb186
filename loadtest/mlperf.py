"""A judge that is not ours: MLPerf LoadGen drives the server and the bare runtime, and says whether a run is valid.

    pip install mlcommons-loadgen
    python loadtest/mlperf.py [--models encoder resnet50] [--scenarios offline-raw single-stream server offline]

LoadGen decides when each request is sent and when the run has been long enough, measures every latency itself, and
writes its verdict to its log, which is read here. The target of the server scenario is five times the run time of the
best batch, at the 99th percentile; its rate is lowered in steps from the raw limit until a run is VALID.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import re
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
import uvloop

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.load.answers import Head
from batchserve.load.connection import RECEIVE_BYTES, Connection, Heads, clock
from batchserve.load.prepare import prepare
from batchserve.load.questions import Question
from batchserve.load.scenario import Scenario, Stream
from batchserve.load.target import parse_target
from loadtest import machine
from loadtest.mlperf_tables import TARGET_RUNS, rate_of, ratio_table, verdict_table
from loadtest.models import model_file, model_folder
from loadtest.report import RESULTS, write_json
from loadtest.scheduling_real import MODELS, Limit, RunError, raw_limit
from loadtest.server import Server, ServerError

__all__ = ["SCENARIOS", "Asker", "Verdict", "main", "read_summary"]

PERCENTILE = 0.99
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5)

HEADROOM = 1.5
"""LoadGen draws as many samples as the expected rate needs for its least duration, and calls a shorter run INVALID."""

MIN_QUERIES = 100
MIN_SERVER_QUERIES = 1500
"""LoadGen asks for 662 queries before it believes in a p99, if none of them is late, and for more if some are."""

SAMPLES = 64
CONNECTIONS = 512
OFFLINE_CONNECTIONS = 64


@dataclass(frozen=True)
class Verdict:
    """What LoadGen says of one run.

    Attributes:
        is_valid: Its own verdict, and no request failed.
        figures: The numbers of its summary by name.
        settings: The parameters it names in its summary.
        missed: What it found not satisfied.
        failed: Requests without a right answer by kind; LoadGen knows nothing of them.
    """

    scenario: str
    is_valid: bool
    figures: dict[str, float]
    settings: dict[str, str]
    missed: list[str]
    failed: dict[str, int]


def read_summary(text: str) -> tuple[bool, dict[str, float], dict[str, str], list[str]]:
    """Read LoadGen's summary: its verdict, its figures, its settings, and what was not satisfied."""
    results, _, tail = text.partition("Test Parameters Used")
    pair = re.compile(r"^\s*([^:\n]+?)\s*:\s*(\S.*?)\s*$", re.MULTILINE)
    figures = {}
    for name, value in pair.findall(results):
        try:
            figures[name] = float(value)
        except ValueError:
            continue
    missed = re.findall(r"^\s*(\S.*?) satisfied\s*:\s*NO\s*$", results, re.MULTILINE | re.IGNORECASE)
    return "Result is : VALID" in results, figures, dict(pair.findall(tail)), missed


class Asker:
    """Sends LoadGen's requests to a server, on an event loop and a thread of its own.

    Args:
        url: The server.
        stream: What is asked; each of its variants is one sample of LoadGen's library.
        connections: No more are open; requests beyond wait. A server closes those that have long been idle: they are
            opened again when they are needed.
        complete: Tells LoadGen of the requests of these numbers.
    """

    def __init__(self, url: str, stream: Stream, connections: int, complete: Callable[[Sequence[int]], None]) -> None:
        self.scratch = memoryview(bytearray(RECEIVE_BYTES))
        self.heads = Heads()
        self.failures: Counter[str] = Counter()
        self._url, self._stream, self._count, self._complete = url, stream, connections, complete
        self._questions: Sequence[Question] = ()
        self._free: list[Connection] = []
        self._numbers: dict[Connection, int] = {}
        self._waiting: deque[tuple[int, int]] = deque()
        self._opened = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._address = ("", 0)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        target = parse_target(self._url)
        self._questions = (await prepare(Scenario([self._stream]), target)).questions
        self._address = (target.host, target.port)
        for _ in range(self._count):
            self._opened += 1
            await self._connect()

    async def _connect(self) -> None:
        """Open one more connection and use it."""
        _, connection = await self._loop.create_connection(lambda: Connection(self), *self._address)
        self._free.append(connection)
        self._pump()

    def ask(self, samples: Sequence[tuple[int, int]]) -> None:
        """Send requests, each given by LoadGen's number and the sample's index. Any thread."""
        self._loop.call_soon_threadsafe(self._take, samples)

    def _take(self, samples: Sequence[tuple[int, int]]) -> None:
        self._waiting.extend(samples)
        self._pump()

    def _pump(self) -> None:
        """Send what waits over free connections, and open those that are missing."""
        while self._waiting and self._free:
            if (connection := self._free.pop()).is_open:
                self._ask(connection)
        for _ in range(min(len(self._waiting), self._count - self._opened)):
            self._opened += 1
            task = self._loop.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _ask(self, connection: Connection) -> None:
        number, index = self._waiting.popleft()
        self._numbers[connection] = number
        connection.ask(self._questions[index], clock(), is_timed=False)

    def succeeded(self, connection: Connection, question: Question, now: float) -> None:
        """Tell LoadGen, and use the connection again."""
        self._complete([self._numbers.pop(connection)])
        self._free.append(connection)
        self._pump()

    def failed(self, connection: Connection, question: Question, kind: str, now: float, text: bytes) -> None:
        """Count it and tell LoadGen, which waits for every request; the run is not valid any more."""
        self.failures[kind] += 1
        self._complete([self._numbers.pop(connection)])
        self._free.append(connection)
        self._pump()

    def timed(self, head: Head) -> None:
        """Ignore where the time went."""

    def lost(self, connection: Connection) -> None:
        """Note a lost connection; what was under way has failed already."""
        self._opened -= 1
        self._pump()


def run_loadgen(scenario: str, issue: Callable[[Any], None], seconds: float, **settings: float) -> tuple[Any, ...]:
    """Run one test and read its verdict.

    Args:
        scenario: LoadGen's name of it.
        issue: Takes its query samples.
        seconds: It sends for at least so long.
        settings: Further settings of LoadGen's.
    """
    import mlperf_loadgen as loadgen

    asked = loadgen.TestSettings()
    asked.scenario = getattr(loadgen.TestScenario, scenario)
    asked.mode = loadgen.TestMode.PerformanceOnly
    asked.min_duration_ms = int(seconds * 1e3)
    asked.min_query_count = MIN_QUERIES
    for name, value in settings.items():
        setattr(asked, name, value)
    sut = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            logs = loadgen.LogSettings()
            logs.log_output.outdir = folder
            logs.log_output.copy_summary_to_stdout = False
            loadgen.StartTestWithLogSettings(sut, library, asked, logs)
            return read_summary((Path(folder) / "mlperf_log_summary.txt").read_text())
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)


def complete(numbers: Sequence[int]) -> None:
    """Tell LoadGen that requests are answered."""
    import mlperf_loadgen as loadgen

    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(number, 0, 0) for number in numbers])


def offline_raw(name: str, limit: Limit, seconds: float) -> Verdict:
    """Give LoadGen's samples to the bare runtime in batches of the best size."""
    session = onnxruntime.InferenceSession(str(model_file(name)), providers=["CPUExecutionProvider"])
    inputs = MODELS[name].inputs(SAMPLES)

    def issue(samples: Any) -> None:
        numbers = [(sample.id, sample.index) for sample in samples]
        for begin in range(0, len(numbers), limit.batch_size):
            part = numbers[begin : begin + limit.batch_size]
            rows = [index for _, index in part]
            session.run(None, {key: np.ascontiguousarray(array[rows]) for key, array in inputs.items()})
            complete([number for number, _ in part])

    found = run_loadgen("Offline", issue, seconds, offline_expected_qps=HEADROOM * limit.rows_per_s)
    return Verdict("offline-raw", *found, failed={})


def against_server(name: str, scenario: str, url: str, connections: int, seconds: float, **settings: float) -> Verdict:
    """Let LoadGen drive a server."""
    stream = _stream(name)
    with Asker(url, stream, connections, complete) as asker:
        found = run_loadgen(
            scenario, lambda samples: asker.ask([(one.id, one.index) for one in samples]), seconds, **settings
        )
        failed = dict(asker.failures)
    is_valid, *others = found
    return Verdict(scenario, is_valid and not failed, *others, failed)


def _stream(name: str) -> Stream:
    keys = dict(MODELS[name].stream)
    if "lengths" in keys:
        keys["lengths"] = (keys["lengths"], keys["lengths"])
    keys["values"] = {key: tuple(one) for key, one in keys.get("values", {}).items()}
    return Stream(name, name, **keys | {"variants": SAMPLES})


def single_stream(name: str, limit: Limit, seconds: float, url: str) -> list[Verdict]:
    """Ask one request after the other."""
    expected = int(limit.one_s / HEADROOM * 1e9)
    return [against_server(name, "SingleStream", url, 1, seconds, single_stream_expected_latency_ns=expected)]


def server(name: str, limit: Limit, seconds: float, url: str, first: float = 1.0) -> list[Verdict]:
    """Lower the rate until a run is valid, from a share of the raw limit on."""
    verdicts = []
    for share in [one for one in SHARES if one <= first]:
        settings = {
            "server_target_qps": share * limit.rows_per_s,
            "server_target_latency_ns": int(TARGET_RUNS * limit.run_s * 1e9),
            "server_target_latency_percentile": PERCENTILE,
            "min_query_count": MIN_SERVER_QUERIES,
        }
        verdicts.append(against_server(name, "Server", url, CONNECTIONS, seconds, **settings))
        if verdicts[-1].is_valid:
            break
    return verdicts


def offline(name: str, limit: Limit, seconds: float, url: str) -> list[Verdict]:
    """Ask everything at once."""
    expected = HEADROOM * limit.rows_per_s
    return [against_server(name, "Offline", url, OFFLINE_CONNECTIONS, seconds, offline_expected_qps=expected)]


SCENARIOS: dict[str, Callable[..., list[Verdict]]] = {
    "single-stream": single_stream,
    "server": server,
    "offline": offline,
}


def main() -> int:
    """Run what is asked for, print LoadGen's verdicts and write a JSON file."""
    arguments = _parser().parse_args()
    facts: dict[str, object] = {
        **machine.facts(),
        "loadgen": metadata.version("mlcommons-loadgen"),
        "min_duration_s": arguments.seconds,
        "target": f"{TARGET_RUNS} x the run time of the best batch, p{PERCENTILE * 100:g}",
    }
    results: list[dict[str, Any]] = []
    error = ""
    try:
        for name in arguments.models:
            limit = raw_limit(name, 1.0)
            verdicts = []
            if "offline-raw" in arguments.scenarios:
                verdicts.append(offline_raw(name, limit, arguments.seconds))
                limit = dataclasses.replace(limit, rows_per_s=rate_of(verdicts[0].figures))
                _tell(name, verdicts[0])
            for scenario in [one for one in arguments.scenarios if one in SCENARIOS]:
                first = {"first": arguments.first} if scenario == "server" else {}
                with Server([model_folder(name)]) as served:
                    url = f"http://127.0.0.1:{served.port}"
                    for verdict in SCENARIOS[scenario](name, limit, arguments.seconds, url, **first):
                        verdicts.append(verdict)
                        _tell(name, verdict)
            results.append({"model": name, "limit": vars(limit), "verdicts": [vars(one) for one in verdicts]})
    except (RunError, ServerError) as caught:
        error = str(caught)
    path = write_json("mlperf", facts | {"error": error, "results": results}, arguments.results)
    print(verdict_table(results), ratio_table(results), path, sep="\n\n")
    if error:
        print(f"error: {error}", file=sys.stderr)
    return 1 if error else 0


def _tell(name: str, verdict: Verdict) -> None:
    said = "VALID" if verdict.is_valid else f"INVALID ({', '.join(verdict.missed)}; failed: {verdict.failed})"
    print(f"{name} {verdict.scenario}: {said}, {rate_of(verdict.figures):,.1f}/s", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Let MLPerf LoadGen judge the server.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["encoder"], help="(%(default)s)")
    names = ("offline-raw", *SCENARIOS)
    parser.add_argument("--scenarios", nargs="+", choices=names, default=names, help="(all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="least length of each run (%(default)s)")
    parser.add_argument(
        "--first", type=float, default=1.0, help="first rate of the server scenario over the raw limit (%(default)s)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
