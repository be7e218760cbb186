"""Asks a running server about real held-out samples and says how right and how quick its answers were.

    python examples/client.py --url http://127.0.0.1:8000 --requests 500 --concurrency 16 [--binary]

Every request carries one sample: an image for `digits`, a sentence of its own length for `language`. Samples are
asked in turn, over again when they run out. Both forms of the Open Inference Protocol are here to be read: JSON, and
with `--binary` the tensors' bytes behind a JSON header.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import digits_data
import language_data
import numpy as np
import numpy.typing as npt

__all__ = ["Report", "Sample", "decode_label", "encode", "measure"]

Array = npt.NDArray[Any]

WIRE_TYPES = {"float32": "FP32", "int64": "INT64"}
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"


class ClientError(Exception):
    """The run cannot start; the text says what to do."""


class AnswerError(Exception):
    """One request was answered with an error, or with something that holds no label."""


@dataclass(frozen=True)
class Sample:
    """One row to ask about: its tensors by name, `dtype[1, ...]`, and the right label."""

    tensors: dict[str, Array]
    label: int


@dataclass
class Report:
    """What became of the requests to one model.

    Attributes:
        right: Answers with the right label.
        latencies_s: Seconds of each answered request, from sending it to having its whole answer.
        failures: How often each error text came.
        elapsed_s: Seconds from the first request to the last answer.
    """

    right: int = 0
    latencies_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0


def digits_samples() -> list[Sample]:
    """Return the held-out digits, one image per sample."""
    pixels, labels = digits_data.held_out()
    return [Sample({"pixels": row[None]}, int(label)) for row, label in zip(pixels, labels, strict=True)]


def language_samples() -> list[Sample]:
    """Return the held-out sentences, as UTF-8 bytes with a mask of ones."""
    samples = []
    for sentence, label in language_data.held_out():
        tokens = np.array([language_data.encode(sentence)], np.int64)
        samples.append(Sample({"tokens": tokens, "mask": np.ones_like(tokens)}, label))
    return samples


SAMPLES: dict[str, Callable[[], list[Sample]]] = {"digits": digits_samples, "language": language_samples}


def encode(sample: Sample, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Write a request that asks for the `label` alone.

    Args:
        sample: What to ask.
        binary: True for the tensors' bytes behind the JSON, False for JSON throughout.

    Returns:
        The body and its headers.
    """
    inputs: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for name, array in sample.tensors.items():
        entry: dict[str, Any] = {"name": name, "datatype": WIRE_TYPES[array.dtype.name], "shape": array.shape}
        if binary:
            tails.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        inputs.append(entry)
    output = {"name": "label", "parameters": {"binary_data": binary}}
    head = json.dumps({"inputs": inputs, "outputs": [output]}).encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    return head + b"".join(tails), {
        "Content-Type": "application/octet-stream",
        JSON_LENGTH_HEADER: str(len(head)),
    }


def decode_label(body: bytes, json_length: str | None) -> int:
    """Read the one label out of an answer.

    Args:
        body: The whole body.
        json_length: The answer's `Inference-Header-Content-Length`, None if it has none: then all of it is JSON.
    """
    if json_length is None:
        return int(json.loads(body)["outputs"][0]["data"][0])
    return int(np.frombuffer(body, "<i8", count=1, offset=int(json_length))[0])


