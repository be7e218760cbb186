"""Proof by runs that the rows of a batch do not see each other and that a row's place does not matter.

One round, with three rows a, b, c and another three A, B, C of random values:

1. each of the six alone: does the model take such values, and is there one row of output for one row of input?
2. a b c twice: is there one row of output for each row of input, and does the same batch give the same answer?
3. A b c, a B c and a b C: is every row's answer untouched when a neighbour changes (compared strictly, see
   `agreement`), and does it change when the row itself does?
4. c a b, and all of the above against step 1: is the answer the same alone, at other places and with others?

Step 3 finds what rows leak to each other however little it is, because the arithmetic of an untouched row stays the
same to the last bit. Steps 1 and 4 find what depends on the batch's size or the row's place.

A whole number that is the place of a largest value, or a value rounded to a coarse step, may flip in step 4 although
nothing is wrong: two candidates were equal but for rounding. So step 4 condemns a model only when it fails in most of
two or more rounds, each with other values; all else condemns it at once.

Two rounds are run at least, more while they are quick. If no output ever answered to a change of its own row, the runs
prove nothing, and that is what they say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from batchserve.backends.agreement import NEIGHBOURS, Tolerance, differences, scale_of
from batchserve.backends.samples import Settings, draw_distinct, take
from batchserve.backends.tensors import GraphTensor
from batchserve.core.tensors import Array
from batchserve.errors import BackendError

__all__ = ["Proof", "Run", "Verdict", "prove"]

Run = Callable[[Sequence[Array]], list[Array]]
"""Runs the model on one array per input and gives every output; raises BackendError."""

ROWS = 3
MOVED = (2, 0, 1)
REPEATS = 4
LEAST_ROUNDS, MOST_ROUNDS = 2, 8
QUICK_S = 0.2
"""Rounds beyond the least are run while all of them together took less than this."""
SLOW_S = 10.0
"""If the first round took longer than this, it stays the only one."""


class Verdict(Enum):
    """What the runs showed."""

    INDEPENDENT = "independent"
    DEPENDENT = "dependent"
    UNMOVED = "unmoved"
    """No output changed with its row: nothing is proved."""
    UNUSABLE = "unusable"
    """The model does not take such values even in one row."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A verdict and a sentence about it (without a full stop)."""

    verdict: Verdict
    why: str


def prove(
    run: Run, inputs: Sequence[GraphTensor], outputs: Sequence[str], settings: Settings, elsewhere: Tolerance
) -> Proof:
    """Run rounds until the verdict is clear. Blocks for some dozens of runs of one to three rows.

    Args:
        run: Computes every output; raises BackendError.
        inputs: The model's inputs, all with a free first axis.
        outputs: Names of the outputs.
        settings: How to draw rows.
        elsewhere: How far a row's answer alone or at another place may be off.
    """
    prover = _Prover(run, inputs, outputs, settings, elsewhere)
    began = time.perf_counter()
    try:
        for rounds in range(1, MOST_ROUNDS + 1):
            prover.round(rounds)
            slips = len(prover.slips)
            took = time.perf_counter() - began
            if rounds >= LEAST_ROUNDS and 2 * slips > rounds:
                return Proof(Verdict.DEPENDENT, prover.slips[0])
            if took > SLOW_S or (rounds >= LEAST_ROUNDS + slips and took > QUICK_S):
                break
    except _Stop as stop:
        return stop.proof
    if 2 * slips > rounds:  # one slow round, and no time for a second opinion
        return Proof(Verdict.DEPENDENT, prover.slips[0])
    if not prover.answered:
        return Proof(Verdict.UNMOVED, "no output changed when the rows changed, so the runs prove nothing")
    return Proof(Verdict.INDEPENDENT, _praise(prover, rounds))


class _Stop(Exception):
    """Ends the rounds with a verdict."""

    def __init__(self, verdict: Verdict, why: str) -> None:
        super().__init__(why)
        self.proof = Proof(verdict, why)


