"""Holds runs through buffers of one's own against the runtime's own runs, before anybody trusts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from batchserve.backends.agreement import Tolerance, difference
from batchserve.backends.runtime import plain_text
from batchserve.core.tensors import Array
from batchserve.errors import ModelLoadError

__all__ = ["TRIAL_ROWS", "prove_staged", "trials"]

TRIAL_ROWS = (1, 3, 8)
"""Rows of the runs that staged answers are compared by."""

Run = Callable[[Sequence[str], Mapping[str, Array], Any], list[Array]]
"""Names of outputs, inputs by name, and the runtime's options or None."""


def trials(sample: Callable[[int], list[Array]], rows: Sequence[int]) -> Iterator[list[Array]]:
    """Give inputs of changing and of equal shapes, never twice the same.

    Args:
        sample: Makes inputs of so many rows.
        rows: Sizes of batches; none for a model that has no batch, where a number of rows only chooses the values.
    """
    if not rows:
        yield from (sample(1), sample(2))
    for count in rows:
        inputs = sample(count)
        yield inputs
        if count > 1:
            yield [np.ascontiguousarray(array[::-1]) for array in inputs]


def prove_staged(
    plain: Run, staged: Run, names: Sequence[str], questions: Sequence[Mapping[str, Array]], tolerance: Tolerance
) -> None:
    """Hold answers of staged runs against the runtime's own. Blocks; nothing else may run.

    Args:
        plain: Runs as the runtime's session does.
        staged: What is to take its place.
        names: Of all outputs.
        questions: Inputs by name.
        tolerance: How much floats may differ.

    Raises:
        ModelLoadError: An answer is another, changed when later ones came, or a run failed.
    """
    try:
        answers = [(plain(names, feeds, None), staged(names, feeds, None)) for feeds in questions]
    except Exception as error:  # the runtime's errors share no other base class
        raise ModelLoadError(f"a run failed: {plain_text(error)}") from error
    for expected, got in answers:  # only now: each must still be what it was
        if problem := difference(expected, got, tolerance):
            raise ModelLoadError(f"its answers are not those of the runtime's own copies: {problem}")
