"""A measurement as one page of HTML that needs nothing else: no script, no network, plots as SVG inside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from batchserve.load.svg import Axis, Series, bars, format_count, format_seconds, lines

__all__ = ["model_page", "server_page"]

BARS = 60
"""Bars of the histogram of latencies, at most."""

_STYLE = """
:root{--bg:#fff;--fg:#1d2433;--soft:#5b6475;--rule:#dde1e8;--card:#f6f7f9;
--c1:#2563eb;--c2:#d9480f;--c3:#2b8a3e;--c4:#862e9c}
@media(prefers-color-scheme:dark){:root{--bg:#14171d;--fg:#e6e9ef;--soft:#9aa3b2;--rule:#2c323d;--card:#1b1f27;
--c1:#6ea8fe;--c2:#ff9b66;--c3:#69db7c;--c4:#da77f2}}
*{box-sizing:border-box}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;
max-width:1360px;padding:24px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:0 0 8px}
.soft,.y-label,.legend{color:var(--soft);font-size:13px;margin:0}
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(125px,1fr));gap:12px;margin:20px 0}
.tile,section{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:14px}
.tile b{display:block;font-size:21px;font-variant-numeric:tabular-nums}
.warn{border-left:4px solid var(--c2);padding:6px 12px;margin:12px 0}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(520px,100%),1fr));gap:16px;margin:16px 0}
section{overflow-x:auto;margin-bottom:16px}.plots section{margin:0}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.grid{stroke:var(--rule);fill:none}.line{fill:none!important;stroke-width:2}
.limit{stroke:var(--fg);stroke-dasharray:5 4;fill:none}.limit-text{fill:var(--fg)}
.c1{fill:var(--c1);stroke:var(--c1);background:var(--c1)}.c2{fill:var(--c2);stroke:var(--c2);background:var(--c2)}
.c3{fill:var(--c3);stroke:var(--c3);background:var(--c3)}.c4{fill:var(--c4);stroke:var(--c4);background:var(--c4)}
rect{stroke:none!important}
.legend span{margin-right:16px}.legend i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:5px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 10px;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600;font-size:13px}
"""


def server_page(document: Mapping[str, Any]) -> str:
    """Write the page of a measurement of a server.

    Args:
        document: What `batchserve bench --json` writes; at least one run.
    """
    runs = document["runs"]
    run = runs[document["chosen"]]
    plots = [
        *_latency_against_load(document),
        ("Latencies", _histogram(run)),
        ("Requests by the second in which they were due", _timeline(run)),
        ("Latency by the second in which requests were due", _latency_timeline(run)),
        *([("Rows that ran with a request", _batch_rows(run))] if run["batch_rows"] else []),
    ]
    body = [
        _tiles(_server_figures(document, run)),
        *(f'<p class="warn">{escape(text)}</p>' for text in document.get("warnings", ())),
        _plots(plots),
        _section("Runs", _run_table(runs)),
        _section("Streams", _stream_table(run)) if len(run["streams"]) > 1 else "",
        _section("Where the server says the time went", _phase_table(run)) if run["phases_s"] else "",
        _section("Failed requests", _failure_table(run)) if run["total"]["failed"] else "",
    ]
    return _page(f"{document['model']} at {document['url']}", document, body)


def model_page(document: Mapping[str, Any]) -> str:
    """Write the page of a measurement of a model in this process.

    Args:
        document: What `batchserve bench model.onnx --json` writes; at least one row.
    """
    rows = document["rows"]
    names = list(dict.fromkeys(row["provider"] for row in rows))
    x = Axis.around("rows in a batch", [row["batch_size"] for row in rows], is_log=True)

    def drawn(label: str, key: str, *, is_time: bool) -> str:
        write = format_seconds if is_time else format_count
        y = Axis.around(label, [row[key] for row in rows], is_log=is_time, write=write)
        series = [
            Series(name, [(row["batch_size"], row[key]) for row in rows if row["provider"] == name], colour % 4 + 1)
            for colour, name in enumerate(names)
        ]
        return lines(x, y, series)

    plots = [
        ("Throughput against batch size", drawn("rows a second", "rows_per_s", is_time=False)),
        ("Time of a run against batch size", drawn("median time of a run", "p50_s", is_time=True)),
    ]
    headings = ("provider", "batch", "mean", "p50", "p99", "rows/s", "memory")
    cells = [
        (
            row["provider"],
            str(row["batch_size"]),
            *(format_seconds(row[key]) for key in ("mean_s", "p50_s", "p99_s")),
            format_count(row["rows_per_s"]),
            f"{row['memory_bytes'] / 1e6:,.0f} MB",
        )
        for row in rows
    ]
    return _page(document["model"], document, [_plots(plots), _section("Runs", _table(headings, cells))])


def _page(title: str, document: Mapping[str, Any], body: Iterable[str]) -> str:
    facts = " · ".join(f"{name} {value}" for name, value in document["versions"].items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(document["started"])} · {escape(facts)}</p>'
        f'<p class="soft"><code>{escape(document["command"])}</code></p>'
        f"{''.join(body)}</body></html>\n"
    )


def _tiles(figures: Iterable[tuple[str, str]]) -> str:
    tiles = "".join(
        f'<div class="tile"><span class="soft">{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in figures
    )
    return f'<div class="tiles">{tiles}</div>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _plots(plots: Iterable[tuple[str, str]]) -> str:
    return f'<div class="plots">{"".join(_section(title, plot) for title, plot in plots)}</div>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    lines_ = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines_}</tbody></table>"


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)


def _server_figures(document: Mapping[str, Any], run: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    search = document.get("search")
    if search is not None:
        goal = f"p{search['share'] * 100:g} ≤ {format_seconds(search['target_s'])}"
        yield f"largest rate with {goal}", f"{format_count(search['rate'])}/s" if search["rate"] else "none"
    yield "offered", f"{format_count(run['offered_per_s'])}/s"
    yield "answered", f"{format_count(run['answered_per_s'])}/s"
    if run["total"]["target_s"] is not None:
        yield f"within {format_seconds(run['total']['target_s'])}", f"{run['total']['within_share']:.2%}"
    latency = run["total"]["latency_s"]
    for name in ("p50", "p99", "max"):
        yield name, _seconds(latency.get(name))
    yield "failed", format_count(sum(run["total"]["failed"].values()))


def _latency_against_load(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Draw the percentiles of all speeds over what was offered, if there are several; medians of repeated runs."""
    loop = document["runs"][-1]["loop"]
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for run in document["runs"]:
        if run["loop"] == loop and run["total"]["latency_s"]:
            by_label.setdefault(run["label"], []).append(run)
    if len(by_label) < 2:
        return
    percentiles = ("p50", "p95", "p99")
    points = sorted(
        (
            statistics.median(run["offered_per_s"] for run in runs),
            *(statistics.median(run["total"]["latency_s"][name] for run in runs) for name in percentiles),
        )
        for runs in by_label.values()
    )
    x = Axis.around("requests offered a second", [point[0] for point in points])
    target_s = document["runs"][-1]["total"]["target_s"]
    values = [value for point in points for value in point[1:]]
    y = Axis.around("latency", [*values, *([target_s] if target_s else [])], is_log=True, write=format_seconds)
    series = [
        Series(name, [(point[0], point[colour]) for point in points], colour)
        for colour, name in enumerate(percentiles, start=1)
    ]
    limit = ("target", target_s) if target_s else None
    yield "Latency against load", lines(x, y, series, limit=limit)


