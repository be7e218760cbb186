"""Minutes of mixed traffic: well-behaved clients, nonsense, clients that leave; then nothing may be left of it."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from loadtest import procfs, wrk
from loadtest.client import LoadError
from loadtest.contest import HOST
from loadtest.findings import Finding, Sample, Wanted
from loadtest.hotpath_scenarios import Options, Round, Scenario, batchserve, large_questions, small_questions
from loadtest.models import model_folder
from loadtest.questions import Questions, WrongAnswerError
from loadtest.scrape import Page, scrape
from loadtest.server import Server
from loadtest.trouble import Client, clients
from loadtest.wire import WireError

__all__ = ["SOAK_SCENARIO", "left_over", "memory"]

ACTIVE_CONNECTIONS = 16
SEGMENT_S = 5
"""wrk starts afresh so often, and leaves its last requests without waiting for their answers."""

QUEUE_DELAY = "50ms"
"""How long the model that clients do not wait for holds its requests."""

WARMUP_S = 60.0
WINDOWS = 10
"""The time after the warm-up is divided into so many windows; the medians of their samples are compared."""

STOP_TIMEOUT_S = 60.0


class _Traffic:
    """All clients, each in a thread of its own, until one of them fails or somebody says stop.

    Attributes:
        is_over: Set when they are to stop.
        checked: Number of answers checked, by client; each client's thread writes its own.
        failures: What the clients failed with.
    """

    def __init__(self, server: Server, kinds: Mapping[str, Client], load: Sequence[bytes]) -> None:
        self.is_over = threading.Event()
        self.checked: Counter[str] = Counter()
        self.failures: list[Exception] = []
        self._server = server
        self._load = load
        self._threads = [threading.Thread(target=self._repeat, args=item, name=item[0]) for item in kinds.items()]
        self._threads.append(threading.Thread(target=self._full_speed, name="full speed"))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client end what it is at.

        Raises:
            Exception: The first that a client failed with.
        """
        self.is_over.set()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)
        if self.failures:
            raise self.failures[0]

    def _repeat(self, name: str, kind: Client) -> None:
        while not self.is_over.wait(kind.pause_s):
            try:
                self.checked[name] += kind.step(self._server.port)
            except (LoadError, WireError, WrongAnswerError, OSError) as error:
                error.add_note(f"(client: {name})")
                self.failures.append(error)
                self.is_over.set()

    def _full_speed(self) -> None:
        while not self.is_over.is_set():
            try:
                rate = wrk.measure(
                    self._server.port, self._load, ACTIVE_CONNECTIONS, SEGMENT_S, procfs.family(self._server.pid)
                )
                self.checked["wrk (status only)"] += rate.answered
            except LoadError as error:
                self.failures.append(error)
                self.is_over.set()


def _prepare(options: Options) -> Round:
    return lambda turn, seconds: [_run(options, options.minutes * 60)]


def _run(options: Options, seconds: float) -> Sample:
    """Let the traffic run and see what is left of it.

    Raises:
        LoadError: A client was not answered as it should be, or the traffic did not contain what it should.
    """
    small, large = small_questions(), large_questions()
    random = np.random.default_rng(1)
    image_rows = random.standard_normal((2, 3, 224, 224), np.float32)
    image = Questions("identity-image", model_folder("identity-image"), "x", image_rows)
    waiting = Questions("identity", model_folder("identity"), "x", random.standard_normal((8, 16), np.float32))
    kinds = clients(small, large, image, waiting)
    folders = [questions.folder for questions in (small, large, image, waiting)]
    with batchserve(folders, **options.settings, **{"models.identity.max_queue_delay": QUEUE_DELAY}) as server:
        for kind in kinds.values():
            kind.step(server.port)
        descriptors = server.settled_descriptors()
        traffic = _Traffic(server, kinds, small.requests(1, HOST))
        start = time.monotonic()
        traffic.start()
        try:
            series = _watch(server, traffic, start + seconds)
        finally:
            traffic.stop()
        elapsed = time.monotonic() - start
        left = server.settled_descriptors() - descriptors
        values = left_over(scrape(server.port)) | memory(series, seconds) | {"descriptors_left": left}
    for name, count in traffic.checked.items():
        print(f"soak: {name}: {count:,} answers", file=sys.stderr)
    answers = sum(traffic.checked.values())
    values |= {"requests_per_s": answers / elapsed, "answers": answers, "minutes": elapsed / 60}
    return Sample("soak", "batchserve", ACTIVE_CONNECTIONS, 0, values)


