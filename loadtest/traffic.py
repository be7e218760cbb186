"""Requests to the example models, and to one with large bodies: what the dashboards are tried with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loadtest.wire import infer_request, json_request

__all__ = ["EXAMPLES", "HOST", "digits", "language", "large", "lookup", "traced"]

EXAMPLES = Path(__file__).parents[1] / "examples" / "models"
HOST = "127.0.0.1"


def digits(rows: int = 1, *, is_json: bool = False) -> bytes:
    """Ask the model `digits` about random images."""
    pixels = np.random.default_rng(rows).integers(0, 17, (rows, 64)).astype(np.float32)
    write = json_request if is_json else infer_request
    return write("digits", {"pixels": pixels}, HOST)


def language(length: int) -> bytes:
    """Ask the model `language` about a text of so many bytes."""
    tokens = np.random.default_rng(length).integers(97, 123, (1, length))
    return infer_request("language", {"tokens": tokens, "mask": np.ones_like(tokens)}, HOST)


def large() -> bytes:
    """Ask the model `largest` for the largest of 153,600 numbers."""
    return infer_request("largest", {"x": np.arange(153600, dtype=np.float32)[None]}, HOST)


def lookup(number: int) -> bytes:
    """Ask the model `lookup` for one number; it fails on those above 999."""
    return infer_request("lookup", {"x": np.array([[number]])}, HOST)


def traced(request: bytes) -> Callable[[], bytes]:
    """Give a request a trace of its own each time it is sent (W3C `traceparent`)."""
    draw = random.Random(0)
    counter = itertools.count(1)

    def write() -> bytes:
        header = f"\r\ntraceparent: 00-{draw.getrandbits(128) | 1:032x}-{next(counter):016x}-01\r\n\r\n".encode()
        return request.replace(b"\r\n\r\n", header, 1)

    return write
