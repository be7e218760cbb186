"""The page of a measurement: whole, self-contained, and nothing a server said is taken for markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from batchserve.load.html import model_page, server_page
from batchserve.load.svg import Axis, Series, bars, format_count, format_seconds, lines
from batchserve.load.table import text_table

VOID = {"meta", "br"}


class _Balance(HTMLParser):
    """Checks that what is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def run(label: str, rate: float, p99: float, **changes: Any) -> dict[str, Any]:
    latency = {
        "mean": p99 / 3,
        "min": p99 / 9,
        "p50": p99 / 4,
        "p90": p99 / 2,
        "p95": p99 / 1.5,
        "p99": p99,
        "max": 1.0,
    }
    stream = {"name": "m", "answered": 90, "within_share": 0.8, "latency_s": latency, "failed": {}, "target_s": 0.02}
    moment = {"due": 50, "answered": 45, "failed": 5, "within": 40, "p50_s": 0.01, "p99_s": 0.02, "max_s": 0.03}
    silent = {"due": 0, "answered": 0, "failed": 0, "within": 0, "p50_s": None, "p99_s": None, "max_s": None}
    return {
        "label": label,
        "loop": "open",
        "offered_per_s": rate,
        "answered_per_s": rate * 0.9,
        "goodput_per_s": rate * 0.8,
        "lag_s": {"p99": 1e-4},
        "cpu_share": 0.1,
        "total": stream | {"failed": {"status 429": 7}},
        "streams": [stream, stream | {"name": "<other>"}],
        "timeline": [{"second": 0, **moment}, {"second": 1, **silent}, {"second": 2, **moment}],
        "histogram": [(0.001, 5), (0.01, 80), (1.0, 5)],
        "batch_rows": {"1": 5, "8": 70},
        "phases_s": {"queue": {"mean": 0.001, "p50": 0.001, "p99": 0.002, "max": 0.003}},
        "examples": {"status 429": "<script>alert(1)</script>"},
        **changes,
    }


def document(*runs: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "server",
        "command": "batchserve bench",
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {"Python": "3.11"},
        "url": "http://127.0.0.1:8000",
        "model": "<m>",
        "chosen": len(runs) - 1,
        "warnings": ["late & slow"],
        "runs": list(runs),
        "search": {"share": 0.99, "target_s": 0.02, "rate": 200.0},
    }


def checked(page: str) -> _Balance:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href|url)\s*[=(]", page), "the page asks for something else"
    assert "<script" not in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(drawing)
        assert "nan" not in drawing
        assert "inf" not in drawing
    return parser


def test_page_of_a_server_has_every_plot_and_table() -> None:
    page = server_page(document(run("100/s", 100.0, 0.01), run("200/s", 200.0, 0.02)))
    checked(page)
    assert page.count("<svg") == 5
    for text in ("Latency against load", "status 429", "&lt;script&gt;", "&lt;other&gt;", "200/s", "late &amp; slow"):
        assert text in page
    assert "p99 ≤ 20 ms" in page


def test_page_of_a_run_without_any_answer_is_whole() -> None:
    stream = {
        "name": "m",
        "answered": 0,
        "within_share": 0.0,
        "latency_s": {},
        "failed": {"timeout": 3},
        "target_s": None,
    }
    silent = {"due": 1, "answered": 0, "failed": 1, "within": 0, "p50_s": None, "p99_s": None, "max_s": None}
    one = run("5/s", 5.0, 0.1, total=stream, streams=[stream], histogram=[], batch_rows={}, phases_s={}, lag_s={})
    page = server_page(document(one | {"timeline": [{"second": 0, **silent}]}))
    checked(page)
    assert "no answer" in page


def test_page_of_a_model_has_a_line_for_each_provider() -> None:
    row = {"mean_s": 0.002, "p50_s": 0.002, "p99_s": 0.003, "rows_per_s": 500.0, "memory_bytes": 1 << 24, "runs": 9}
    rows = [{"provider": name, "batch_size": size, **row} for name in ("cpu", "cuda") for size in (1, 8)]
    page = model_page({"model": "m.onnx", "command": "", "started": "", "versions": {}, "rows": rows})
    checked(page)
    assert page.count("<svg") == 2
    assert page.count('class="line') == 4


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis("", 0, 100), [0, 20, 40, 60, 80, 100]),
        (Axis("", 0, 7), [0, 2, 4, 6]),
        (Axis("", 0.001, 0.1, is_log=True), [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]),
        (Axis("", 1e-6, 10, is_log=True), [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10]),
    ],
)
def test_ticks_are_round_and_inside_the_axis(axis: Axis, expected: list[float]) -> None:
    assert axis.ticks() == pytest.approx(expected)


def test_axis_holds_its_values_and_places_them_in_order() -> None:
    axis = Axis.around("", [0.001, 0.01, 1.0], is_log=True)
    places = [axis.place(value) for value in (0.001, 0.01, 1.0)]
    assert places == sorted(places)
    assert places[0] > 0
    assert places[-1] < 1
    assert axis.place(100.0) == 1.0
    assert Axis.around("", []).place(0.5) == 0.5


def test_a_missing_point_interrupts_its_line() -> None:
    drawn = lines(Axis("", 0, 3), Axis("", 0, 3), [Series("a", [(0, 1), (1, None), (2, 1), (3, 2)], 1)])
    path = re.search(r'class="line c1" d="([^"]*)"', drawn)
    assert path is not None
    assert [part[0] for part in re.findall(r"[ML][^ML]*", path[1])] == ["M", "M", "L"]
    assert drawn.count("<circle") == 3


def test_bars_are_as_high_as_their_values() -> None:
    drawn = bars(Axis("", 0, 2), Axis("", 0, 10), [(0, 1, 10), (1, 2, 5)])
    first, second = map(float, re.findall(r'height="([0-9.]+)"', drawn))
    assert first == pytest.approx(2 * second)


def test_figures_are_written_for_people() -> None:
    assert [format_seconds(value) for value in (2.5, 0.00102, 8.534e-6)] == ["2.5 s", "1.02 ms", "8.53 µs"]
    assert [format_count(value) for value in (1250.4, 12.345, 7.0)] == ["1,250", "12.3", "7"]


def test_table_lays_figures_to_the_right() -> None:
    assert text_table(("run", "n"), [("a", "10"), ("long", "5")]) == "run    n\na     10\nlong   5"
