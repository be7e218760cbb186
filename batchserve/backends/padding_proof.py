"""Proof by runs that a row's answer is the same alone and padded among longer ones.

One round draws a row of random values for each of several lengths, the whole of it marked as there (of one row only the
first half: clients may have padded it themselves), and runs

1. each row alone, without padding,
2. all of them together in a random order, padded to the longest,
3. all but the longest, so that the same rows are padded less,
4. the shortest and the longest, in both orders.

Every answer of 2 to 4, cut back to its row's length, must be that of 1. Rows are joined and cut by the very code that
serves (`core.padding`).

A whole number or a coarsely rounded value may flip where two candidates were equal but for rounding, so a difference
condemns only if it is seen in more than a quarter of the rounds; after a difference more rounds are run. A wrong shape,
or a padded run that fails, condemns at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchserve.backends.agreement import Tolerance, differences, scale_of
from batchserve.backends.padding import mask_of, sized
from batchserve.backends.proof import Run
from batchserve.backends.samples import Settings, draw
from batchserve.backends.tensors import GraphTensor
from batchserve.core.padding import PadRule
from batchserve.core.tensors import Array
from batchserve.errors import BackendError, ModelLoadError

__all__ = ["prove_padding"]

LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)
"""Lengths that are tried, besides the one that the model is known to take."""

LEAST_ROUNDS, MOST_ROUNDS = 3, 12
QUICK_S = 0.3
"""Rounds beyond the least are run while all of them together took less than this."""
MOST_SLIPS = 0.25
"""Share of the rounds in which a difference may be rounding's."""


def prove_padding(
    run: Run,
    rule: PadRule,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[str],
    settings: Settings,
    tolerance: Tolerance,
) -> str:
    """Prove a rule. Blocks for some dozens of runs of up to nine short rows.

    Args:
        run: Computes every output; raises BackendError.
        rule: What is padded and cut.
        inputs: The model's inputs.
        outputs: Names of its outputs.
        settings: How to draw rows that the model accepts.
        tolerance: How far an answer may be off.

    Returns:
        A sentence about what was proved, without a full stop.

    Raises:
        ModelLoadError: An answer changes, or nothing could be proved, with what was found.
    """
    prover = _Prover(run, rule, inputs, outputs, settings, tolerance)
    began = time.perf_counter()
    slips: list[str] = []
    rounds = 0
    while rounds < MOST_ROUNDS:
        rounds += 1
        if slip := prover.round(rounds):
            slips.append(slip)
        is_settled = not slips or len(slips) <= MOST_SLIPS * rounds or len(slips) > MOST_SLIPS * MOST_ROUNDS
        if rounds >= LEAST_ROUNDS and is_settled and time.perf_counter() - began > QUICK_S:
            break
    if len(slips) > MOST_SLIPS * rounds:
        raise ModelLoadError(
            f"pad changes answers: {slips[0]}; the model does not keep padding out of its results: "
            "correct pad.mask, pad.values or the model, or leave pad out"
        )
    text = (
        f"rows of {prover.lengths[0]} to {prover.lengths[-1]} gave the same answers alone and padded among longer "
        f"ones, in {rounds} rounds"
    )
    return text + (f"; differences as rounding makes them in {len(slips)}: {slips[0]}" if slips else "")


@dataclass(slots=True)
class _Row:
    """A row with its answers alone, each `[1, ...]`."""

    length: int
    arrays: list[Array]
    answers: list[Array]


