"""A bare HTTP/1.1 client on asyncio streams: it sends the very bytes a test writes, and reads what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any, Self

TIMEOUT_S = 20.0
"""Nothing a test waits for takes this long; it turns a hang into a failure."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One response as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one member of an error's body."""
        assert self.headers["content-type"] == "application/json", self
        body = self.json
        assert isinstance(body, dict), body
        assert list(body) == ["error"], body
        assert isinstance(body["error"], str), body
        assert body["error"], body
        return body["error"]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1") -> Self:
        return cls(*await asyncio.open_connection(host, port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Vanish without a word, as a killed client does."""
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, method: str = "GET") -> Reply:
        """Read one response; `method` is that of its request, since a HEAD's has no body."""
        async with asyncio.timeout(TIMEOUT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ", 2)[1])
            headers = {}
            for line in lines[1:-2]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = b""
            if method != "HEAD" and status >= 200:
                body = await self._read_body(headers)
            return Reply(status, headers, body)

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        assert headers.get("connection") == "close", f"a body without a length: {headers}"
        return await self.reader.read()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """Send one request and read its response."""
        await self.send(request_bytes(method, path, body, headers))
        return await self.read(method)

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return await self.ask("GET", path, None, headers)

    async def post(self, path: str, body: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", path, data, headers)

    async def is_closed_by_server(self) -> bool:
        """Wait for the server to end the connection; nothing may come before that."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


def request_bytes(method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """Write a request as a client would."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def chunked(*chunks: bytes) -> bytes:
    """Frame a chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
