"""The choice of a window against a search in plain Python, and what must hold for every choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from support.token_cost import LineCost

from batchserve.core.padding import PadRule
from batchserve.core.windows import Window, choose_window


@dataclass(frozen=True)
class Case:
    """The arguments of one choice."""

    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    ages_s: tuple[float, ...]
    slack_s: float
    max_rows: int
    rule: PadRule
    cost: LineCost

    horizon_s = 0.1

    def choose(self) -> Window:
        return choose_window(
            self.lengths,
            self.rows,
            self.ages_s,
            slack_s=self.slack_s,
            horizon_s=self.horizon_s,
            max_rows=self.max_rows,
            rule=self.rule,
            cost=self.cost,
        )

    def tokens(self, members: tuple[int, ...]) -> int:
        lengths = [self.lengths[i] for i in members]
        return sum(self.rows[i] for i in members) * self.rule.run_length(min(lengths), max(lengths))

    def mean_s(self, members: tuple[int, ...]) -> float:
        return self.cost.mean(self.tokens(members))

    def efficiency(self, members: tuple[int, ...]) -> float:
        worth = 0.0
        for i in members:
            full = self.max_rows
            if self.rule.max_tokens is not None:
                full = min(full, max(1, self.rule.max_tokens // self.lengths[i]))
            age = 1 + 0.3 * min(1, self.ages_s[i] / self.horizon_s)
            worth += self.rows[i] * self.cost.mean(full * self.lengths[i]) / full * age
        return worth / self.mean_s(members)

    def is_allowed(self, members: tuple[int, ...]) -> bool:
        if len(members) == 1:
            return True
        limit = self.rule.max_tokens
        return sum(self.rows[i] for i in members) <= self.max_rows and (limit is None or self.tokens(members) <= limit)

    def is_window(self, members: tuple[int, ...]) -> bool:
        """Neighbours in length; of the shortest and of the longest the first in queue order."""
        inside = sorted(self.lengths[i] for i in members)
        for i, length in enumerate(self.lengths):
            if i in members or not inside[0] <= length <= inside[-1]:
                continue
            if inside[0] < length < inside[-1]:
                return False
            if any(j > i and self.lengths[j] == length for j in members):
                return False
        return True

    def windows(self) -> Iterator[tuple[int, ...]]:
        every = range(len(self.lengths))
        for size in range(1, len(self.lengths) + 1):
            for members in combinations(every, size):
                if self.is_window(members) and self.is_allowed(members):
                    yield members

    def expected(self) -> tuple[int, ...]:
        """Do what section 9 says, word by word."""
        windows = list(self.windows())
        best = max(windows, key=self.efficiency)
        if 0 in best and self.mean_s(best) * self.cost.q <= self.slack_s:
            return best
        mine = max(
            (w for w in windows if 0 in w and self.mean_s(w) * self.cost.q <= self.slack_s),
            key=self.efficiency,
            default=(0,),
        )
        behind = self.efficiency(mine) / self.efficiency(best)
        if behind < 0.97 and self.mean_s(best) + 1.3 * self.mean_s(mine) <= self.slack_s:
            return best
        return best if behind < 0.7 else mine


@st.composite
def cases(draw: st.DrawFn, most: int = 8) -> Case:
    count = draw(st.integers(1, most))
    max_rows = draw(st.integers(1, 10))
    cost = LineCost(draw(st.floats(1e-5, 1e-2)), draw(st.floats(1e-7, 1e-4)), draw(st.floats(1.02, 2.0)))
    several = draw(st.booleans())
    rule = PadRule(
        ((1,),),
        (0,),
        0,
        ((),),
        multiple=draw(st.sampled_from([1, 4, 8])),
        max_tokens=draw(st.none() | st.integers(1, 200)),
    )
    return Case(
        lengths=tuple(draw(st.lists(st.integers(1, 40), min_size=count, max_size=count))),
        rows=tuple(draw(st.lists(st.integers(1, max_rows if several else 1), min_size=count, max_size=count))),
        ages_s=tuple(draw(st.lists(st.floats(0, 0.2), min_size=count, max_size=count))),
        slack_s=draw(st.floats(1e-5, 0.1)),
        max_rows=max_rows,
        rule=rule,
        cost=cost,
    )


@given(cases())
def test_choice_is_that_of_a_search_through_all_windows(case: Case) -> None:
    """The same efficiency, so that equals may be exchanged."""
    chosen, expected = case.choose().members, case.expected()
    assert case.is_window(chosen)
    assert abs(case.efficiency(chosen) - case.efficiency(expected)) <= 1e-9 * case.efficiency(expected)


@given(cases(most=60))
def test_limits_hold_and_the_window_says_what_it_is(case: Case) -> None:
    window = case.choose()
    assert window.members == tuple(sorted(set(window.members)))
    assert case.is_allowed(window.members)
    assert window.rows == sum(case.rows[i] for i in window.members)
    assert window.tokens == case.tokens(window.members)


@given(cases(most=60))
def test_head_is_passed_over_by_the_two_conditions_alone(case: Case) -> None:
    """If it can wait for one more run, or if even its best company is far worse than the window that goes."""
    window = case.choose()
    if 0 in window.members:
        return
    alone = (0,)
    can_wait = case.mean_s(window.members) + 1.3 * case.mean_s(alone) <= case.slack_s
    assert can_wait or case.efficiency(alone) < 0.7 * case.efficiency(window.members)


@given(cases(most=40), st.integers(0, 3))
def test_the_same_question_has_the_same_answer(case: Case, times: int) -> None:
    assert len({case.choose() for _ in range(times + 2)}) == 1