class _Prover:
    """Runs rounds; one thread.

    Attributes:
        lengths: Those that the model takes alone, ascending.
    """

    def __init__(
        self,
        run: Run,
        rule: PadRule,
        inputs: Sequence[GraphTensor],
        outputs: Sequence[str],
        settings: Settings,
        tolerance: Tolerance,
    ) -> None:
        self._run = run
        self._rule = rule
        self._inputs = inputs
        self._outputs = outputs
        self._settings = settings
        self._tolerance = tolerance
        self._mask = mask_of(rule, inputs)
        self.lengths = self._accepted()

    def round(self, seed: int) -> str:
        """Run one round; say how an answer differed, "" if none did.

        Raises:
            ModelLoadError: A shape is wrong, or a padded run fails.
        """
        random = np.random.default_rng(seed)
        rows = [self._drawn(length, random, is_half=length == self.lengths[-2]) for length in self.lengths]
        if not any(self._is_telling(row) for row in rows):
            raise ModelLoadError(
                "pad cannot be proved: every value that the model was found to take is the one it is padded with; "
                "name another value in pad.values, or leave pad out"
            )
        shuffled = [rows[place] for place in random.permutation(len(rows))]
        together = [shuffled, rows[:-1], [rows[0], rows[-1]], [rows[-1], rows[0]]]
        return next((slip for group in together if len(group) > 1 and (slip := self._compare(group))), "")

    def _accepted(self) -> list[int]:
        """Find lengths that the model takes alone."""
        error: BackendError | None = None
        accepted = []
        for length in sorted({*LENGTHS, self._settings.length}):
            try:
                self._draw(length, np.random.default_rng(length))
            except BackendError as refused:
                error = refused
            else:
                accepted.append(length)
        if len(accepted) < 2:
            only = f"rows of {accepted[0]} only" if accepted else "none of the lengths tried"
            raise ModelLoadError(
                f"pad cannot be proved: the model takes {only} (to others it says: {error}); leave pad out"
            )
        return accepted

    def _drawn(self, length: int, random: np.random.Generator, *, is_half: bool) -> _Row:
        try:
            return self._draw(length, random, is_half=is_half)
        except BackendError as error:
            raise ModelLoadError(
                f"pad cannot be proved: the model refuses a random row of {length} ({error}), although it took others "
                "of that length; leave pad out"
            ) from error

    def _draw(self, length: int, random: np.random.Generator, *, is_half: bool = False) -> _Row:
        arrays = draw(sized(self._inputs, self._rule, length), self._settings, 1, random)
        count = (length + 1) // 2 if is_half else length
        arrays[self._rule.mask] = self._mask_array(arrays[self._rule.mask], count)
        answers = self._run(arrays)
        self._check_form(answers, 1, length, f"a row of {length} alone")
        return _Row(length, arrays, answers)

    def _mask_array(self, drawn: Array, count: int) -> Array:
        """Mark the first `count` elements of one row as there, or write their number down."""
        if self._mask.axis is None:
            return np.full_like(drawn, count)
        mask = np.full_like(drawn, self._mask.kept)
        for axis in self._rule.axes[self._rule.mask]:
            mask[(slice(None),) * axis + (slice(count, None),)] = self._mask.padding
        return mask

    def _is_telling(self, row: _Row) -> bool:
        """Tell whether a padded input holds anything but padding."""
        return any(
            axes and index != self._rule.mask and bool(np.any(row.arrays[index] != self._rule.values[index]))
            for index, axes in enumerate(self._rule.axes)
        )

    def _compare(self, rows: Sequence[_Row]) -> str:
        """Run rows together and say how the first answer that is not the row's own differs."""
        lengths = [row.length for row in rows]
        length = self._rule.run_length(min(lengths), max(lengths))
        joined = [
            self._rule.join(index, [row.arrays[index] for row in rows], len(rows), length)
            for index in range(len(self._inputs))
        ]
        try:
            got = self._run(joined)
        except BackendError as error:
            raise ModelLoadError(
                f"pad cannot be used: the model runs rows of {min(lengths)} and {max(lengths)} alone but fails with "
                f"them padded to {length} ({error}); set pad.multiple = 1 if that is its longest, or leave pad out"
            ) from error
        self._check_form(got, len(rows), length, f"a run of length {length}")
        for place, row in enumerate(rows):
            for index, (name, output, alone) in enumerate(zip(self._outputs, got, row.answers, strict=True)):
                own = self._rule.cut(index, output[place : place + 1], row.length)
                if own.shape != alone.shape:
                    raise ModelLoadError(_grown(name, row.length, length, alone, own))
                if apart := differences(alone, own, scale_of(alone), self._tolerance):
                    return f"output {name!r} of a row of {row.length} differs when it is padded to {length} ({apart})"
        return ""

    def _check_form(self, got: Sequence[Array], rows: int, length: int, where: str) -> None:
        """Hold every output to one row per row, and those that are cut to the run's length."""
        for name, output, axes in zip(self._outputs, got, self._rule.outputs, strict=True):
            if output.ndim == 0 or len(output) != rows:
                raise ModelLoadError(
                    f"pad cannot be used: output {name!r} has shape {list(output.shape)} in {where}: expected {rows} "
                    "on its first axis; leave pad out"
                )
            for axis in axes:
                if axis >= output.ndim or output.shape[axis] != length:
                    raise ModelLoadError(
                        f"pad.outputs names axis {axis} of {name!r}, whose shape is {list(output.shape)} in {where}: "
                        f"only axes as long as the inputs can be cut back to a row's length; leave it out"
                    )


def _grown(name: str, short: int, length: int, alone: Array, own: Array) -> str:
    text = (
        f"pad cannot be used: output {name!r} of a row of {short} has shape {list(alone.shape[1:])} alone and "
        f"{list(own.shape[1:])} padded to {length}"
    )
    grown = [
        axis for axis in range(1, min(alone.ndim, own.ndim)) if alone.shape[axis] == short and own.shape[axis] == length
    ]
    if alone.ndim == own.ndim and grown:
        return f"{text}: name its axis {grown[0]} in pad.outputs"
    return f"{text}; leave pad out"