def _histogram(run: Mapping[str, Any]) -> str:
    """Draw how many answers took how long, in bars that are equally wide on a logarithmic axis."""
    buckets = run["histogram"]
    if not buckets:
        return "<p>no answer</p>"
    x = Axis.around("latency", [seconds for seconds, _ in buckets], is_log=True, write=format_seconds)
    step = math.log(x.most / x.least) / BARS
    heights = [0] * BARS
    for seconds, count in buckets:
        heights[min(int(math.log(seconds / x.least) / step), BARS - 1)] += count
    edges = [x.least * math.exp(step * index) for index in range(BARS + 1)]
    y = Axis.around("answers", heights)
    return bars(x, y, [(edges[i], edges[i + 1], height) for i, height in enumerate(heights) if height])


def _timeline(run: Mapping[str, Any]) -> str:
    moments = run["timeline"]
    x = Axis("second", 0.0, max(moments[-1]["second"], 1))
    names = (("due", 1), ("within", 3), ("failed", 2))
    y = Axis.around("requests", [moment[name] for moment in moments for name, _ in names])
    series = [
        Series(
            {"due": "due", "within": "answered in time", "failed": "failed"}[name],
            [(moment["second"], moment[name]) for moment in moments],
            colour,
        )
        for name, colour in names
    ]
    return lines(x, y, series)


