"""A server for each test, and the proof that nothing of it is left afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from support.http_service import Serve, Service, start_service, ways


@pytest.fixture(autouse=True, params=["hot", "aiohttp"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every test on both ways to inference: our own connection, and aiohttp's."""
    monkeypatch.setattr(ways, "fast_path", "on" if request.param == "hot" else "off")
    return str(request.param)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers as `start_service` does; afterwards no connection, memory or task of them may be left."""
    before = asyncio.all_tasks()
    services: list[Service] = []

    async def start(*args: object, **keys: object) -> Service:
        services.append(await start_service(*args, **keys))  # type: ignore[arg-type]
        return services[-1]

    yield start
    for service in services:
        await service.stop()
        assert service.server.open_connections == 0
        assert service.server.held_bytes == 0
        for model in service.repository.models():
            raise AssertionError(f"{model.name} still serves")
    left = {task for task in asyncio.all_tasks() if not task.done()} - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test during which an error was logged, unless it asks for `expected_errors`."""
    yield
    if "expected_errors" in request.fixturenames:
        return
    noise = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not noise, [record.getMessage() for record in noise]


@pytest.fixture
def expected_errors(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Allow errors in the log; the test reads them."""
    return caplog
