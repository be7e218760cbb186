"""Padding: which lengths are equal, what is put where, and that nothing of it comes back."""

from __future__ import annotations

import numpy as np
import pytest

from batchserve.core.batch import Batch, gather, scatter
from batchserve.core.padding import PadRule
from batchserve.core.request import Request
from batchserve.core.shapes import shape_key
from batchserve.core.tensors import Array
from batchserve.core.ticket import Entry, Ticket
from batchserve.errors import BadBackendOutput

RULE = PadRule(axes=((1,), (1,), ()), values=(-1, 0, 0), mask=1, outputs=((1,), ()), multiple=8)
"""Inputs tokens, mask, options; outputs states (one for each token), score."""


def tokens_of(number: int, rows: int, length: int) -> Array:
    """Integer-coded: the thousands say whose it is, the hundreds which row, the rest which place."""
    return 1000 * number + 100 * np.arange(rows)[:, None] + np.arange(length)[None, :]


def entry_of(number: int, length: int, *, rows: int = 1, output_mask: int = 0b11) -> Entry:
    tokens = tokens_of(number, rows, length)
    inputs = (tokens, np.ones_like(tokens), np.full((rows, 2), number))
    request = Request(inputs, rows, shape_key(inputs, is_batching=True, pad=RULE), output_mask, 0.0)
    ticket = Ticket(request, 0.0, 60.0, 1)
    ticket.entries = (Entry(ticket, 0, rows, number, RULE.length_of(inputs)),)
    return ticket.entries[0]


def batch_of(*entries: Entry) -> Batch:
    return Batch(list(entries), "idle", 0, pad=RULE)


# --- keys and lengths -------------------------------------------------------------------------------------------------


def test_requests_that_differ_in_padded_axes_alone_have_one_key():
    keys = {entry_of(1, length).ticket.request.key for length in (3, 9, 70)}
    assert keys == {((-1,), (-1,), (2,))}


def test_other_axes_stay_in_the_key():
    two = (np.zeros((1, 3)), np.ones((1, 3)), np.zeros((1, 2)))
    three = (np.zeros((1, 3)), np.ones((1, 3)), np.zeros((1, 3)))
    assert shape_key(two, is_batching=True, pad=RULE) != shape_key(three, is_batching=True, pad=RULE)


def test_an_empty_request_is_not_padded_to_others():
    """What a model says to no token at all is not known from longer ones."""
    assert entry_of(1, 0).ticket.request.key == ((0,), (0,), (2,))


def test_axes_that_disagree_are_found():
    assert RULE.odd_one((np.zeros((1, 5)), np.zeros((1, 5)), np.zeros((1, 2)))) is None
    assert RULE.odd_one((np.zeros((1, 5)), np.zeros((1, 4)), np.zeros((1, 2)))) == (1, 1)


@pytest.mark.parametrize(("shortest", "longest", "length"), [(3, 3, 3), (3, 8, 8), (3, 9, 16), (0, 1, 8), (9, 9, 9)])
def test_run_is_as_long_as_its_longest_rounded_up_unless_all_are_equal(shortest: int, longest: int, length: int):
    assert RULE.run_length(shortest, longest) == length
    assert RULE.run_lengths(np.array([shortest]), np.array([longest])).tolist() == [length]


# --- gather -----------------------------------------------------------------------------------------------------------


def test_shorter_requests_are_padded_behind_what_they_sent():
    first, second = entry_of(1, 3), entry_of(2, 5, rows=2)
    tokens, mask, options = gather(batch_of(first, second))
    assert tokens.tolist() == [
        [1000, 1001, 1002, -1, -1, -1, -1, -1],
        [2000, 2001, 2002, 2003, 2004, -1, -1, -1],
        [2100, 2101, 2102, 2103, 2104, -1, -1, -1],
    ]
    assert mask.tolist() == [[1] * 3 + [0] * 5, [1] * 5 + [0] * 3, [1] * 5 + [0] * 3]
    assert options.tolist() == [[1, 1], [2, 2], [2, 2]]
    assert all(array.flags.c_contiguous for array in (tokens, mask, options))
    assert tokens.dtype == first.arrays()[0].dtype


def test_a_lone_request_runs_as_it_came_whatever_the_multiple():
    entry = entry_of(1, 5)
    batch = batch_of(entry)
    assert all(got is sent for got, sent in zip(gather(batch), entry.arrays(), strict=True))
    assert (batch.length, batch.tokens, batch.padded_share) == (5, 5, 0.0)


def test_requests_of_one_length_are_joined_without_padding():
    batch = batch_of(entry_of(1, 5), entry_of(2, 5))
    assert gather(batch)[0].shape == (2, 5)
    assert batch.padded_share == 0.0


