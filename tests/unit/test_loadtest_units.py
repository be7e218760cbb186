"""Values with their units, in the previews of the dashboards."""

from __future__ import annotations

import math

import pytest
from support.observability import boards, panels

from loadtest.units import KNOWN, written


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.00007, "s", "70 µs"),
        (0.0, "s", "0 s"),
        (2.5, "s", "2.5 s"),
        (600.0, "s", "10 min"),
        (0.995, "percentunit", "99.5 %"),
        (3 * 2**20, "bytes", "3 MiB"),
        (1536.0, "Bps", "1.5 KiB/s"),
        (12.0, "bytes", "12 B"),
        (12345.0, "reqps", "12.3K req/s"),
        (0.25, "short", "0.25"),
        (math.nan, "s", "-"),
    ],
)
def test_a_value_is_written_short_and_with_its_unit(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


def test_every_unit_of_the_dashboards_is_known() -> None:
    used = {panel["fieldConfig"]["defaults"]["unit"] for board in boards() for panel in panels(board)}
    assert used <= KNOWN
