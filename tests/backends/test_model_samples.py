"""Random inputs: their shapes, values, order of trial, and that rows differ."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from batchserve.backends.header import Axes
from batchserve.backends.samples import (
    MAX_ROW_ELEMENTS,
    Mask,
    Settings,
    candidates,
    draw,
    draw_distinct,
    find_mask,
    take,
)
from batchserve.backends.tensors import GraphTensor
from batchserve.core.tensors import DATATYPES


def tensors(*axes: Axes, datatype: str = "FP32") -> list[GraphTensor]:
    return [GraphTensor(f"x{i}", DATATYPES[datatype], entry, "input") for i, entry in enumerate(axes)]


@pytest.mark.parametrize(
    ("axes", "shapes"),
    [
        ([("n", 4), ("n",)], [(3, 4), (3,)]),
        ([(None, None, 2)], [(3, 9, 2)]),
        ([("n", "length"), ("n", "length", "other")], [(3, 9), (3, 9, 9)]),
        ([("n", 2), (5, "n")], [(3, 2), (5, 3)]),  # the batch's name elsewhere is the batch
        ([("n", "past"), ("n", "past + now"), ("n", "past + 1")], [(3, 9), (3, 18), (3, 10)]),
        ([()], [()]),
    ],
)
def test_shapes_follow_the_names_of_axes(axes: list[Axes], shapes: list[tuple[int, ...]]):
    drawn = draw(tensors(*axes), Settings(length=9), 3, np.random.default_rng(0))
    assert [array.shape for array in drawn] == shapes


def test_free_first_axis_may_be_a_length():
    drawn = draw(tensors(("time",), (1, "time")), Settings(length=9, is_first_free=True), 1, np.random.default_rng(0))
    assert [array.shape for array in drawn] == [(9,), (1, 9)]


@pytest.mark.parametrize("name", DATATYPES)
def test_arrays_have_the_inputs_own_dtype(name: str):
    (array,) = draw(tensors(("n", 50), datatype=name), Settings(), 2, np.random.default_rng(0))
    assert array.dtype == DATATYPES[name].dtype
    assert array.flags.c_contiguous
    if DATATYPES[name].kind in ("int", "bool"):
        assert set(array.ravel().tolist()) == {0, 1}
    if DATATYPES[name].kind == "bytes":
        assert all(type(word) is str and 3 <= len(word) <= 8 for word in array.ravel())


def test_values_follow_the_settings():
    random = np.random.default_rng(0)
    assert draw(tensors(("n", 50), datatype="INT64"), Settings(most=0), 2, random)[0].max() == 0
    unit = draw(tensors(("n", 50)), Settings(floats="unit"), 2, random)[0]
    assert unit.min() >= 0
    assert unit.max() <= 1
    assert np.abs(draw(tensors(("n", 50)), Settings(floats="wide"), 2, random)[0]).max() > 10
    words = draw(tensors(("n", 50), datatype="BYTES"), Settings(strings="numbers"), 2, random)[0]
    assert set(words.ravel()) == {"0", "1"}


@pytest.mark.parametrize(("datatype", "width"), [("FP32", 1), ("INT64", 4), ("BYTES", 1), ("BOOL", 8)])
def test_rows_are_all_different_where_they_can_be(datatype: str, width: int):
    for seed in range(20):
        lots = draw_distinct(tensors(("n", width), datatype=datatype), Settings(), 3, np.random.default_rng(seed))
        rows = [lot[0][i].tolist() for lot in lots for i in range(3)]
        assert all(one != other for one, other in combinations(rows, 2))


def test_replacement_differs_from_its_row_where_only_two_rows_exist():
    for seed in range(20):
        rows, others = draw_distinct(tensors(("n",), datatype="BOOL"), Settings(), 3, np.random.default_rng(seed))
        assert (rows[0] != others[0]).all()


def test_one_possible_row_does_not_loop_forever():
    rows, others = draw_distinct(tensors(("n",), datatype="INT8"), Settings(most=0), 3, np.random.default_rng(0))
    assert rows[0].tolist() == others[0].tolist() == [0, 0, 0]


def test_taken_rows_are_copies_in_the_order_asked():
    array = np.arange(6).reshape(3, 2)
    (taken,) = take([array], (2, 0))
    assert taken.tolist() == [[4, 5], [0, 1]]
    taken[:] = 9
    assert array.max() == 5


def test_most_telling_settings_come_first():
    inputs = [*tensors(("n", "length")), *tensors(("n", 2), datatype="INT64"), *tensors(("n", 2), datatype="BYTES")]
    tried = list(candidates(inputs, may_batch=True))
    assert tried[0] == Settings(5, "normal", 1, "words")
    assert Settings(1, "wide", 0, "numbers") in tried
    assert [settings.length for settings in tried] == sorted(
        [settings.length for settings in tried], key=[settings.length for settings in tried].index
    ), "all values are tried at one length before the next"
    assert not any(settings.is_first_free for settings in tried)


def test_only_what_the_inputs_have_is_varied():
    assert list(candidates(tensors(("n", 4), datatype="BOOL"), may_batch=True)) == [Settings()]
    assert {settings.length for settings in candidates(tensors(("n", 4)), may_batch=True)} == {5}
    firsts = [settings.is_first_free for settings in candidates(tensors(("time",)), may_batch=False)]
    assert firsts == sorted(firsts)
    assert True in firsts


def test_lengths_that_would_make_huge_rows_are_left_out():
    images = tensors(("n", 64, "height", "width"))
    assert max(settings.length for settings in candidates(images, may_batch=True)) ** 2 * 64 <= MAX_ROW_ELEMENTS
    huge = tensors(("n", MAX_ROW_ELEMENTS, "length"))
    assert {settings.length for settings in candidates(huge, may_batch=True)} == {5, 1}


def masked(*tensors_: tuple[str, str, Axes]) -> list[GraphTensor]:
    return [GraphTensor(name, DATATYPES[datatype], axes, "input") for name, datatype, axes in tensors_]


TOKENS: Axes = ("n", "length")


@pytest.mark.parametrize("datatype", ["INT64", "FP32", "BOOL"])
def test_masks_keep_the_first_elements_of_every_row(datatype: str):
    """A row of which nothing counts would be NaN to many models, and holes are nothing that clients send."""
    inputs = masked(("input_ids", "INT64", TOKENS), ("attention_mask", datatype, TOKENS))
    mask = next(candidates(inputs, may_batch=True)).mask
    assert mask == Mask("attention_mask", 1)
    drawn = draw(inputs, Settings(length=9, mask=mask), 50, np.random.default_rng(0))[1]
    assert drawn.dtype == DATATYPES[datatype].dtype
    counts = drawn.astype(int).sum(axis=1)
    assert set(counts.tolist()) == set(range(1, 10))
    assert (drawn.astype(int) == (np.arange(9) < counts[:, None])).all()


def test_mask_has_the_values_it_is_said_to_have():
    inputs = masked(("x", "FP32", TOKENS), ("bias", "FP32", TOKENS))
    settings = Settings(length=4, mask=Mask("bias", 1, kept=0.0, padding=-10000.0))
    drawn = draw(inputs, settings, 20, np.random.default_rng(0))[1]
    assert set(drawn.ravel().tolist()) == {0.0, -10000.0}
    assert (drawn[:, 0] == 0).all()


def test_lengths_are_those_that_a_row_can_have():
    inputs = masked(("x", "FP32", TOKENS), ("lengths", "INT32", ("n", 1)))
    drawn = draw(inputs, Settings(length=4, mask=Mask("lengths", None)), 50, np.random.default_rng(0))[1]
    assert drawn.shape == (50, 1)
    assert set(drawn.ravel().tolist()) == {1, 2, 3, 4}


def test_mask_along_a_later_axis():
    inputs = masked(("x", "FP32", ("n", 2, "length")), ("mask", "FP32", ("n", 2, "length")))
    drawn = draw(inputs, Settings(length=4, mask=Mask("mask", 2)), 9, np.random.default_rng(0))[1]
    assert (drawn[:, :, 0] == 1).all()
    assert (np.diff(drawn, axis=2) <= 0).all()
    assert (drawn[:, 0] == drawn[:, 1]).all()


@pytest.mark.parametrize(
    "inputs",
    [
        masked(("x", "FP32", TOKENS)),
        masked(("attention_mask", "INT64", TOKENS)),  # beside nothing of its axes
        masked(("input_ids", "INT64", TOKENS), ("attention_mask", "BYTES", TOKENS)),
        masked(("input_ids", "INT64", ("n", 8)), ("attention_mask", "INT64", ("n", 8))),
        masked(("image", "FP32", ("n", "height", "width")), ("mask", "FP32", ("n", "height", "width"))),
    ],
)
def test_what_is_not_plainly_a_mask_is_drawn_as_anything_else(inputs: list[GraphTensor]):
    assert find_mask(inputs) is None