def _watch(server: Server, traffic: _Traffic, end: float) -> list[tuple[float, int, int]]:
    """Read memory and threads once a second until the end, or until a client fails: (seconds, bytes, threads)."""
    start, series = time.monotonic(), []
    while (now := time.monotonic()) < end:
        if traffic.is_over.wait(min(1.0, end - now)):
            break
        elapsed, memory = time.monotonic() - start, procfs.resident_bytes([server.pid])
        series.append((elapsed, memory, procfs.threads(server.pid)))
        if len(series) % 15 == 0:
            print(f"soak: {elapsed:5.0f} s  {memory / 1e6:8.1f} MB resident", file=sys.stderr, flush=True)
    return series


def memory(series: Sequence[tuple[float, int, int]], seconds: float) -> dict[str, float]:
    """Compare what was read after the warm-up, which is a third of a short run."""
    warmup_s = min(WARMUP_S, seconds / 3)
    after = [one for one in series if one[0] >= warmup_s]
    windows = [part for part in np.array_split(np.array(after, np.float64), WINDOWS) if len(part)]
    if len(windows) < 2:
        raise LoadError(f"{seconds:g} s are too short to see anything; expected half a minute at least")
    medians = [statistics.median(part[:, 1]) for part in windows]
    values = {f"memory_{i}_mb": median / 1e6 for i, median in enumerate(medians)}
    drift = max(abs(median / medians[0] - 1) for median in medians)
    return values | {"drift_percent": drift * 100, "threads_more": after[-1][2] - after[0][2]}


def left_over(page: Page) -> dict[str, float]:
    """Read from the metrics what is not accounted for.

    Raises:
        LoadError: Nobody's request was cancelled, so clients that leave were not tried.
    """
    unaccounted = 0.0
    for model in page.values("batchserve_requests_received_total", "model"):
        received = page.total("batchserve_requests_received_total", model=model)
        unaccounted += abs(received - page.total("batchserve_requests_total", model=model))
    if not page.total("batchserve_requests_total", model="identity", outcome="cancelled"):
        raise LoadError("expected requests of clients that left to be cancelled, none was")
    held = sum(page.total(name) for name in ("batchserve_http_inflight_bytes", "batchserve_buffer_used_bytes"))
    under_way = sum(page.total(f"batchserve_{name}") for name in ("inflight_requests", "queue_requests", "queue_rows"))
    return {
        "received": page.total("batchserve_requests_received_total"),
        "cancelled": page.total("batchserve_requests_total", outcome="cancelled"),
        "failed": page.total("batchserve_requests_total", outcome="failed"),
        "unaccounted": unaccounted,
        "under_way": under_way,
        "held_bytes": held,
    }


def _findings(samples: Sequence[Sample]) -> list[Finding]:
    def figure(what: str, value: str, unit: str = "", wanted: Wanted | None = None) -> Finding:
        return Finding("soak", what, unit, tuple(sample.values[value] for sample in samples), wanted)

    none = Wanted(0, is_least=False)
    return [
        figure("length", "minutes", "min"),
        figure("memory's drift after the first minute", "drift_percent", "%", Wanted(2, is_least=False)),
        figure("requests received but not ended, by the counters", "unaccounted", "", none),
        figure("requests failed", "failed", "", none),
        figure("requests still queued or running at the end", "under_way", "", none),
        figure("bytes of bodies still held at the end", "held_bytes", "B", none),
        figure("descriptors more than at the beginning", "descriptors_left", "", none),
        figure("threads more than after the first minute", "threads_more", "", none),
        figure("requests cancelled because their client left", "cancelled"),
        figure("answers", "answers"),
    ]


SOAK_SCENARIO = Scenario("minutes of mixed traffic, then nothing may be left", _prepare, _findings, is_repeated=False)
