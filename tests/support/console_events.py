"""The console's stream of events, as a browser reads it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.http_service import Service
from support.raw_http import TIMEOUT_S, RawClient, request_bytes

from batchserve.engine.repository import Repository

__all__ = ["EVENTS", "Events", "Numbers", "looking"]

EVENTS = "/console/events"


class Numbers:
    """Stands in for telemetry: counts how often it is asked."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.is_on = False
        self.reads = 0

    def start(self) -> None:
        assert not self.is_on
        self.is_on = True

    def stop(self) -> None:
        assert self.is_on
        self.is_on = False

    def read(self) -> dict[str, Any]:
        assert self.is_on, "read although nobody looks"
        self.reads += 1
        return {"reads": self.reads}


class Events:
    """One stream of events."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.head = ""
        self._rest = ""

    async def begin(self) -> None:
        await self.client.send(request_bytes("GET", EVENTS, None, {"Accept": "text/event-stream"}))
        self.head = (await self.client.reader.readuntil(b"\r\n\r\n")).decode()

    async def next(self) -> tuple[str, Any]:
        """Read the next event; its name and data."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                event, found, rest = self._rest.partition("\n\n")
                if found:
                    self._rest = rest
                    fields = dict(line.split(": ", 1) for line in event.splitlines())
                    if "event" in fields:
                        return fields["event"], json.loads(fields["data"])
                    continue
                size = int(await self.client.reader.readline(), 16)
                if not size:
                    return "", None
                self._rest += (await self.client.reader.readexactly(size + 2))[:-2].decode()


@asynccontextmanager
async def looking(service: Service) -> AsyncIterator[Events]:
    async with await service.client() as client:
        events = Events(client)
        await events.begin()
        yield events
