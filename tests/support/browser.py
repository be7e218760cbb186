"""A headless Chromium, driven over its DevTools protocol: one page, its errors, its accessibility tree, pictures."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["Browser", "open_browser"]

TIMEOUT_S = 40.0
"""Nothing a test waits for takes this long; it turns a hang into a failure."""

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--no-proxy-server", "--hide-scrollbars", "--remote-debugging-port=0", "--remote-allow-origins=*"),
)


@dataclass
class Browser:
    """One page of a running browser. Event loop only.

    Attributes:
        complaints: What the page or the browser wrote to the console as an error or warning, and uncaught exceptions.
        requested: URLs that the page asked for.
    """

    socket: aiohttp.ClientWebSocketResponse
    session_id: str = ""
    complaints: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: count(1))
    _waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def read(self) -> None:
        """Take what comes until the browser is gone."""
        async for message in self.socket:
            data = json.loads(message.data)
            if "id" in data:
                waiting = self._waiting.pop(data["id"])
                if not waiting.done():
                    waiting.set_result(data)
            else:
                self._heard(data["method"], data["params"])

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        if self.session_id:
            message["sessionId"] = self.session_id
        await self.socket.send_json(message)
        async with asyncio.timeout(TIMEOUT_S):
            answer = await self._waiting[number]
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        await self.ask("Page.navigate", url=url)

    async def run(self, expression: str) -> Any:
        """Evaluate JavaScript and return its value; a promise is awaited."""
        answer = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, (expression, answer)
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait, frame by frame, until an expression is true; return its value."""
        return await self.run(
            "new Promise((done) => { const look = () => { let value = null; "
            f"try {{ value = ({condition}); }} catch {{}} value ? done(value) : setTimeout(look, 20); }}; look(); }})"
        )

    async def text(self, selector: str) -> str:
        return str(await self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    async def click(self, selector: str) -> None:
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def press(self, key: str) -> None:
        """Press one key: `Tab`, or `Enter`."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r")}
        code, text = codes[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    async def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )

    async def prefer(self, scheme: str) -> None:
        """Ask for the `light` or the `dark` scheme."""
        await self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def controls(self) -> list[tuple[str, str]]:
        """Return role and accessible name of everything that can be operated or that is a picture."""
        tree = await self.ask("Accessibility.getFullAXTree")
        roles = {"button", "link", "textbox", "spinbutton", "combobox", "img", "image", "table", "region", "navigation"}
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if not node.get("ignored") and node.get("role", {}).get("value") in roles
        ]

    async def picture(self, path: Path, *, is_whole: bool = True) -> None:
        """Write a PNG of the page."""
        answer = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(answer["data"]))  # noqa: ASYNC240  # a test may wait for a small file


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start Chromium with a profile of its own, with one empty page; ends it and removes the profile."""
    program = shutil.which("chromium")
    assert program is not None
    profile = tempfile.mkdtemp(prefix="chromium-")
    process = await asyncio.create_subprocess_exec(
        *(program, *FLAGS, f"--user-data-dir={profile}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        url = await _devtools_url(process)
        drain = asyncio.create_task(_drain(process))
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            browser = Browser(socket)
            reader = asyncio.create_task(browser.read())
            try:
                await _attach(browser)
                yield browser
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        shutil.rmtree(profile, ignore_errors=True)


async def _devtools_url(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT_S):
        while line := (await process.stderr.readline()).decode():
            if "DevTools listening on " in line:
                return line.split("DevTools listening on ")[1].strip()
    raise AssertionError("Chromium ended before it listened")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read on, so that the browser never waits for a reader of its complaints."""
    assert process.stderr is not None
    while await process.stderr.readline():
        pass


async def _attach(browser: Browser) -> None:
    target = await browser.ask("Target.createTarget", url="about:blank")
    attached = await browser.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
    browser.session_id = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
        await browser.ask(f"{domain}.enable")