def test_padded_share_counts_rows_not_requests():
    batch = batch_of(entry_of(1, 4, rows=3), entry_of(2, 16))
    assert (batch.rows, batch.length, batch.tokens) == (4, 16, 64)
    assert batch.padded_share == pytest.approx((64 - 3 * 4 - 16) / 64)


def test_without_a_rule_a_batch_costs_its_rows():
    batch = Batch([entry_of(1, 4, rows=3)], "idle", 0)
    assert (batch.length, batch.tokens, batch.padded_share) == (0, 3, 0.0)


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.float32, -10000.0), (np.bool_, True), (np.uint8, 255), (np.dtype(object), "[PAD]")]
)
def test_every_type_is_padded_with_the_value_named(dtype: np.dtype, value: object):
    rule = PadRule(((2,),), (value,), 0, ((),), 4)  # type: ignore[arg-type]
    short, long = np.zeros((1, 2, 1), dtype), np.zeros((2, 2, 3), dtype)
    joined = rule.join(0, (short, long), 3, 4)
    assert joined.dtype == dtype
    assert joined.shape == (3, 2, 4)
    assert (joined[0, :, 1:] == value).all()
    assert (joined[1:, :, 3:] == value).all()
    assert (joined[0, :, :1] == 0).all()
    assert (joined[1:, :, :3] == 0).all()


def test_an_input_may_be_padded_on_two_axes():
    rule = PadRule(((1, 2),), (0,), 0, ((1, 2),), 2)
    joined = rule.join(0, (np.full((1, 1, 1), 7), np.full((1, 2, 2), 8)), 2, 2)
    assert joined.tolist() == [[[7, 0], [0, 0]], [[8, 8], [8, 8]]]
    assert rule.cut(0, joined[:1], 1).tolist() == [[[7]]]


# --- scatter ----------------------------------------------------------------------------------------------------------


def run(batch: Batch) -> list[Array]:
    """A model that answers each token with its negative, and each row with the sum of what its mask keeps."""
    tokens, mask, _ = gather(batch)
    every = [-tokens, (tokens * mask).sum(axis=1)]
    return [output for bit, output in enumerate(every) if batch.output_mask >> bit & 1]


def test_every_request_gets_its_own_length_back_and_nothing_of_others():
    entries = [entry_of(1, 3), entry_of(2, 20, rows=2), entry_of(3, 9), entry_of(4, 1)]
    batch = batch_of(*entries)
    scatter(batch, run(batch), is_batching=True)
    for entry in entries:
        tokens = entry.arrays()[0]
        assert entry.outputs is not None
        states, score = entry.outputs
        assert states.tolist() == (-tokens).tolist()
        assert score.tolist() == tokens.sum(axis=1).tolist()
        assert states.flags.c_contiguous


def test_outputs_asked_for_are_cut_by_their_own_axes():
    """One asks for the states alone, the other for the score alone: positions in the run differ from numbers."""
    first, second = entry_of(1, 3, output_mask=0b01), entry_of(2, 9, output_mask=0b10)
    batch = batch_of(first, second)
    scatter(batch, run(batch), is_batching=True)
    assert [output.tolist() for output in first.outputs or ()] == [[[-1000, -1001, -1002]]]
    assert [output.tolist() for output in second.outputs or ()] == [[9 * 2000 + 36]]


def test_single_rows_are_views_of_the_output():
    batch = batch_of(entry_of(1, 3), entry_of(2, 9))
    outputs = run(batch)
    scatter(batch, outputs, is_batching=True)
    assert all(entry.outputs is not None and np.shares_memory(entry.outputs[0], outputs[0]) for entry in batch.entries)


def test_an_output_shorter_than_the_padded_run_is_the_models_fault():
    """Half as long, say: its axis cannot be cut back to a length that is not its own."""
    entries = [entry_of(1, 3), entry_of(2, 9)]
    batch = batch_of(*entries)
    with pytest.raises(BadBackendOutput, match=r"output 0 of a padded run has shape \[2, 8\], expected 16 on axis 1"):
        scatter(batch, [np.zeros((2, 8)), np.zeros(2)], is_batching=True)
    assert all(entry.outputs is None for entry in entries)


def test_a_batch_that_was_not_padded_is_not_cut():
    """Its outputs are what the model makes of that length, be they as long or not."""
    entries = [entry_of(1, 4), entry_of(2, 4)]
    batch = batch_of(*entries)
    half = np.zeros((2, 2))
    scatter(batch, [half, np.zeros(2)], is_batching=True)
    assert all(entry.outputs is not None and entry.outputs[0].shape == (1, 2) for entry in entries)
