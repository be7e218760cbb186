"""A benchmark's summary takes medians over rounds and ratios within them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.benchmarks import machine, report, wire


def measured(variant: str, turn: int, requests_per_s: float, **others: Any) -> Any:
    """A measurement whose figures but the throughput do not matter here."""
    fields = {
        "model": "m",
        "variant": variant,
        "connections": 8,
        "round": turn,
        "requests_per_s": requests_per_s,
        "server_cpu_us": 100.0,
        "client_cpu_us": 10.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "rows_per_execution": 1.0,
        "others_share": 0.0,
    }
    return report.Measurement(**(fields | others))


def test_gain_is_taken_within_each_round_whatever_the_order() -> None:
    """A machine that was twice as fast in one round gains nothing from it."""
    rounds = [
        measured("new", 0, 300),
        measured("old", 0, 100),
        measured("old", 1, 200),
        measured("new", 1, 800),
        measured("new", 2, 200),
        measured("old", 2, 100),
    ]
    summaries, (gain,) = report.summarise(rounds, "new", "old")
    assert (gain.median, gain.least, gain.most) == (3, 2, 4)
    assert [(s.variant, s.requests_per_s, s.least_per_s, s.most_per_s) for s in summaries] == [
        ("new", 300, 200, 800),
        ("old", 100, 100, 200),
    ]


def test_table_shows_the_gain_and_marks_a_disturbed_measurement() -> None:
    rounds = [measured("new", 0, 3000), measured("old", 0, 1000, others_share=0.5)]
    lines = report.table(*report.summarise(rounds, "new", "old")).splitlines()
    assert lines[2] == "| m | 8 | new | 3,000 (3,000-3,000) | 100 | 1.00 | 2.00 | 1.0 | 0% | 3.00 (3.00-3.00) |"
    assert lines[3] == "| m | 8 | old | 1,000 (1,000-1,000) | 100 | 1.00 | 2.00 | 1.0 | 50% ! |  |"
    assert {line.count("|") for line in lines} == {11}


def test_result_file_carries_the_machine_and_every_measurement(tmp_path: Path) -> None:
    rounds = [measured("new", 0, 3.0), measured("old", 0, 1.5)]
    facts = {"machine": machine.describe()}
    path = report.write("compare", facts, rounds, report.summarise(rounds, "new", "old"), tmp_path / "results")
    whole = json.loads(path.read_text())
    assert (whole["benchmark"], len(whole["measurements"]), whole["gains"][0]["median"]) == ("compare", 2, 2.0)
    assert whole["machine"]["usable_cores"] >= 1
    assert whole["machine"]["packages"]["numpy"] == np.__version__


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_outputs_of_an_answer_are_read_in_order() -> None:
    header = {
        "outputs": [
            {"name": "p", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
            {"name": "label", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
        ]
    }
    text = json.dumps(header).encode()
    body = text + np.array([0.25, 0.75], "<f4").tobytes() + np.array([7], "<i8").tobytes()
    outputs = wire.outputs(answer(body, f"Inference-Header-Content-Length: {len(text)}"))
    assert outputs["p"].tolist() == [[0.25, 0.75]]
    assert outputs["label"].tolist() == [7]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (answer(b'{"error":"no"}', status="400 Bad Request"), "status 400"),
        (answer(b'{"outputs":[]}'), "JSON throughout"),
        (answer(b'{"outputs":[]}rest', "Inference-Header-Content-Length: 14"), "end at byte"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "Content-Length"),
        (b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n", "status line"),
    ],
)
def test_answer_that_breaks_the_protocol_is_refused(whole: bytes, message: str) -> None:
    with pytest.raises(wire.WireError, match=message):
        wire.outputs(whole)
