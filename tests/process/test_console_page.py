"""The console in a real browser, against the real command under load."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.browser import Browser, open_browser
from support.command import ServeProcess

Serve = Callable[..., ServeProcess]
pytestmark = [pytest.mark.needs("chromium"), pytest.mark.timeout(180)]

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
CALLERS = 8


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as opened:
        yield opened


class Load:
    """Callers that ask again as soon as they are answered, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered = 0
        self.is_over = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self.is_over = True
        await self._task

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._ask(session, rows) for rows in range(1, CALLERS + 1)))

    async def _ask(self, session: aiohttp.ClientSession, rows: int) -> None:
        tensor = {**BODY["inputs"][0], "shape": [rows, 4], "data": [1, 2, 3, 4] * rows}
        while not self.is_over:
            async with session.post(f"{self.url}/v2/models/add_one/infer", json={"inputs": [tensor]}) as answer:
                assert answer.status == 200
                await answer.read()
            self.answered += 1


def metrics(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(page: dict[Any, float], name: str, **labels: str) -> float:
    return page[name, frozenset({"model": "add_one", "version": "1", **labels}.items())]


async def readings(browser: Browser, more: int) -> None:
    """Wait for so many further readings to be drawn."""
    seen = await browser.until("document.documentElement.dataset.readings || '0'")
    await browser.until(f"Number(document.documentElement.dataset.readings) >= {int(seen) + more}")


def number(text: str) -> float:
    found = re.search(r"[0-9][0-9,.]*", text)
    assert found is not None, text
    return float(found[0].replace(",", ""))


def quantile_bounds(before: dict[Any, float], after: dict[Any, float], share: float) -> tuple[float, float]:
    """Milliseconds between which a quantile lies, by the buckets that /metrics counted meanwhile."""
    name, low = "batchserve_request_duration_seconds_bucket", 0.0
    bounds = sorted({float(dict(labels)["le"]) for key, labels in after if key == name})
    written = {float(dict(labels)["le"]): dict(labels)["le"] for key, labels in after if key == name}
    counts = [sample(after, name, le=written[b]) - sample(before, name, le=written[b]) for b in bounds]
    for bound, count in zip(bounds, counts, strict=True):
        if count >= share * counts[-1]:
            return low * 1e3, bound * 1e3
        low = bound
    raise AssertionError("no bucket holds it")


async def test_values_on_the_page_agree_with_the_metrics(serve: Serve, models: Path, browser: Browser) -> None:
    server = serve(models)
    url = server.loaded()
    async with Load(url) as load:
        await browser.open(url)
        await readings(browser, 2)
        before, start = metrics(url), asyncio.get_running_loop().time()
        await readings(browser, 10)  # as many as the page's window has
        after, took_s = metrics(url), asyncio.get_running_loop().time() - start
        shown = {name: number(await browser.text(f"#{name}")) for name in ("rate", "p50", "p99", "batch", "busy")}
        rates = await browser.run("page.history.get('add_one/1').completed.slice(-10)")
        await load.stop()
        await readings(browser, 2)
    name = "batchserve_requests_total"
    done = sample(after, name, outcome="completed") - sample(before, name, outcome="completed")
    # The two spans of ten seconds are not quite the same ones, and the load of a shared machine is not even.
    assert sum(rates) / len(rates) == pytest.approx(done / took_s, rel=0.25)
    for quantile, share in (("p50", 0.5), ("p99", 0.99)):
        low, high = quantile_bounds(before, after, share)
        assert low / 1.5 <= shown[quantile] <= high * 1.5, (quantile, shown, low, high)
    rows = sample(after, "batchserve_batch_rows_sum") - sample(before, "batchserve_batch_rows_sum")
    runs = sample(after, "batchserve_batch_rows_count") - sample(before, "batchserve_batch_rows_count")
    assert shown["batch"] == pytest.approx(rows / runs, rel=0.25)
    # At rest every total is the same number.
    still = metrics(url)
    totals = await browser.run(
        "Object.fromEntries([...document.querySelectorAll('[data-total]')].map(n => [n.dataset.total, n.textContent]))"
    )
    assert number(totals["received"]) == sample(still, "batchserve_requests_received_total") == load.answered
    for outcome in ("completed", "invalid", "refused", "expired", "cancelled", "failed"):
        assert number(totals[outcome]) == sample(still, name, outcome=outcome)
    assert number(totals["rows"]) == sample(still, "batchserve_rows_total")
    assert number(totals["executions"]) == sample(still, "batchserve_executions_total", outcome="ok")
    assert number(await browser.text("#waiting")) == sample(still, "batchserve_queue_requests") == 0
    reasons = await browser.run("Object.keys(page.numbers.get('add_one/1').reasons)")
    assert all(sample(still, "batchserve_batches_total", reason=reason) > 0 for reason in reasons)
    assert browser.complaints == []


async def test_form_sends_a_real_request_and_shows_its_timing(serve: Serve, models: Path, browser: Browser) -> None:
    server = serve(models)
    url = server.loaded()
    await browser.open(url)
    await browser.until("document.querySelector('#values-0')")
    await browser.run(
        "(() => { const text = document.querySelector('#values-0'); text.value = '[1, 2, 3, 4.5]';"
        "text.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    assert await browser.run("document.querySelector('#fill-0').value") == "typed"
    await browser.run("document.querySelector('#values-0').focus()")
    await browser.press("Tab")
    assert await browser.run("document.activeElement.id") == "send"
    await browser.press("Enter")
    await browser.until("document.querySelector('#answer-status')")
    assert await browser.text("#answer-status") == "200"
    assert await browser.text("#answer .output") == "[2, 3, 4, 5.5]"
    timing = await browser.text("#server-timing")
    assert all(phase in timing for phase in ("decode", "queue", "gather", "run", "scatter"))
    assert sample(metrics(url), "batchserve_requests_total", outcome="completed") == 1
    # More rows than the sample has, zeros, and values that the server refuses.
    await browser.run(
        "(() => { const rows = document.querySelector('#axis-0-0'); rows.value = '3';"
        "rows.dispatchEvent(new Event('input'));"
        "const fill = document.querySelector('#fill-0'); fill.value = 'zero';"
        "fill.dispatchEvent(new Event('change')); })()"
    )
    await browser.click("#send")
    await browser.until("document.querySelector('#answer .output')?.textContent.split(',').length === 12")
    await browser.run(
        "(() => { const text = document.querySelector('#values-0'); text.value = '[1, 2]';"
        "text.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    await browser.click("#send")
    await browser.until("document.querySelector('#answer-error')")
    assert "add_one" in await browser.text("#answer-error")
    assert [line for line in browser.complaints if "400" not in line] == []


async def test_page_says_what_a_model_runs_on_while_its_provider_is_built_and_why_it_stays_there(
    serve: Serve, models: Path, browser: Browser
) -> None:
    server = serve(models)
    await browser.open(server.loaded())
    await readings(browser, 1)
    assert await browser.run("document.querySelector('#build').hidden")
    seen = {}
    for state, why in (
        ("building", "tensorrt is being built"),
        ("refused", "tensorrt is not used: it is slower"),
        ("swapped", "runs on tensorrt"),
    ):
        about = f"{{state: '{state}', why: '{why}', seconds: 1, provider: 'CUDAExecutionProvider'}}"
        await browser.run(f"drawBuild({about})")
        seen[state] = await browser.run("(n => n.hidden ? '' : n.textContent)(document.querySelector('#build'))")
    assert seen == {
        "building": "Runs on CUDA for now: tensorrt is being built",
        "refused": "Stays on CUDA: tensorrt is not used: it is slower",
        "swapped": "",
    }
    assert browser.complaints == []


async def test_page_has_a_name_for_every_control_and_asks_only_this_server(
    serve: Serve, models: Path, browser: Browser
) -> None:
    server = serve(models)
    url = server.loaded()
    async with Load(url):
        await browser.open(url)
        await readings(browser, 3)
    controls = await browser.controls()
    assert [role for role, name in controls if role != "table" and not name] == []
    assert {"button", "spinbutton", "combobox", "textbox"} <= {role for role, _ in controls}
    pictures = [name for role, name in controls if role in ("img", "image")]
    assert any("Requests per second" in name for name in pictures)
    assert {address.split("/")[2] for address in browser.requested if address.startswith("http")} == {
        url.removeprefix("http://")
    }
    assert browser.complaints == []


@pytest.mark.parametrize(("width", "height"), [(320, 640), (390, 844), (768, 1024), (1360, 900)])
async def test_nothing_sticks_out_at_the_side(
    serve: Serve, models: Path, browser: Browser, width: int, height: int
) -> None:
    server = serve(models)
    url = server.loaded()
    await browser.resize(width, height, is_phone=width < 700)
    async with Load(url), aiohttp.ClientSession() as session:
        await session.post(f"{url}/v2/models/add_one/infer", json={"inputs": []})
        await browser.open(url)
        await readings(browser, 2)
        await session.post(f"{url}/v2/models/{'long' * 30}/infer", json={"inputs": []})
        await readings(browser, 2)
        await browser.click("#send")
        await browser.until("document.querySelector('#answer-status')")
        assert await browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []


async def test_colours_follow_the_scheme_and_can_be_read(serve: Serve, models: Path, browser: Browser) -> None:
    """Text has a contrast of at least 4.5 (WCAG AA) in both schemes."""
    server = serve(models)
    await browser.open(server.loaded())
    await readings(browser, 2)
    seen = set()
    for scheme in ("light", "dark"):
        await browser.prefer(scheme)
        colours = await browser.run(
            "(() => { const style = getComputedStyle(document.documentElement); return Object.fromEntries("
            "['--bg', '--card', '--text', '--faint', '--accent', '--on-accent', '--good', '--good-soft', '--bad',"
            " '--bad-soft', '--warn', '--warn-soft'].map(n => [n, style.getPropertyValue(n).trim()])); })()"
        )
        seen.add(colours["--bg"])
        pairs = [
            *(("--text", "--bg"), ("--text", "--card"), ("--faint", "--bg"), ("--faint", "--card")),
            *(("--accent", "--bg"), ("--on-accent", "--accent"), ("--good", "--good-soft")),
            *(("--bad", "--bad-soft"), ("--warn", "--warn-soft")),
        ]
        for front, back in pairs:
            assert contrast(colours[front], colours[back]) >= 4.5, (scheme, front, back)
    assert len(seen) == 2


def contrast(front: str, back: str) -> float:
    """Contrast of two colours written as #rrggbb (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(front), luminance(back)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


async def test_a_hidden_page_closes_its_stream(serve: Serve, models: Path, browser: Browser) -> None:
    server = serve(models)
    url = server.loaded()
    await browser.open(url)
    await readings(browser, 1)
    await browser.run(
        "(() => { Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange')); })()"
    )
    assert await browser.run("page.source") is None
    await browser.run(
        "(() => { Object.defineProperty(document, 'hidden', {value: false, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange')); })()"
    )
    await readings(browser, 2)
    assert browser.complaints == []
