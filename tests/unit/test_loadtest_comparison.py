"""The comparison's table, and how other servers are named."""

from __future__ import annotations

import argparse

import pytest
from support.benchmarks import comparison


def row(server: str, share: float, goodput: float) -> dict[str, object]:
    return {"server": server, "share": share, "goodput_share": goodput, "latency_s": {"p50": 0.01, "p99": 0.02}}


def test_table_has_medians_and_ranges_of_every_server_and_load() -> None:
    rows = [row(name, share, good) for name in ("a", "b") for share in comparison.SHARES for good in (0.2, 0.9, 0.8)]
    lines = comparison.table(rows).splitlines()
    assert len(lines) == 2 + 2 * len(comparison.SHARES)
    assert lines[2] == "| a | 0.5 x | 80.0% (20.0%-90.0%) | 10.0 | 20.0 |"


def test_every_contender_has_an_adapter() -> None:
    for name in comparison.CONTENDERS:
        assert (comparison.ADAPTERS / f"{name}_server.py").is_file()


@pytest.mark.parametrize("text", ["mosec", "mosec=", "other=python"])
def test_server_that_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=PYTHON with one of mosec"):
        comparison._other(text)
