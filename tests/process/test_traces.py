"""Spans, from the request to the collector: through OpenTelemetry's own exporters, and from the real command."""

from __future__ import annotations

import io
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.command import PATIENCE_S, ServeProcess, run_command

from batchserve.telemetry.span_exporter import Reporting, export

Serve = Callable[..., ServeProcess]

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


# --- OpenTelemetry's exporter in memory -------------------------------------------------------------------------------


def frame(*spans: tuple[Any, ...]) -> bytes:
    body = msgspec.msgpack.encode(spans)
    return len(body).to_bytes(4, "big") + body


REQUEST = (
    "POST x",
    "a" * 32,
    "b" * 16,
    "c" * 16,
    "server",
    10,
    30,
    {"http.response.status_code": 500},
    [],
    "answered 500",
)
QUEUE = ("queue", "a" * 32, "d" * 16, "b" * 16, "internal", 12, 20, {"batchserve.rows": 2}, [("e" * 32, "f" * 16)], "")


def test_tuples_become_opentelemetry_spans() -> None:
    exporter = InMemorySpanExporter()
    export(io.BytesIO(frame(REQUEST) + frame(QUEUE)), SimpleSpanProcessor(exporter))
    request, queue = exporter.get_finished_spans()
    assert (request.name, request.kind, request.start_time, request.end_time) == ("POST x", SpanKind.SERVER, 10, 30)
    assert request.context is not None
    assert (request.context.trace_id, request.context.span_id) == (int("a" * 32, 16), int("b" * 16, 16))
    assert request.parent is not None
    assert request.parent.is_remote
    assert (request.status.status_code, request.status.description) == (StatusCode.ERROR, "answered 500")
    assert queue.status.status_code is StatusCode.UNSET
    assert queue.parent is not None
    assert not queue.parent.is_remote
    (link,) = queue.links
    assert (link.context.trace_id, link.context.span_id) == (int("e" * 32, 16), int("f" * 16, 16))
    assert dict(queue.attributes or {}) == {"batchserve.rows": 2}
    assert queue.resource.attributes["service.name"] == "batchserve"


def test_half_a_frame_at_the_end_is_dropped() -> None:
    whole = frame(REQUEST)
    for cut in (2, 10, len(whole) - 1):
        exporter = InMemorySpanExporter()
        export(io.BytesIO(whole + whole[:cut]), SimpleSpanProcessor(exporter))
        assert len(exporter.get_finished_spans()) == 1


def test_trouble_is_told_once_when_it_begins_and_once_when_it_ends() -> None:
    class Flaky(InMemorySpanExporter):
        results = iter([True, False, False, True, True])

        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS if next(self.results) else SpanExportResult.FAILURE

    said: list[str] = []
    exporter = Reporting(Flaky(), said.append)
    for _ in range(5):
        exporter.export(())
    assert said == ["spans cannot be sent and are lost", "spans can be sent again"]


# --- The real command and a collector ---------------------------------------------------------------------------------


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_for(self, count: int) -> list[Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.spans) >= count, PATIENCE_S), self.spans
            return self.spans


@contextmanager
def collector() -> Iterator[tuple[Collector, str]]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            with found.changed:
                found.requests.append(ExportTraceServiceRequest.FromString(body))
                found.changed.notify_all()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def infer(server: ServeProcess, headers: dict[str, str]) -> tuple[int, str | None]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    connection = server.connect()
    connection.request("POST", "/v2/models/add_one/infer", json.dumps(body), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.headers["X-Request-Id"]


@pytest.mark.parametrize("fast_path", ["on", "off"])
def test_spans_of_a_request_reach_the_collector(serve: Serve, models: Path, fast_path: str) -> None:
    with collector() as (found, url):
        server = serve(
            models,
            *("--set", "server.tracing=true", "--set", "server.trace_ratio=0", "--set", f"server.trace_endpoint={url}"),
            *("--http-fast-path", fast_path),
        )
        server.loaded()
        assert infer(server, {"X-Request-Id": "not-recorded"}) == (200, "not-recorded")
        assert infer(server, {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}) == (200, TRACE_ID)
        spans = {span.name: span for span in found.wait_for(4)}
        resource = found.requests[0].resource_spans[0].resource
    assert set(spans) == {"POST /v2/models/{model}/infer", "queue", "batch", "run"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE_ID}
    request, queue, batch, run = (spans[name] for name in ("POST /v2/models/{model}/infer", "queue", "batch", "run"))
    assert request.parent_span_id.hex() == SPAN_ID
    assert queue.parent_span_id == batch.parent_span_id == request.span_id
    assert run.parent_span_id == batch.span_id
    assert [link.span_id for link in batch.links] == [request.span_id]
    moments = [
        *(request.start_time_unix_nano, queue.start_time_unix_nano, batch.start_time_unix_nano),
        *(run.start_time_unix_nano, run.end_time_unix_nano, batch.end_time_unix_nano, request.end_time_unix_nano),
    ]
    slack_ns = 50_000  # the offset between the clocks is read anew for each of them
    assert all(later - earlier > -slack_ns for earlier, later in pairwise(moments)), moments
    assert {a.key: a.value.string_value for a in resource.attributes}["service.name"] == "batchserve"


def test_what_is_recorded_last_is_sent_before_the_server_ends(serve: Serve, models: Path) -> None:
    with collector() as (found, url):
        server = serve(
            models,
            "--set",
            "server.tracing=true",
            "--set",
            "server.trace_ratio=1",
            "--set",
            f"server.trace_endpoint={url}",
        )
        server.loaded()
        status, request_id = infer(server, {})
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert status == 200
        assert {span.trace_id.hex() for span in found.spans} == {request_id}
        assert len(found.spans) == 4


def test_a_collector_that_is_not_there_changes_nothing_but_one_line(serve: Serve, models: Path) -> None:
    with collector() as (_, url):
        pass  # its port is free again, and nobody listens
    server = serve(
        models,
        *("--set", "server.tracing=true", "--set", "server.trace_ratio=1", "--set", f"server.trace_endpoint={url}"),
        environ={"OTEL_EXPORTER_OTLP_TIMEOUT": "1"},
    )
    server.loaded()
    assert [infer(server, {})[0] for _ in range(20)] == [200] * 20
    assert server.err.wait_for("spans cannot be sent and are lost") is not None
    assert infer(server, {})[0] == 200


def test_without_opentelemetry_tracing_is_refused_with_what_to_do(models: Path, tmp_path: Path) -> None:
    """A package of that name without the SDK stands in for a Python without it."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("", encoding="utf-8")
    ended = run_command(
        *("serve", models, "--port", "0", "--set", "server.tracing=true"), environ={"PYTHONPATH": str(tmp_path)}
    )
    assert ended.returncode == 2
    assert "pip install 'batchserve[otel]'" in ended.stderr
    assert "Traceback" not in ended.stderr
