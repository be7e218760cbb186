"""Holds a converted model against its original: how far answers are apart, and how many rows a second each gives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchserve.backends.base import Session
from batchserve.core.tensors import Array
from batchserve.errors import ConversionError

__all__ = ["Accuracy", "Speed", "compare_answers", "compare_loads", "compare_speed"]

ROUNDS = 7
WINDOW_S = 0.05
LEAST_RUNS = 3
LOADS = 3


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far one output of the converted model is from the original's.

    Attributes:
        output: Its name.
        max_difference: Largest difference between two finite numbers.
        mean_difference: Mean difference.
        relative: The mean difference as a share of the mean size of the original's numbers; None if all are 0.
        same: Share of elements that are equal, for outputs that are no floats; None for floats.
        not_finite: Numbers that are finite in one of the two only, or infinite another way.
        top1: Share of rows whose largest number is at the same place; None if the output does not look like scores of
            classes.
    """

    output: str
    max_difference: float
    mean_difference: float
    relative: float | None
    not_finite: int
    same: float | None
    top1: float | None


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows per second at one batch size, one run at a time: medians of rounds in turns.

    Attributes:
        rows: The batch size.
        original: Rows per second of the original.
        converted: Rows per second of the converted model.
        spread: Largest by smallest round of the noisier of the two.
    """

    rows: int
    original: float
    converted: float
    spread: float


def compare_answers(original: Session, converted: Session, questions: Sequence[Sequence[Array]]) -> list[Accuracy]:
    """Run the same inputs on both. Blocks.

    Args:
        original: The original, loaded.
        converted: The converted model, loaded.
        questions: Inputs of each run, in the model's order.

    Returns:
        One entry for each output.

    Raises:
        ConversionError: The two do not take the same inputs or give the same outputs.
        BackendError: A run failed.
    """
    if (original.inputs, [spec.name for spec in original.outputs]) != (
        converted.inputs,
        [spec.name for spec in converted.outputs],
    ):
        raise ConversionError("the converted model has other inputs or outputs than the original")
    every = (1 << len(original.outputs)) - 1
    pairs = [(original.run(inputs, every), converted.run(inputs, every)) for inputs in questions]
    return [
        _accuracy(spec.name, [(expected[index], got[index]) for expected, got in pairs])
        for index, spec in enumerate(original.outputs)
    ]


def _accuracy(name: str, pairs: Sequence[tuple[Array, Array]]) -> Accuracy:
    for expected, got in pairs:
        if expected.shape != got.shape:
            raise ConversionError(
                f"output {name!r} of the converted model has the shape {list(got.shape)} where the original's has "
                f"{list(expected.shape)}"
            )
    first = pairs[0][0]
    if first.dtype.kind != "f":
        same = sum(int(np.count_nonzero(expected == got)) for expected, got in pairs)
        return Accuracy(name, 0.0, 0.0, None, 0, same / max(1, sum(one.size for one, _ in pairs)), None)
    a, b = (np.concatenate([pair[side].ravel().astype(np.float64) for pair in pairs]) for side in (0, 1))
    is_finite = np.isfinite(a) & np.isfinite(b)
    is_same = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.abs(a[is_finite] - b[is_finite])
    mean, size = (float(np.mean(values)) if values.size else 0.0 for values in (apart, np.abs(a[is_finite])))
    top1 = None
    if first.ndim == 2 and all(one.shape[1] > 1 for one, _ in pairs):
        agree = [np.argmax(expected, axis=1) == np.argmax(got, axis=1) for expected, got in pairs]
        top1 = float(np.mean(np.concatenate(agree)))
    return Accuracy(
        name,
        max_difference=float(np.max(apart, initial=0.0)),
        mean_difference=mean,
        relative=mean / size if size else None,
        not_finite=int(np.count_nonzero(~is_finite & ~is_same)),
        same=None,
        top1=top1,
    )


def compare_speed(original: Session, converted: Session, inputs: Sequence[Array], rows: int) -> Speed:
    """Time both on the same inputs in turns, so that what else the machine does meets both. Blocks for about a second.

    Args:
        original: The original, loaded.
        converted: The converted model, loaded.
        inputs: Of one run.
        rows: Its rows.

    Raises:
        BackendError: A run failed.
    """
    _rows_per_s(original, inputs, rows)  # the first runs of a size allocate
    _rows_per_s(converted, inputs, rows)
    before, after = [], []
    for _ in range(ROUNDS):
        before.append(_rows_per_s(original, inputs, rows))
        after.append(_rows_per_s(converted, inputs, rows))
    spread = max(max(rates) / min(rates) for rates in (before, after))
    return Speed(rows, statistics.median(before), statistics.median(after), spread)


def _rows_per_s(session: Session, inputs: Sequence[Array], rows: int) -> float:
    every = (1 << len(session.outputs)) - 1
    runs, start_s = 0, time.perf_counter()
    while True:
        session.run(inputs, every)
        runs += 1
        took_s = time.perf_counter() - start_s
        if took_s >= WINDOW_S and runs >= LEAST_RUNS:
            return rows * runs / took_s


def compare_loads(original: Session, converted: Session) -> tuple[float, float]:
    """Open both files again, in turns. Blocks.

    Returns:
        Median seconds for the original and for the converted model.

    Raises:
        ModelLoadError: One of them cannot be opened again.
    """
    pairs = [(_load_s(original), _load_s(converted)) for _ in range(LOADS)]
    before, after = zip(*pairs, strict=True)
    return statistics.median(before), statistics.median(after)


def _load_s(session: Session) -> float:
    start_s = time.perf_counter()
    again = session.reopen(session.layouts[0])
    took_s = time.perf_counter() - start_s
    again.close()
    return took_s