async def _ask(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> int:
    """Send one request and return the label.

    Raises:
        AnswerError: The server said no, in its own words, or its answer holds no label.
        aiohttp.ClientError: The connection failed.
        TimeoutError: The session's time for a request is over.
    """
    async with session.post(url, data=body, headers=headers) as answer:
        content = await answer.read()
        if answer.status != 200:
            raise AnswerError(f"{answer.status}: {_error_text(content)}")
        try:
            return decode_label(content, answer.headers.get(JSON_LENGTH_HEADER))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise AnswerError(f"the answer holds no label ({error})") from error


def _error_text(content: bytes) -> str:
    """Take the `error` out of an error answer; other content is shown as it is, cut short."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")


async def measure(
    session: aiohttp.ClientSession, url: str, samples: list[Sample], *, requests: int, concurrency: int, binary: bool
) -> Report:
    """Send requests, `concurrency` at a time, each as soon as one before it is answered.

    A request that fails is counted, not repeated. Cancelling the caller ends them all.

    Args:
        session: Where the connections come from; its time-out bounds each request.
        url: The model's `…/infer`.
        samples: Asked in turn, from the first again after the last.
        requests: How many to send.
        concurrency: How many to have under way.
        binary: The form of the bodies.
    """
    bodies = [encode(sample, binary=binary) for sample in samples]
    turns: Iterator[int] = iter(range(requests))
    report = Report()

    async def worker() -> None:
        for turn in turns:
            sample, (body, headers) = samples[turn % len(samples)], bodies[turn % len(samples)]
            sent = time.perf_counter()
            try:
                label = await _ask(session, url, body, headers)
            except (AnswerError, aiohttp.ClientError, TimeoutError) as error:
                report.failures[str(error) or type(error).__name__] += 1
                continue
            report.latencies_s.append(time.perf_counter() - sent)
            report.right += label == sample.label

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, requests)):
            group.create_task(worker())
    report.elapsed_s = time.perf_counter() - started
    return report


async def _check_ready(session: aiohttp.ClientSession, url: str, model: str) -> None:
    """Find out that the model is served before anything is measured.

    Raises:
        ClientError: Nobody answers, or not as a server that has this model ready.
    """
    try:
        async with session.get(f"{url}/v2/models/{model}/ready") as answer:
            status, content = answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ClientError(
            f"no server answers at {url} ({error or type(error).__name__}); "
            "start one with `batchserve serve examples/models`, or say where it is with --url"
        ) from error
    if status != 200:
        raise ClientError(
            f"{url} does not have the model {model!r} ready ({status}: {_error_text(content)}); "
            "start it with `batchserve serve examples/models`, or choose other models with --models"
        )


def _print_report(model: str, report: Report) -> None:
    """Print one model's accuracy, rate and latencies."""
    answered = len(report.latencies_s)
    failed = report.failures.total()
    print(f"{model}: {answered} answered, {failed} failed, {answered / report.elapsed_s:,.0f} requests/s")
    for text, count in report.failures.most_common(3):
        print(f"  {count} x {text}")
    if answered:
        print(f"  right    {report.right / answered:.2%} ({report.right} of {answered})")
        points = np.percentile(np.array(report.latencies_s) * 1000, [50, 90, 99, 100])
        print(
            "  latency  "
            + "  ".join(f"{n} {ms:.2f} ms" for n, ms in zip(("p50", "p90", "p99", "max"), points, strict=True))
        )


async def _run(arguments: argparse.Namespace) -> int:
    """Measure the chosen models one after the other; 0 if every request was answered."""
    url = arguments.url.rstrip("/")
    failed = 0
    connector = aiohttp.TCPConnector(limit=arguments.concurrency)
    timeout = aiohttp.ClientTimeout(total=arguments.timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        for model in arguments.models:
            await _check_ready(session, url, model)
            try:
                samples = SAMPLES[model]()
            except ImportError as error:
                raise ClientError(
                    f"the samples for {model!r} come with scikit-learn, which is not installed ({error}); "
                    "install it with `pip install scikit-learn`, or ask only --models language"
                ) from error
            report = await measure(
                session,
                f"{url}/v2/models/{model}/infer",
                samples,
                requests=arguments.requests,
                concurrency=arguments.concurrency,
                binary=arguments.binary,
            )
            _print_report(model, report)
            failed += report.failures.total()
    return 1 if failed else 0


def _positive(text: str) -> int:
    """Read a count of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def main() -> int:
    """Read the command line, run, and turn what cannot start into one line on stderr."""
    parser = argparse.ArgumentParser(description="Ask the example models about held-out samples.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (%(default)s)")
    parser.add_argument("--requests", type=_positive, default=500, help="per model (%(default)s)")
    parser.add_argument("--concurrency", type=_positive, default=16, help="requests under way at once (%(default)s)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each request (%(default)s)")
    parser.add_argument("--binary", action="store_true", help="send tensors as bytes instead of JSON")
    parser.add_argument("--models", nargs="+", choices=SAMPLES, default=list(SAMPLES), help="which to ask (both)")
    try:
        return asyncio.run(_run(parser.parse_args()))
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
