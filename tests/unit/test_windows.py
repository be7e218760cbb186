"""Which lengths run together: plain cases of section 9, each by numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from support.token_cost import CPU_LIKE, GPU_LIKE, LineCost

from batchserve.core.padding import PadRule
from batchserve.core.windows import Window, choose_window, ideal_s

RULE = PadRule(((1,), (1,)), (0, 0), 1, ((),), multiple=1)


def choose(
    lengths: Sequence[int],
    *,
    rows: Sequence[int] = (),
    ages_s: Sequence[float] = (),
    slack_s: float = 1.0,
    horizon_s: float = 1.0,
    max_rows: int = 4,
    rule: PadRule = RULE,
    cost: LineCost = GPU_LIKE,
) -> Window:
    count = len(lengths)
    return choose_window(
        lengths,
        rows or [1] * count,
        ages_s or [0.0] * count,
        slack_s=slack_s,
        horizon_s=horizon_s,
        max_rows=max_rows,
        rule=rule,
        cost=cost,
    )


def test_lone_request_is_its_own_window():
    assert choose([37]) == Window((0,), 1, 37)


def test_full_batch_of_like_lengths_goes_before_a_head_that_can_wait():
    lengths = [500, 10, 11, 10, 11]
    assert choose(lengths) == Window((1, 2, 3, 4), 4, 11)


def test_head_that_cannot_wait_for_one_more_run_goes_first():
    lengths = [60, 40, 41, 40, 41]
    cost = LineCost(1e-3, 1e-5)
    patient = choose(lengths, cost=cost, slack_s=1.0)
    assert 0 not in patient.members
    # Its own run of 60 x 4 takes 3.4 ms, the other 2.64: 2.64 + 1.3 x 3.4 is just more than it has.
    assert 0 in choose(lengths, cost=cost, slack_s=7.0e-3).members


def test_head_that_would_ruin_the_batch_is_passed_over_even_if_it_then_is_too_late():
    lengths = [500, 10, 11, 10, 11]
    alone_s = GPU_LIKE.mean(500) * GPU_LIKE.q
    assert choose(lengths, slack_s=alone_s * 1.01).members == (1, 2, 3, 4)


def test_long_head_that_is_no_worse_alone_is_served():
    """Where time is nearly all tokens, a long request wastes nothing and need not wait for company."""
    assert choose([500, 10, 11, 10, 11], cost=CPU_LIKE) == Window((0,), 1, 500)


def test_window_that_would_miss_the_heads_deadline_is_not_run_for_it():
    """All four together are most efficient, but take too long for the head: it gets the company it has time for."""
    lengths = [100, 100, 100, 100]
    cost = LineCost(5e-4, 1e-5, q=1.0)
    assert choose(lengths, cost=cost).rows == 4
    assert choose(lengths, cost=cost, slack_s=3e-3) == Window((0, 1), 2, 100)
    assert choose(lengths, cost=replace(cost, q=1.5), slack_s=3e-3) == Window((0,), 1, 100)


def test_oldest_of_one_length_go_first():
    """A window that begins within requests of one length takes the first of them in queue order, as does its end."""
    lengths = [8, 8, 8, 9, 9, 9, 9, 9]
    chosen = choose(lengths, max_rows=6)
    assert chosen.members in {(0, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5)}
    assert choose([8] * 8, max_rows=6).members == (0, 1, 2, 3, 4, 5)


def test_older_requests_count_for_more():
    lengths = [10] * 4 + [11] * 4
    young, old = 0.0, 1.0
    assert choose(lengths, ages_s=[young] * 4 + [old] * 4).members == (4, 5, 6, 7)
    assert choose(lengths, ages_s=[old] * 4 + [young] * 4).members == (0, 1, 2, 3)


def test_a_request_of_several_rows_is_one_unit():
    chosen = choose([10, 10, 10], rows=[2, 2, 3], max_rows=4)
    assert chosen == Window((0, 1), 4, 10)


def test_batching_that_does_not_pay_keeps_lengths_apart():
    """Where time is all tokens, padding costs what it adds, and only like lengths are joined."""
    chosen = choose([8, 9, 64, 128], cost=LineCost(1e-9, 1e-5), ages_s=[1.0, 0.5, 0.2, 0.1])
    assert chosen == Window((0,), 1, 8)


def test_token_limit_holds_for_several_and_not_for_one():
    limited = replace(RULE, max_tokens=30)
    assert choose([10, 10, 10, 10], rule=limited) == Window((0, 1, 2), 3, 30 // 3)
    assert choose([50], rule=limited).rows == 1
    assert choose([50, 50], rule=limited) == Window((0,), 1, 50)


def test_length_is_rounded_up_only_where_lengths_differ():
    rounded = replace(RULE, multiple=8)
    assert choose([9, 10], rule=rounded).length == 16
    assert choose([9, 9], rule=rounded).length == 9


def test_rounding_counts_in_the_token_limit():
    limited = replace(RULE, multiple=8, max_tokens=40)
    assert choose([9, 10, 10], rule=limited).tokens <= 40


@pytest.mark.parametrize("most", [33, 34, 40, 64, 127, 128])
def test_large_batches_are_filled_to_the_last_row(most: int):
    """Sizes beyond 32 are tried in steps, and the largest always."""
    assert choose([20] * 128, max_rows=most).rows == most


def test_ideal_is_the_share_of_a_full_batch():
    shares = ideal_s(np.array([10, 100]), 8, RULE, GPU_LIKE)
    assert shares.tolist() == pytest.approx([GPU_LIKE.mean(80) / 8, GPU_LIKE.mean(800) / 8])


def test_ideal_of_long_rows_is_that_of_the_batch_the_token_limit_leaves():
    shares = ideal_s(np.array([10, 100, 1000]), 8, replace(RULE, max_tokens=300), GPU_LIKE)
    assert shares.tolist() == pytest.approx([GPU_LIKE.mean(80) / 8, GPU_LIKE.mean(300) / 3, GPU_LIKE.mean(1000)])
