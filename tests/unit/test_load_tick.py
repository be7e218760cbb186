"""The load wakes up as rarely as the latencies allow."""

from __future__ import annotations

import pytest

from batchserve.load.tick import LONGEST_S, Ticks


def test_tick_is_a_fortieth_of_the_median_and_never_longer_than_a_millisecond() -> None:
    assert Ticks().choose([[0.01, 0.02, 5.0] * 200], 0.1) == pytest.approx(0.0005)
    assert Ticks().choose([[0.5] * 600], 0.1) == LONGEST_S


def test_quickest_stream_decides_also_while_none_of_its_answers_come() -> None:
    ticks = Ticks()
    assert ticks.choose([[0.04] * 600, [0.008]], 0.1) == pytest.approx(0.0002)
    assert ticks.choose([[0.04] * 600, []], 0.1) == pytest.approx(0.0002)


@pytest.mark.parametrize(
    "streams",
    [[], [[]], [[0.04] * 99], [[0.003] * 5000]],
    ids=["no stream", "no answer", "less than one answer a tick", "answers too quick for a tick that saves anything"],
)
def test_there_is_no_tick_where_it_saves_nothing(streams: list[list[float]]) -> None:
    assert Ticks().choose(streams, 0.1) == 0.0
