"""The process that makes OpenTelemetry spans of plain tuples and sends them on: `python -m` this module.

It reads frames from its standard input, each four bytes of length and a MessagePack list of spans, until that ends. It
needs the extra `otel`; the server does not import this module.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

import batchserve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import SpanProcessor

    from batchserve.telemetry.tracing import Span

__all__ = ["export", "main", "read_frames", "to_otel"]

NICENESS = 10
"""Spans can wait; where cores are short the server comes first."""

_SCOPE = InstrumentationScope("batchserve", batchserve.__version__)
_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def to_otel(span: Span, resource: Resource) -> ReadableSpan:
    """Make a finished span."""
    name, trace_id, span_id, parent_id, kind, start_ns, end_ns, attributes, links, problem = span
    return ReadableSpan(
        name,
        context=_context(trace_id, span_id),
        parent=_context(trace_id, parent_id, is_remote=kind == "server") if parent_id else None,
        resource=resource,
        attributes=attributes,
        links=[Link(_context(*link)) for link in links],
        kind=_KINDS[kind],
        instrumentation_scope=_SCOPE,
        status=Status(StatusCode.ERROR, problem) if problem else Status(StatusCode.UNSET),
        start_time=start_ns,
        end_time=end_ns,
    )


def _context(trace_id: str, span_id: str, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, _SAMPLED)


def read_frames(stream: BinaryIO) -> Iterator[Sequence[Span]]:
    """Read frames until the stream ends; half a frame at its end is dropped. Blocks."""
    while len(head := stream.read(4)) == 4:
        body = stream.read(size := int.from_bytes(head, "big"))
        if len(body) == size:
            yield msgspec.msgpack.decode(body)


def export(stream: BinaryIO, processor: SpanProcessor) -> None:
    """Hand every span of a stream to a processor, then let it send what is left. Blocks until the stream ends."""
    resource = Resource.create({SERVICE_VERSION: batchserve.__version__})
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):  # no variable names it
        resource = resource.merge(Resource({SERVICE_NAME: "batchserve"}))
    for spans in read_frames(stream):
        for span in spans:
            processor.on_end(to_otel(span, resource))
    processor.shutdown()


class Reporting(SpanExporter):
    """Another exporter that says when its sending begins to fail and when it succeeds again; not each time.

    Args:
        exporter: Sends.
        say: Takes a line for the server's log.
    """

    def __init__(self, exporter: SpanExporter, say: Callable[[str], None]) -> None:
        self._exporter = exporter
        self._say = say
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = self._exporter.export(spans)
        if (result is not SpanExportResult.SUCCESS) != self._is_failing:
            self._is_failing = not self._is_failing
            self._say("spans cannot be sent and are lost" if self._is_failing else "spans can be sent again")
        return result

    def shutdown(self) -> None:
        """End it."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what it holds."""
        return self._exporter.force_flush(timeout_millis)


def _exporter(endpoint: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if endpoint == "auto":
        return OTLPSpanExporter()
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  # the server reads it and logs it


def main() -> None:
    """Export what comes on the standard input. Signals are the server's business: it closes the input when it ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--endpoint", default="auto", help="base URL of an OTLP/HTTP receiver")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it says so each time; `Reporting` once
    exporter = Reporting(_exporter(arguments.endpoint), _say)
    export(sys.stdin.buffer, BatchSpanProcessor(exporter, schedule_delay_millis=1000))


if __name__ == "__main__":
    main()
