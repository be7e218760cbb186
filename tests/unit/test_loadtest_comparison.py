"""The comparison: its table, what went against us, how other servers are named, described and checked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
from support.benchmarks import comparison

from loadtest import contenders
from loadtest.server import ServerError


def row(server: str, share: float, goodput: float, turn: int = 0) -> dict[str, object]:
    return {
        "server": server, "share": share, "round": turn, "goodput_share": goodput, "goodput_per_s": 100 * goodput,
        "latency_s": {"p50": 0.01, "p99": 0.02 / goodput} if goodput else {},
    }  # fmt: skip


def test_table_has_medians_and_ranges_of_every_server_and_load() -> None:
    rows = [row(name, share, good) for name in ("a", "b") for share in comparison.SHARES for good in (0.2, 1.0, 0.8)]
    rows += [row("c", share, 0.0) | {"is_load_late": True} for share in comparison.SHARES]
    lines = comparison.table(rows).splitlines()
    assert len(lines) == 2 + 3 * len(comparison.SHARES)
    assert lines[2] == "| a | 0.1 x | 80.0% (20.0%-100.0%) | 10.0 | 25.0 |"
    assert lines[-1] == "| c | 2 x ! | 0.0% (0.0%-0.0%) | - | - |"


def test_findings_compare_with_the_best_other_of_each_round() -> None:
    rounds = [{"batchserve": 0.9, "a": 0.6, "b": 0.3}, {"batchserve": 0.4, "a": 0.2, "b": 0.8}]
    rows = [
        row(server, share, goodput, turn)
        for turn, goodputs in enumerate(rounds)
        for server, goodput in goodputs.items()
        for share in comparison.SHARES
    ]
    found = {one.what: one.figures for one in comparison.findings(rows)}
    assert found["goodput at 2 x the raw limit, over the best other's"] == pytest.approx((1.5, 0.5))
    assert found["p99 at 0.5 x the raw limit, over the best other's"] == pytest.approx((0.6 / 0.9, 0.8 / 0.4))
    assert comparison.findings([row("batchserve", 2.0, 0.5)]) == []


def test_every_contender_has_an_adapter_whose_first_line_states_its_settings() -> None:
    for name in contenders.CONTENDERS:
        first = (contenders.ADAPTERS / f"{name}_server.py").read_text(encoding="utf-8").partition("\n")[0]
        assert "32 rows" in first
        assert ": " in first


def test_contender_without_its_package_is_named_before_anything_runs() -> None:
    assert "latency target" in contenders.described("batchserve", None)["settings"]
    with pytest.raises(ServerError, match=r"rayserve: .* has not all of ray, onnxruntime, numpy"):
        contenders.described("rayserve", Path(sys.executable))
    with pytest.raises(ServerError, match="cannot be run"):
        contenders.described("rayserve", Path("/nowhere/python"))


@pytest.mark.parametrize("text", ["mosec", "mosec=", "other=python"])
def test_server_that_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=PYTHON with one of mosec"):
        comparison._other(text)


def test_answers_are_read_in_each_contenders_form() -> None:
    right = np.array([[1.5, -2.0]], np.float32)
    for body in (b'{"outputs":[{"shape":[1,2],"data":[1.5,-2]}]}', b'{"y":[1.5,-2]}', b"[[1.5,-2]]"):
        assert np.array_equal(contenders._numbers(body, is_json=True).ravel(), right.ravel())
    assert np.array_equal(contenders._numbers(right.tobytes(), is_json=False), right.ravel())
    x = np.ones((1, 2), np.float32)
    assert contenders._question(contenders.asked("bentoml"), x) == ("/predict", b'{"x":[[1.0,1.0]]}', True)
    assert contenders._question(contenders.asked("mosec"), x) == ("/inference", x.tobytes(), False)
    assert contenders._question(contenders.asked("mlserver"), x)[0] == "/v2/models/model/infer"
