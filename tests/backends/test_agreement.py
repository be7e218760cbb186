"""When two answers count as the same."""

from __future__ import annotations

import numpy as np
import pytest

from batchserve.backends.agreement import NEIGHBOURS, differences, elsewhere, scale_of

CPU = elsewhere(["CPUExecutionProvider"])


def differ(expected: object, got: object, dtype: str = "f4", tolerance=CPU) -> str:
    a, b = np.array(expected, dtype=dtype), np.array(got, dtype=dtype)
    return differences(a, b, scale_of(a), tolerance)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([1.0, -2.0], [1.00005, -2.0001]),
        ([0.0, 1.0, 1.0], [5e-5, 1.0, 1.0]),  # near zero, the output's scale counts
        ([np.nan, np.inf, -np.inf, 1.0], [np.nan, np.inf, -np.inf, 1.0]),
        ([1e-9, 2e-9], [3e-9, -4e-9]),  # below the floor
        ([], []),
    ],
)
def test_floats_within_the_tolerance_agree(expected: list[float], got: list[float]):
    assert differ(expected, got) == ""


@pytest.mark.parametrize(
    ("expected", "got", "said"),
    [
        ([1.0, -2.0], [1.001, -2.0], "1 of 2 elements differ, by up to 0.001"),
        ([1.0, np.nan], [1.0, 1.0], "1 of 2 elements differ"),
        ([1.0, 1.0], [1.0, np.inf], "1 of 2 elements differ"),
        ([1.0, np.inf], [1.0, 1e38], "1 of 2 elements differ"),
        ([1.0, np.inf], [1.0, -np.inf], "1 of 2 elements differ"),
        ([-3e38] * 8 + [1.0] * 2, [-3e38] * 8 + [1.0, 1.01], "1 of 10 elements differ, by up to 0.01"),
    ],
)
def test_floats_beyond_it_are_counted_and_measured(expected: list[float], got: list[float], said: str):
    assert differ(expected, got) == said


def test_neighbours_are_held_to_a_tenth_of_it():
    assert differ([1.0], [1.00005]) == ""
    assert differ([1.0], [1.00005], tolerance=NEIGHBOURS) != ""


def test_half_precision_has_its_own_step():
    assert differ([1.0, 2.0], [1.01, 2.0], "f2") == ""
    assert differ([1.0, 2.0], [1.1, 2.0], "f2") != ""
    assert differ([1.0, 2.0], [1.01, 2.0], "f2", NEIGHBOURS) != ""


@pytest.mark.parametrize("dtype", ["i8", "u1", "?", "O"])
def test_other_types_are_compared_exactly(dtype: str):
    one, other = (["a", "b"], ["a", "c"]) if dtype == "O" else ([0, 1], [0, 0])
    assert differ(one, one, dtype) == ""
    assert differ(one, other, dtype) == "1 of 2 elements differ"


def test_accelerators_get_room_for_coarse_arithmetic():
    gpu = elsewhere(["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert differ([1.0], [1.01], tolerance=gpu) == ""
    assert differ([1.0], [1.01]) != ""


def test_scale_is_that_of_the_small_numbers():
    assert scale_of(np.array([0.0, 0.0, np.nan, np.inf, 3.0], np.float32)) == 3.0
    assert scale_of(np.zeros(4, np.float32)) == 0.0
    assert scale_of(np.array([1, 2])) == 0.0
    values = np.concatenate([np.full(85, -3e38), np.linspace(1, 2, 15)]).astype(np.float32)
    assert 1 < scale_of(values) < 2
