"""What batches spend on the way to their runs and back is learnt by size, and scatter is smoothed."""

from __future__ import annotations

import pytest

from batchserve.engine.hand_overs import HandOvers


def test_sizes_are_learnt_apart() -> None:
    learnt = HandOvers()
    learnt.observe(2, 0.0003)
    learnt.observe(32, 0.0012)
    assert learnt.points == ((2.0, 0.0003), (32.0, 0.0012))


def test_one_batch_moves_the_mean_little_and_many_move_it_all_the_way() -> None:
    learnt = HandOvers([(9.0, 0.001)])
    learnt.observe(9, 0.005)
    assert learnt.points == ((9.0, pytest.approx(0.0012)),)
    for _ in range(200):
        learnt.observe(11, 0.003)
    assert learnt.points == ((pytest.approx(11.0, rel=0.001), pytest.approx(0.003, rel=0.001)),)
