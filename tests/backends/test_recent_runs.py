"""What is kept of the runs that go on while a build does."""

from __future__ import annotations

import numpy as np

from batchserve.backends.recent_runs import KEPT, KEPT_BYTES, SHAPES, RecentRuns


def test_shapes_of_the_first_runs_are_kept_and_then_who_waits_is_let_go() -> None:
    runs = RecentRuns()
    for length in range(1, SHAPES + 10):
        assert runs._is_enough.is_set() == (length > SHAPES)
        runs.note([np.zeros((2, length)), np.zeros(3)], 1)
    runs.wait()
    assert runs.shapes == [((2, length), (3,)) for length in range(1, SHAPES + 1)]


def test_inputs_are_copied_few_and_from_the_whole_time() -> None:
    runs, buffer = RecentRuns(), np.zeros(1)
    for number in range(1, 1001):
        buffer[0] = number
        runs.note([buffer], number)
    kept = sorted(mask for _, mask in runs.inputs)
    assert len(kept) == KEPT
    assert kept[-1] == 512, "the latest power of two"
    assert all(inputs[0][0] == mask for inputs, mask in runs.inputs), "a body's buffer is used again"


def test_large_inputs_are_not_copied_but_their_shapes_count() -> None:
    runs = RecentRuns()
    runs.note([np.zeros(KEPT_BYTES // 8 + 1)], 1)
    assert (len(runs.shapes), runs.inputs) == (1, [])
