"""The console's parts: who gets the page, what its policy allows, which errors are kept."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from batchserve.errors import InternalError, InvalidRequest, QueueFull
from batchserve.frontend.console.page import Page, prefers_html
from batchserve.frontend.console.recent import MOST_LINES, RecentErrors

FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    "accept", [FIREFOX, "text/html", "TEXT/HTML; charset=utf-8", "application/json;q=0.5, text/html"]
)
def test_browsers_prefer_the_page(accept: str) -> None:
    assert prefers_html(accept)


@pytest.mark.parametrize(
    "accept",
    [
        *("", "*/*", "application/json", "application/json, text/html;q=0.9", "text/html;q=0", "text/html;q=none"),
        *("text/*", "text/plain", "x" * 10_000 + ", text/html"),
    ],
)
def test_all_others_do_not(accept: str) -> None:
    assert not prefers_html(accept)


def test_the_page_is_one_document_that_loads_nothing() -> None:
    page = Page.load()
    text = page.body.decode()
    assert "/*style*/" not in text
    assert "/*script*/" not in text
    assert not re.findall(r"(?:src|srcset)=|@import|url\(|<link(?! rel=\"icon\" href=\"data:)", text)
    assert re.findall(r"https?://[^\s'\"]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    assert len(text.split("<script>")) == len(text.split("<style>")) == 2


def test_the_policy_names_the_very_style_and_script() -> None:
    page = Page.load()
    policy = page.headers["Content-Security-Policy"]
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (part,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_failures_are_always_kept_and_mistakes_only_while_somebody_looks() -> None:
    errors = RecentErrors(lambda: 12.0)
    errors.note(InvalidRequest("wrong"), "m")
    errors.note(InternalError("bug"), "m", "r1")
    assert [line["text"] for line in errors.read()] == ["bug"]
    errors.is_watched = True
    errors.note(InvalidRequest("wrong"), "m")
    assert errors.read()[0] == {"status": 400, "model": "m", "text": "wrong", "count": 1, "at": 12.0, "request_id": ""}


def test_the_same_error_is_one_line_and_moves_to_the_top() -> None:
    errors = RecentErrors()
    errors.is_watched = True
    for request_id in ("a", "b"):
        errors.note(QueueFull("full"), "m", request_id)
        errors.note(InternalError("bug"), "m", request_id)
    errors.note(QueueFull("full"), "m", "c")
    assert [(line["text"], line["count"], line["request_id"]) for line in errors.read()] == [
        ("full", 3, "c"),
        ("bug", 2, "b"),
    ]


def test_errors_that_differ_in_numbers_alone_are_one_line_with_the_latest() -> None:
    errors = RecentErrors()
    for rows in (5, 17):
        errors.note(InternalError(f"{rows} rows wait"), "m")
    errors.note(InternalError("5 rows wait"), "other")
    assert [(line["text"], line["count"], line["model"]) for line in errors.read()] == [
        ("5 rows wait", 1, "other"),
        ("17 rows wait", 2, "m"),
    ]


def test_lines_and_their_length_are_bounded() -> None:
    errors = RecentErrors()
    for number in range(3 * MOST_LINES):
        errors.note(InternalError(f"{chr(ord('a') + number)} {'x' * 5000}"), "m")
    lines = errors.read()
    assert len(lines) == MOST_LINES
    assert lines[0]["text"].startswith(f"{chr(ord('a') + 3 * MOST_LINES - 1)} ")
    assert all(len(line["text"]) <= 300 for line in lines)
