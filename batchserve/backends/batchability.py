"""Whether rows of different requests may share a run: what the graph says, then what runs prove.

Source: onnxruntime.md, "Is a model batchable".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchserve.backends.agreement import Tolerance
from batchserve.backends.base import Batchability
from batchserve.backends.proof import Run, Verdict, prove
from batchserve.backends.samples import Mask, Settings, candidates, draw
from batchserve.backends.tensors import GraphTensor
from batchserve.errors import BackendError

__all__ = ["Findings", "graph_obstacle", "investigate"]


SEARCH_S = 10.0
"""Time for finding inputs that the model accepts; what has begun is finished."""
MOST_PROOFS = 4
"""Settings that are tried for a proof when earlier ones proved nothing."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a model.

    Attributes:
        batchability: The verdict and its reason.
        settings: How to draw inputs it accepts; None if none were found.
        ranks: Number of axes of each output as a run gave it; empty if no run succeeded.
        error: What the model said to the last inputs it did not accept, "" if it accepted all.
    """

    batchability: Batchability
    settings: Settings | None
    ranks: tuple[int, ...]
    error: str


def graph_obstacle(inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> str:
    """Say what in the graph rules out a batch axis; "" if nothing does. Runs have the last word then."""
    if not inputs:
        return "the model has no inputs, so there is nothing to gather"
    for tensor in (*inputs, *outputs):
        what = f"{tensor.kind} {tensor.name!r}"
        if tensor.axes == ():
            return f"{what} is a scalar: it has no batch axis"
        if tensor.axes and isinstance(tensor.axes[0], int):
            return f"{what} has the fixed size {tensor.axes[0]} on its first axis: export it with a free batch axis"
    names = {tensor.axes[0]: tensor.name for tensor in reversed(inputs) if tensor.axes and tensor.axes[0] is not None}
    if len(names) > 1:
        (one, first), (other, second) = sorted(names.items(), key=lambda item: str(item[1]))[:2]
        return f"inputs {first!r} and {second!r} have different first axes, {one!r} and {other!r}: not one batch axis"
    for tensor in (*inputs, *outputs):
        for place, axis in enumerate(tensor.axes or ()):
            if place and axis is not None and axis in names:
                return (
                    f"axis {place} of {tensor.kind} {tensor.name!r} is the batch axis {axis!r} too: rows see each other"
                )
    return ""


def investigate(
    run: Run,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
    elsewhere: Tolerance,
    *,
    is_switched_off: bool,
    mask: Mask | None = None,
) -> Findings:
    """Find inputs that the model accepts, and prove its rows independent if the graph allows it. Blocks.

    A model that accepts none of the inputs tried is not batched, but it can be served: its users know what it takes.

    Args:
        run: Computes every output; raises BackendError.
        inputs: The model's inputs.
        outputs: The model's outputs.
        elsewhere: How far a row's answer alone or at another place may be off.
        is_switched_off: True if the configuration says max_batch_size = 0: nothing is proved.
        mask: The input that is a mask; None to go by the names.
    """
    obstacle = "switched off by max_batch_size = 0" if is_switched_off else graph_obstacle(inputs, outputs)
    names = [tensor.name for tensor in outputs]
    began = time.perf_counter()
    first: tuple[Settings, tuple[int, ...]] | None = None
    error = unproved = ""
    proofs = 0
    for settings in candidates(inputs, may_batch=not obstacle, mask=mask):
        if time.perf_counter() - began > SEARCH_S or proofs >= MOST_PROOFS:
            break
        try:
            got = run(draw(inputs, settings, 1, np.random.default_rng(0)))
        except BackendError as refused:
            error = str(refused)
            continue
        ranks = tuple(output.ndim for output in got)
        first = first or (settings, ranks)
        if obstacle:
            break
        proof = prove(run, inputs, names, settings, elsewhere)
        if proof.verdict in (Verdict.INDEPENDENT, Verdict.DEPENDENT):
            is_independent = proof.verdict is Verdict.INDEPENDENT
            return Findings(Batchability(is_independent, proof.why), settings, ranks, error)
        proofs += proof.verdict is Verdict.UNMOVED
        unproved = proof.why
    if first is None:
        why = f"the model accepted none of the inputs tried (the last answer was: {error})"
        return Findings(Batchability(False, obstacle or why), None, (), error)
    return Findings(Batchability(False, obstacle or unproved), *first, error)
