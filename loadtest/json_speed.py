"""How fast large JSON is read and written, and how long the event loop waits meanwhile.

    python loadtest/json_speed.py

In one process, without a server: bodies of 3 MB are decoded as the server decodes them, on a helper thread, in turns
with `json.loads` and `np.array`, and a timer of 1 ms on an event loop says how late it is while a helper thread decodes
or encodes without end. With pysimdjson installed everything is measured with and without it. docs/performance.md says
what came out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.core.request import Phases, Response
from batchserve.core.tensors import DATATYPES, ModelSignature, TensorSpec
from batchserve.frontend import number_parsers
from batchserve.frontend.v2 import Asked, ModelInfo, decode, encode
from loadtest import machine

__all__ = ["main"]

Array = npt.NDArray[Any]
Work = Callable[[], object]

SPEEDUP_WANTED = 4.0
LAG_WANTED_MS = 5.0
TICK_S = 1e-3
SIMDJSON = number_parsers.simdjson
BUILT_IN, WITH_SIMDJSON, STANDARD = "built-in", "pysimdjson", "json.loads + np.array"


@dataclass(frozen=True)
class Case:
    """A body to be decoded, and the array that is in it."""

    name: str
    model: ModelInfo
    array: Array
    body: bytes

    def decode(self) -> Array:
        """Read it as the server does."""
        return decode(self.model, self.body, None, 0.0)[0].inputs[0]

    def decode_plainly(self) -> Array:
        """Read it as one would without thinking about it."""
        data = json.loads(self.body)["inputs"][0]["data"]
        return np.array(data, self.array.dtype).reshape(self.array.shape)

    def encode(self) -> object:
        """Write an answer with the same array."""
        response = Response((self.array,), Phases(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1)
        return encode(self.model, Asked("", (0,), (False,)), response)

    def encode_plainly(self) -> object:
        """Write such an answer with the standard library."""
        return json.dumps({"outputs": [{"name": "y", "data": self.array.ravel().tolist()}]}).encode()


def cases() -> list[Case]:
    """Make a float32 image and four uint8 ones, of the same size as JSON, flat and nested."""
    random = np.random.default_rng(0)
    floats = random.standard_normal((1, 3, 224, 224)).astype(np.float32)
    pixels = random.integers(0, 256, (4, 3, 224, 224), np.uint8)
    return [_case(datatype, array, form) for datatype, array in (("FP32", floats), ("UINT8", pixels)) for form in FORMS]


FORMS: dict[str, Callable[[Array], Any]] = {
    "flat": lambda array: array.ravel().tolist(),
    "nested": lambda array: array.tolist(),
}


def _case(datatype: str, array: Array, form: str) -> Case:
    specs = [TensorSpec(name, DATATYPES[datatype], (-1, 3, 224, 224)) for name in ("x", "y")]
    model = ModelInfo("m", "1", ModelSignature((specs[0],), (specs[1],), 8), 64)
    item = {"name": "x", "datatype": datatype, "shape": array.shape, "data": FORMS[form](array)}
    return Case(f"{datatype} {form}", model, array, json.dumps({"inputs": [item]}).encode())


@contextlib.contextmanager
def parser(name: str) -> Iterator[None]:
    """Have the server's code read with or without pysimdjson."""
    number_parsers.simdjson = SIMDJSON if name == WITH_SIMDJSON else None
    try:
        yield
    finally:
        number_parsers.simdjson = SIMDJSON


def parsers() -> list[str]:
    """Name the ways of reading that there are here."""
    return [BUILT_IN] if SIMDJSON is None else [BUILT_IN, WITH_SIMDJSON]


def measure_speed(rounds: int) -> list[dict[str, object]]:
    """Time every way of reading each case in turns; speed-ups are taken within each round."""
    results = []
    for case in cases():
        ways = [*parsers(), STANDARD]
        took_s: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 1):
            for way in ways if turn % 2 else reversed(ways):
                with parser(way):
                    work = case.decode_plainly if way == STANDARD else case.decode
                    start = time.perf_counter()
                    found = work()
                    took_s[way].append(time.perf_counter() - start)
                if not np.array_equal(found, case.array):
                    raise SystemExit(f"error: {way} did not read {case.name} as it was written")
        for way in parsers():
            pairs = zip(took_s[STANDARD][1:], took_s[way][1:], strict=True)  # without the round that warmed up
            ratios = [plain / quick for plain, quick in pairs]
            results.append(
                {
                    "case": case.name,
                    "body_mb": len(case.body) / 1e6,
                    "parser": way,
                    "ms": statistics.median(took_s[way][1:]) * 1e3,
                    "standard_ms": statistics.median(took_s[STANDARD][1:]) * 1e3,
                    "speedup": statistics.median(ratios),
                    "least": min(ratios),
                    "most": max(ratios),
                    "wanted": SPEEDUP_WANTED,
                }
            )
    return results


