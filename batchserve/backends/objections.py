"""What speaks against a session that is to take another's place: other answers, other rows, or no gain in speed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from batchserve.backends.agreement import difference, elsewhere

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.core.tensors import Array

__all__ = ["objection"]

RANDOM_ROWS = (1, 2, 3, 8)
SPEED_RUNS, SPEED_TRIES = 7, 3
MAX_SLOWER = 1.10
"""A session that takes more than so many times the time is not worth a change; less is noise."""

Recorded = Sequence[tuple[Sequence["Array"], int]]
"""Inputs of runs in service and the outputs that were asked for, as the mask of `Session.run`."""


def objection(candidate: Session, serving: Session, recorded: Recorded) -> str:
    """Say why a session should not take the place of the one that serves; "" if nothing speaks against it. Blocks.

    Args:
        candidate: Answers the same random inputs and the recorded ones, and is timed.
        serving: Goes on serving meanwhile.
        recorded: Runs of which the candidate takes the shapes.

    Raises:
        BackendError: A run failed on one of them.
    """
    if (candidate.inputs, candidate.outputs) != (serving.inputs, serving.outputs):
        return "its inputs or outputs are others"
    if candidate.batchability.is_batchable != serving.batchability.is_batchable:
        return f"its rows behave otherwise: {candidate.batchability.why}"
    if candidate.pad != serving.pad:
        return "its lengths are padded otherwise"
    return _wrong_answer(candidate, serving, recorded) or _slowness(candidate, serving)


def _wrong_answer(candidate: Session, serving: Session, recorded: Recorded) -> str:
    every = (1 << len(serving.outputs)) - 1
    sizes = RANDOM_ROWS if serving.batchability.is_batchable else (1,)
    questions: list[tuple[Sequence[Array], int]] = [(serving.sample(rows), every) for rows in sizes]
    questions += recorded
    tolerance = elsewhere((*candidate.providers, *serving.providers))
    for number, (inputs, mask) in enumerate(questions):
        expected, got = serving.run(inputs, mask), candidate.run(inputs, mask)
        if problem := difference(expected, got, tolerance):
            return f"for {'random' if number < len(sizes) else 'recorded'} inputs its {problem}"
    return ""


def _slowness(candidate: Session, serving: Session) -> str:
    """Compare times; on a busy machine one comparison may go wrong, so the candidate has several tries."""
    ratio = min(_ratios(candidate, serving), default=1.0)
    return "" if ratio <= MAX_SLOWER else f"it takes {ratio:.2f} times as long as {serving.providers[0]}"


def _ratios(candidate: Session, serving: Session) -> Iterator[float]:
    """Time both in turns at one row and at eight; the shortest runs count, since serving goes on beside."""
    every = (1 << len(serving.outputs)) - 1
    samples = [serving.sample(rows) for rows in ((1, 8) if serving.batchability.is_batchable else (1,))]
    for _ in range(SPEED_TRIES):
        before_s = after_s = 0.0
        for inputs in samples:
            pairs = [(_time(serving, inputs, every), _time(candidate, inputs, every)) for _ in range(SPEED_RUNS)]
            before_s += min(one for one, _ in pairs)
            after_s += min(other for _, other in pairs)
        yield after_s / before_s
        if after_s <= before_s * MAX_SLOWER:
            return


def _time(session: Session, inputs: Sequence[Array], mask: int) -> float:
    start_s = time.perf_counter()
    session.run(inputs, mask)
    return time.perf_counter() - start_s
