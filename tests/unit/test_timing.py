"""Where an answer's time went, as its headers have it."""

from __future__ import annotations

from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from batchserve.core.request import Phases
from batchserve.frontend.timing import is_asked, server_timing


def parsed(value: str) -> dict[str, Decimal]:
    return {part.split(";dur=")[0]: Decimal(part.split(";dur=")[1]) for part in value.split(", ")}


def test_phases_are_in_milliseconds() -> None:
    timing = server_timing(Phases(100.0, 100.0001, 100.0006, 100.00065, 100.00565, 100.0057))
    assert (
        timing
        == "decode;dur=0.100, queue;dur=0.500, gather;dur=0.050, run;dur=5.000, scatter;dur=0.050, total;dur=5.700"
    )


@given(st.floats(0, 1e7), st.lists(st.floats(0, 10), min_size=5, max_size=5))
def test_phases_add_up_to_the_total_exactly(arrival_s: float, steps_s: list[float]) -> None:
    moments = [arrival_s]
    for step_s in steps_s:
        moments.append(moments[-1] + step_s)
    timing = parsed(server_timing(Phases(*moments)))
    total = timing.pop("total")
    assert sum(timing.values()) == total
    assert all(duration >= 0 for duration in timing.values())


@pytest.mark.parametrize(("value", "asked"), [(None, False), ("1", True), ("", True), ("0", False), (" OFF ", False)])
def test_header_asks_unless_it_says_no(value: str | None, asked: bool) -> None:
    assert is_asked(value) is asked