async def _lag(pool: ThreadPoolExecutor, work: Work | None, seconds: float) -> dict[str, float]:
    """Measure how late a timer is while a helper thread works without end; idle if there is no work."""
    is_over = threading.Event()
    runs = 0

    def run() -> None:
        nonlocal runs
        while work is not None and not is_over.is_set():
            work()
            runs += 1

    helper = asyncio.get_running_loop().run_in_executor(pool, run)
    late_s: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late_s.append(time.perf_counter() - due)
    is_over.set()
    elapsed = time.perf_counter() - start
    await helper
    late_s.sort()
    return {
        "p50_ms": late_s[len(late_s) // 2] * 1e3,
        "p99_ms": late_s[math.ceil(0.99 * len(late_s)) - 1] * 1e3,
        "max_ms": late_s[-1] * 1e3,
        "ticks": len(late_s),
        "ms_each": elapsed * 1e3 / runs if runs else 0.0,
    }


def measure_lag(rounds: int, seconds: float) -> list[dict[str, object]]:
    """Measure the loop's lag during each kind of work, in turns; medians over the rounds, and the range of the p99."""
    _, floats, _, pixels = cases()
    works: dict[tuple[str, str], Work | None] = {("idle", ""): None}
    for case in (floats, pixels):
        works |= {(f"decode {case.name}", way): case.decode for way in parsers()}
        works[f"decode {case.name}", STANDARD] = case.decode_plainly
    works["encode FP32", "in pieces"] = floats.encode
    works["encode FP32", "json.dumps"] = floats.encode_plainly
    found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in works}
    with ThreadPoolExecutor(1) as pool:
        for _ in range(rounds):
            for key, work in works.items():
                with parser(key[1]):
                    found[key].append(run(_lag(pool, work, seconds)))
    return [
        {"work": work, "with": way}
        | {name: statistics.median(one[name] for one in rows) for name in rows[0]}
        | {"least_p99_ms": min(one["p99_ms"] for one in rows), "most_p99_ms": max(one["p99_ms"] for one in rows)}
        | {"wanted_p99_ms": None if way in (STANDARD, "json.dumps") else LAG_WANTED_MS}
        for (work, way), rows in found.items()
    ]


def run(coroutine: Any) -> Any:
    """Run a coroutine on the event loop that the server uses."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def table(speeds: list[dict[str, Any]], lags: list[dict[str, Any]]) -> str:
    """Write both results as Markdown tables; what misses its mark says so."""
    lines = ["| body | read by | ms | json.loads + np.array, ms | times as fast (range) |", "|---|---|---:|---:|---:|"]
    for one in speeds:
        missed = "" if one["speedup"] >= one["wanted"] else f" wanted {one['wanted']:g}"
        lines.append(
            f"| {one['case']}, {one['body_mb']:.1f} MB | {one['parser']} | {one['ms']:.2f} | {one['standard_ms']:.1f} "
            f"| {one['speedup']:.1f} ({one['least']:.1f}-{one['most']:.1f}){missed} |"
        )
    lines += ["", "| on the helper thread | with | lag p50, ms | p99 (range), ms | max, ms | ms each |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for one in lags:
        wanted = one["wanted_p99_ms"]
        missed = "" if wanted is None or one["p99_ms"] < wanted else f" wanted {wanted:g}"
        lines.append(
            f"| {one['work']} | {one['with']} | {one['p50_ms']:.2f} | {one['p99_ms']:.2f} "
            f"({one['least_p99_ms']:.2f}-{one['most_p99_ms']:.2f}){missed} | {one['max_ms']:.1f} "
            f"| {one['ms_each']:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure everything; print tables and, as the last line, all of it as JSON."""
    options = argparse.ArgumentParser(description="Measure how large JSON is read and written.")
    options.add_argument("--rounds", type=int, default=15, help="of decoding in turns (%(default)s)")
    options.add_argument("--lag-rounds", type=int, default=3, help="(%(default)s)")
    options.add_argument("--seconds", type=float, default=1.0, help="for each lag, in each round (%(default)s)")
    arguments = options.parse_args()
    with ThreadPoolExecutor(1) as pool:
        speeds = pool.submit(measure_speed, arguments.rounds).result()
    lags = measure_lag(arguments.lag_rounds, arguments.seconds)
    print(table(speeds, lags), end="\n\n")
    facts = {"benchmark": "json_speed", "machine": machine.describe(), "rounds": arguments.rounds}
    print(json.dumps(facts | {"speed": speeds, "lag": lags}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
