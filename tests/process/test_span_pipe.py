"""The way of spans to their exporter: whole frames, never waited for, and started again when it ended."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batchserve.telemetry import span_pipe
from batchserve.telemetry.span_exporter import read_frames
from batchserve.telemetry.span_pipe import SpanPipe

PATIENCE_S = 20.0


def span(number: int) -> Any:
    return (f"span {number}", "a" * 32, "b" * 16, "", "internal", 1, 2, {"text": "x" * 100}, (), "")


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def keeping(path: Path) -> tuple[str, ...]:
    return python(f"import sys; open({str(path)!r}, 'ab').write(sys.stdin.buffer.read())")


@asynccontextmanager
async def running(command: tuple[str, ...]) -> AsyncIterator[SpanPipe]:
    pipe = SpanPipe("auto", command)
    await pipe.start()
    try:
        yield pipe
    finally:
        await pipe.close()


async def until(state: Callable[[], bool], step: Callable[[], None] = lambda: None) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not state():
            step()
            await asyncio.sleep(0.01)


def names(path: Path) -> list[str]:
    return [each[0] for spans in read_frames(io.BytesIO(path.read_bytes())) for each in spans]


async def test_every_span_arrives_in_order(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    async with running(keeping(kept)) as pipe:
        for number in range(1000):
            pipe.send(span(number))
    assert names(kept) == [f"span {number}" for number in range(1000)]


async def test_few_spans_are_sent_after_a_moment_without_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_pipe, "FLUSH_S", 0.01)
    kept = tmp_path / "kept"
    program = (
        "import sys; out = open(sys.argv[1], 'wb', buffering=0)\n"
        "while data := sys.stdin.buffer.read1(): out.write(data)"
    )
    async with running((*python(program), str(kept))) as pipe:
        pipe.send(span(1))
        await until(lambda: kept.exists() and names(kept) == ["span 1"])


async def test_an_exporter_that_ended_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(span_pipe, "RESTART_S", 0.0)
    monkeypatch.setattr(span_pipe, "FLUSH_SPANS", 1)
    caplog.set_level(logging.INFO, "batchserve.tracing")
    mark, kept = tmp_path / "mark", tmp_path / "kept"
    program = (
        "import os, sys\nmark, kept = sys.argv[1:]\n"
        "if not os.path.exists(mark):\n    open(mark, 'w').close(); sys.exit('no more')\n"
        "open(kept, 'ab').write(sys.stdin.buffer.read())"
    )
    async with running((*python(program), str(mark), str(kept))) as pipe:
        await until(lambda: "ended with status 1" in caplog.text)
        await until(lambda: "spans are exported again" in caplog.text, lambda: pipe.send(span(7)))
    assert set(names(kept)) == {"span 7"}
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "no more"
    assert sum("are dropped" in message for message in messages) == 1


async def test_an_exporter_that_does_not_read_costs_spans_and_no_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(span_pipe, "CLOSE_S", 0.2)
    async with running(python("import sys; sys.stdin.close(); import time; time.sleep(1000)")) as pipe:
        process = pipe._process
        assert process is not None
        await until(lambda: "are dropped" in caplog.text, lambda: [pipe.send(span(i)) for i in range(300)] and None)
    assert process.returncode is not None
    assert sum("are dropped" in record.getMessage() for record in caplog.records) == 1


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(span_pipe, "CLOSE_S", 0.2)
    async with running(python("import time; time.sleep(1000)")) as pipe:
        process = pipe._process
        assert process is not None
        assert process.stdin is not None
        transport = process.stdin.transport
        for number in range(100_000):
            pipe.send(span(number))
        assert "are dropped" in caplog.text
        assert transport.get_write_buffer_size() < span_pipe.MOST_WAITING_BYTES + (1 << 20)  # type: ignore[attr-defined]