def _latency_timeline(run: Mapping[str, Any]) -> str:
    moments = run["timeline"]
    x = Axis("second", 0.0, max(moments[-1]["second"], 1))
    names = (("p50_s", 1), ("p99_s", 3), ("max_s", 4))  # the colours that they have against the load
    values = [moment[name] for moment in moments for name, _ in names if moment[name] is not None]
    y = Axis.around("latency", values, is_log=True, write=format_seconds)
    series = [Series(name[:-2], [(one["second"], one[name]) for one in moments], colour) for name, colour in names]
    target_s = run["total"]["target_s"]
    return lines(x, y, series, limit=("target", target_s) if target_s else None)


def _batch_rows(run: Mapping[str, Any]) -> str:
    counts = {int(rows): count for rows, count in run["batch_rows"].items()}
    x = Axis("rows in the batch", 0.5, max(counts) + 0.5)
    y = Axis.around("requests that asked", list(counts.values()))
    return bars(x, y, [(rows - 0.5, rows + 0.5, count) for rows, count in sorted(counts.items())], colour=3)


def _run_table(runs: Sequence[Mapping[str, Any]]) -> str:
    headings = (
        "run",
        "offered/s",
        "answered/s",
        "in time/s",
        "in time",
        "p50",
        "p99",
        "max",
        "failed",
        "load late",
        "CPU",
    )
    cells = []
    for run in runs:
        latency = run["total"]["latency_s"]
        cells.append(
            (
                run["label"],
                *(format_count(run[key]) for key in ("offered_per_s", "answered_per_s", "goodput_per_s")),
                f"{run['total']['within_share']:.2%}",
                *(_seconds(latency.get(name)) for name in ("p50", "p99", "max")),
                format_count(sum(run["total"]["failed"].values())),
                _seconds(run["lag_s"].get("p99")),
                f"{run['cpu_share']:.0%}",
            )
        )
    return _table(headings, cells)


def _stream_table(run: Mapping[str, Any]) -> str:
    cells = [
        (
            stream["name"],
            format_count(stream["answered"]),
            f"{stream['within_share']:.2%}",
            *(_seconds(stream["latency_s"].get(name)) for name in ("p50", "p99", "max")),
            format_count(sum(stream["failed"].values())),
        )
        for stream in run["streams"]
    ]
    return _table(("stream", "answered", "in time", "p50", "p99", "max", "failed"), cells)


def _phase_table(run: Mapping[str, Any]) -> str:
    cells = [
        (name, *(_seconds(phase.get(key)) for key in ("mean", "p50", "p99", "max")))
        for name, phase in run["phases_s"].items()
    ]
    return _table(("phase", "mean", "p50", "p99", "max"), cells)


def _failure_table(run: Mapping[str, Any]) -> str:
    failed = run["total"]["failed"]
    cells = [(kind, format_count(count), run["examples"].get(kind, "")[:160]) for kind, count in failed.items()]
    return _table(("kind", "requests", "for example"), cells)