class _Prover:
    """Runs rounds and keeps what they showed; one thread.

    Attributes:
        answered: Outputs that changed when their own row did.
        slips: What differed in step 4, at most one sentence a round.
    """

    def __init__(
        self,
        run: Run,
        inputs: Sequence[GraphTensor],
        outputs: Sequence[str],
        settings: Settings,
        elsewhere: Tolerance,
    ) -> None:
        self._run = run
        self._inputs = inputs
        self.outputs = outputs
        self._settings = settings
        self._elsewhere = elsewhere
        self.answered: set[str] = set()
        self.slips: list[str] = []
        self._row_shapes: dict[str, tuple[int, ...]] = {}
        self._strict = NEIGHBOURS

    def round(self, seed: int) -> None:
        """Run one round.

        Raises:
            _Stop: The verdict is clear.
        """
        rows, others = draw_distinct(self._inputs, self._settings, ROWS, np.random.default_rng(seed))
        alone = [self._alone(take(rows, [i])) for i in range(ROWS)]
        others_alone = [self._alone(take(others, [i])) for i in range(ROWS)]
        batch = self._together(rows)
        scales = [scale_of(output) for output in batch]
        self._check_repeats(batch, self._together(rows), scales)
        slip = ""
        for changed in range(ROWS):
            mixed = [array.copy() for array in rows]
            for array, other in zip(mixed, others, strict=True):
                array[changed] = other[changed]
            got = self._together(mixed)
            self._check_neighbours(rows, batch, got, changed, scales)
            slip = slip or self._slip(_ALONE, others_alone[changed], take(got, [changed]), scales)
            slip = slip or self._slip(_ALONE, alone[changed], take(batch, [changed]), scales)
        moved = self._together(take(rows, MOVED))
        slip = slip or self._slip(_MOVED, take(batch, MOVED), moved, scales)
        if slip:
            self.slips.append(slip)

    def _alone(self, row: Sequence[Array]) -> list[Array]:
        try:
            got = self._run(row)
        except BackendError as error:
            raise _Stop(Verdict.UNUSABLE, str(error)) from error
        self._check_form(got, 1)
        return got

    def _together(self, rows: Sequence[Array]) -> list[Array]:
        count = len(rows[0])
        try:
            got = self._run(rows)
        except BackendError as error:
            raise _Stop(Verdict.DEPENDENT, f"the model runs with 1 row but fails with {count} ({error})") from error
        self._check_form(got, count)
        return got

    def _check_form(self, got: Sequence[Array], rows: int) -> None:
        """Hold the outputs of every run of this proof to one row per row, all of one shape."""
        for name, output in zip(self.outputs, got, strict=True):
            if output.ndim == 0:
                raise _Stop(Verdict.DEPENDENT, f"output {name!r} is a scalar: one value for the whole batch")
            if len(output) != rows:
                raise _Stop(
                    Verdict.DEPENDENT,
                    f"the first axis of output {name!r} is {len(output)} for {rows} row{'s' if rows > 1 else ''} of "
                    "input: it cannot be split among requests",
                )
            shape = self._row_shapes.setdefault(name, output.shape[1:])
            if shape != output.shape[1:]:
                raise _Stop(
                    Verdict.DEPENDENT,
                    f"a row of output {name!r} has shape {list(shape)} in one run and {list(output.shape[1:])} in "
                    "another, although all inputs had one shape",
                )

    def _check_repeats(self, batch: Sequence[Array], again: Sequence[Array], scales: Sequence[float]) -> None:
        """Refuse a model that answers the same rows differently; one that is a little unsteady gets more room."""
        for name, first, second, scale in zip(self.outputs, batch, again, scales, strict=True):
            if apart := differences(first, second, scale, self._elsewhere):
                raise _Stop(Verdict.DEPENDENT, f"two runs of the same rows differ in output {name!r} ({apart})")
            if differences(first, second, scale, NEIGHBOURS):
                self._strict = self._elsewhere

    def _check_neighbours(
        self,
        rows: Sequence[Array],
        batch: Sequence[Array],
        got: Sequence[Array],
        changed: int,
        scales: Sequence[float],
    ) -> None:
        kept = [row for row in range(ROWS) if row != changed]
        apart = self._apart(batch, got, kept, scales)
        if apart and self._strict is NEIGHBOURS:
            # Atomic additions on a GPU make equal runs differ now and then: has this model shown only its best so far?
            for _ in range(REPEATS):
                self._check_repeats(batch, self._together(rows), scales)
            apart = self._apart(batch, got, kept, scales)
        if apart:
            name, difference = apart
            raise _Stop(
                Verdict.DEPENDENT, f"output {name!r} of a row changes when another row of the batch does ({difference})"
            )
        for name, before, after, scale in zip(self.outputs, batch, got, scales, strict=True):
            if differences(before[[changed]], after[[changed]], scale, self._strict):
                self.answered.add(name)

    def _apart(
        self, batch: Sequence[Array], got: Sequence[Array], kept: Sequence[int], scales: Sequence[float]
    ) -> tuple[str, str] | None:
        """Find the first output in which rows that were kept differ, and how."""
        for name, before, after, scale in zip(self.outputs, batch, got, scales, strict=True):
            if difference := differences(before[list(kept)], after[list(kept)], scale, self._strict):
                return name, difference
        return None

    def _slip(self, where: str, expected: Sequence[Array], got: Sequence[Array], scales: Sequence[float]) -> str:
        for name, one, other, scale in zip(self.outputs, expected, got, scales, strict=True):
            if apart := differences(one, other, scale, self._elsewhere):
                return f"output {name!r} of a row {where} ({apart})"
        return ""


_ALONE = "differs in a batch from what it is alone"
_MOVED = "differs at another place of the batch"


def _praise(prover: _Prover, rounds: int) -> str:
    text = (
        f"rows are independent: {ROWS} random rows gave the same answers alone, with others and in another order, "
        f"in {rounds} round{'s' if rounds > 1 else ''}"
    )
    silent = [repr(name) for name in prover.outputs if name not in prover.answered]
    if silent:
        text += f"; output {', '.join(silent)} never changed with the rows, so nothing is known about it"
    if prover.slips:
        text += f"; one round differed as rounding may: {prover.slips[0]}"
    return text
