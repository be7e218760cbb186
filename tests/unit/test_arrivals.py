"""Rate of arrivals and the gaps between them (batching.md section 5.3)."""

from __future__ import annotations

import pytest

from batchserve.core.arrivals import Gaps, Rate


@pytest.mark.parametrize("target_s", [None, 0.02, 1.0])
@pytest.mark.parametrize(("every_s", "rows"), [(0.001, 1), (0.01, 4), (0.0001, 2)])
def test_rate_of_even_arrivals_is_found(target_s: float | None, every_s: float, rows: int) -> None:
    rate = Rate(target_s)
    for step in range(int(20 / every_s) if every_s > 0.001 else 20_000):
        rate.note(rows, step * every_s)
    now = step * every_s
    assert rate.per_second(now) == pytest.approx(rows / every_s, rel=0.25)


def test_young_rate_is_corrected_for_what_it_has_not_seen() -> None:
    rate = Rate(None)
    for step in range(100):
        rate.note(1, step * 0.001)  # a tenth of a second of 1,000 a second, with a memory of half a second
    assert rate.per_second(0.1) == pytest.approx(1000, rel=0.1)


def test_rate_fades_when_nothing_comes() -> None:
    rate = Rate(0.02)
    for step in range(1000):
        rate.note(1, step * 0.001)
    assert rate.per_second(2.0) < 1


def test_rate_of_nothing_is_zero() -> None:
    assert Rate(None).per_second(5.0) == 0.0


def test_silence_of_more_than_ten_seconds_forgets_gaps() -> None:
    gaps = Gaps()
    for step in range(30):
        gaps.note(step * 0.001)
    assert gaps.seen == 29
    gaps.note(100.0)
    assert gaps.seen == 0


def test_chance_and_wait_of_even_gaps() -> None:
    gaps = Gaps()
    for step in range(100):
        gaps.note(step * 0.001)
    ahead = list(gaps.ahead(99 * 0.001, 0.01))
    certain = [(wait_s, chance, expected_s) for wait_s, chance, expected_s in ahead if chance > 0.99]
    assert certain, "the next one surely comes within ten milliseconds"
    assert certain[0][0] == pytest.approx(0.001, rel=0.6)  # classes grow by half
    assert certain[0][2] == pytest.approx(0.001, rel=0.6)


def test_chance_is_given_what_has_passed_already() -> None:
    """Volleys of short gaps with a long pause: once the pause is under way, nothing is near."""
    gaps, now = Gaps(), 0.0
    for _ in range(20):
        for _ in range(10):
            gaps.note(now)
            now += 0.0001
        now += 1.0
    last = now - 1.0 - 0.0001
    soon = max((chance for _, chance, _ in gaps.ahead(last, 0.001)), default=0.0)
    later = max((chance for _, chance, _ in gaps.ahead(last + 0.01, 0.001)), default=0.0)
    assert soon > 0.8
    assert later < 0.01


def test_old_gaps_fade() -> None:
    gaps, now = Gaps(), 0.0
    for _ in range(400):
        now += 0.1
        gaps.note(now)
    for _ in range(800):
        now += 0.0001
        gaps.note(now)
    near = max(chance for _, chance, _ in gaps.ahead(now, 0.001))
    assert near > 0.9
