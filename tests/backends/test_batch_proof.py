"""The proof's own power: models written in numpy, with faults of every size and kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest

from batchserve.backends.agreement import elsewhere
from batchserve.backends.batchability import MOST_PROOFS, investigate
from batchserve.backends.proof import MOST_ROUNDS, Proof, Verdict, prove
from batchserve.backends.samples import Settings
from batchserve.backends.tensors import GraphTensor
from batchserve.core.tensors import DATATYPES, Array
from batchserve.errors import BackendError

CPU = elsewhere(["CPUExecutionProvider"])
GPU = elsewhere(["CUDAExecutionProvider", "CPUExecutionProvider"])
RUNS_PER_ROUND = 12
Model = Callable[[Array], Array | list[Array]]


def proof(
    function: Model, datatype: str = "FP32", width: int = 8, tolerance=CPU, outputs: Sequence[str] = ("y",)
) -> Proof:
    """Prove a model of one input `x[batch, width]`."""

    def run(inputs: Sequence[Array]) -> list[Array]:
        made = function(inputs[0])
        return made if isinstance(made, list) else [made]

    inputs = [GraphTensor("x", DATATYPES[datatype], ("n", width), "input")]
    return prove(run, inputs, outputs, Settings(), tolerance)


@pytest.mark.parametrize("tolerance", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("strength", [1, 1e-1, 1e-2, 1e-3, 1e-4])
def test_leaks_between_rows_are_found_however_the_kernels_round(strength: float, tolerance):
    """Kernel noise of 1e-5 by batch size does not hide them, nor does the wide tolerance of a GPU."""

    def leaky(x: Array) -> Array:
        noise = 1 + 1e-5 * np.sin(len(x))
        return ((x + strength * x.sum(axis=0, keepdims=True)) * noise).astype(np.float32)

    found = proof(leaky, tolerance=tolerance)
    assert found.verdict is Verdict.DEPENDENT
    assert "changes when another row" in found.why


@pytest.mark.parametrize(("source", "target"), [(0, -1), (-1, 0), (1, 0), (0, 1), (1, -1), (-1, 1)])
def test_leak_between_one_pair_of_places_is_found(source: int, target: int):
    def leaky(x: Array) -> Array:
        y = x.copy()
        if len(x) > 1:
            y[target] += 1e-3 * x[source]
        return y

    found = proof(leaky)
    assert found.verdict is Verdict.DEPENDENT
    assert "changes when another row" in found.why


def test_leak_through_the_largest_row_only_is_found():
    assert proof(lambda x: np.minimum(x, x.max(axis=0) * 0.5)).verdict is Verdict.DEPENDENT


def test_leak_beside_huge_constants_is_found():
    """A mask of -3e38 in most of the output does not loosen the tolerance for the rest."""

    def masked(x: Array) -> Array:
        y = x + np.float32(1e-3) * x.mean(axis=0)
        y[:, :6] = np.finfo(np.float32).min
        return y

    assert proof(masked).verdict is Verdict.DEPENDENT


def test_leak_in_the_last_of_several_outputs_is_found():
    def two(x: Array) -> list[Array]:
        return [x * 2, x - x.mean(axis=0)]

    assert "'second'" in proof(two, outputs=("first", "second")).why


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT8", "INT64"])
def test_rows_in_the_wrong_order_are_found_in_types_of_few_values(datatype: str):
    assert proof(lambda x: x[::-1].copy(), datatype, width=1).verdict is Verdict.DEPENDENT
    assert proof(lambda x: np.sort(x, axis=0), datatype, width=1).verdict is Verdict.DEPENDENT
    assert proof(lambda x: np.roll(x, 1, axis=0), datatype, width=1).verdict is Verdict.DEPENDENT


def test_strings_in_the_wrong_order_are_found():
    assert proof(lambda x: x[::-1].copy(), "BYTES", width=1).verdict is Verdict.DEPENDENT
    assert proof(lambda x: x + "!", "BYTES", width=1).verdict is Verdict.INDEPENDENT


@pytest.mark.parametrize("noise", [1e-7, 1e-6, 1e-5])
def test_rounding_of_other_kernels_passes(noise: float):
    """Other sizes and places of a batch may round differently; neighbours at the same place may not."""

    def rounding(x: Array) -> Array:
        places = np.arange(len(x))[:, None]
        return (x * (1 + noise * np.sin(3 * len(x) + places))).astype(np.float32)

    found = proof(rounding)
    assert found.verdict is Verdict.INDEPENDENT, found.why


def test_coarse_arithmetic_of_an_accelerator_passes_there_and_not_on_a_cpu():
    def coarse(x: Array) -> Array:
        return (x * (1 + 2e-3 * np.sin(len(x)))).astype(np.float32)

    assert proof(coarse, tolerance=GPU).verdict is Verdict.INDEPENDENT
    assert proof(coarse, tolerance=CPU).verdict is Verdict.DEPENDENT


def test_half_precision_may_round_to_its_own_step():
    def half(x: Array) -> Array:
        return (x.astype(np.float32) * (1 + 1e-3 * np.sin(len(x)))).astype(np.float16)

    assert proof(half, "FP16").verdict is Verdict.INDEPENDENT
    assert proof(lambda x: half(x) - half(x).mean(axis=0), "FP16").verdict is Verdict.DEPENDENT


def test_unsteady_runtime_within_the_tolerance_passes():
    """Atomic additions on a GPU make the same run differ in the last bits."""
    runs = count()

    def unsteady(x: Array) -> Array:
        return (x * (1 + 5e-5 * np.sin(next(runs)))).astype(np.float32)

    assert proof(unsteady, tolerance=GPU).verdict is Verdict.INDEPENDENT


def test_unsteadiness_that_shows_now_and_then_is_no_leak():
    """The two equal runs agree by luck and a neighbour's run does not: only more equal runs tell."""
    runs = count()

    def unsteady(x: Array) -> Array:
        return x * np.float32(1 + (5e-5 if next(runs) % 4 == 0 else 0))

    assert proof(unsteady, tolerance=GPU).verdict is Verdict.INDEPENDENT


def test_random_model_is_named_as_one():
    runs = count()
    found = proof(lambda x: x + np.float32(next(runs) * 0.1))
    assert found.verdict is Verdict.DEPENDENT
    assert "two runs of the same rows differ" in found.why


def test_one_flip_of_a_tie_is_no_verdict_but_is_told():
    """The largest of two equal numbers may be either: alone here, once, it is the other."""
    runs = count()

    def label(x: Array) -> Array:
        flip = 1 if next(runs) == 0 else 0
        return (x.argmax(axis=1) + flip) % 8

    found = proof(label, outputs=("label",))
    assert found.verdict is Verdict.INDEPENDENT
    assert "one round differed as rounding may: output 'label' of a row differs in a batch" in found.why


def test_flips_in_every_round_are_a_verdict_after_two():
    runs = []

    def label(x: Array) -> Array:
        runs.append(len(x))
        return (x.argmax(axis=1) + (len(x) == 1)) % 8

    assert proof(label).verdict is Verdict.DEPENDENT
    assert len(runs) == 2 * RUNS_PER_ROUND


def test_another_order_is_tried_and_compared():
    runs = count()
    orders = []

    def wrong_in_the_last_run(x: Array) -> Array:
        orders.append(x[:, 0].tolist())
        return x * 2 if next(runs) % RUNS_PER_ROUND == RUNS_PER_ROUND - 1 else x

    found = proof(wrong_in_the_last_run)
    assert found.verdict is Verdict.DEPENDENT
    assert "differs at another place of the batch" in found.why
    batch, moved = orders[6], orders[RUNS_PER_ROUND - 1]
    assert sorted(moved) == sorted(batch)
    assert all(one != other for one, other in zip(moved, batch, strict=True))


def test_place_in_the_batch_is_found_without_any_leak():
    found = proof(lambda x: x * (1 + 0.01 * np.arange(len(x), dtype=np.float32))[:, None])
    assert found.verdict is Verdict.DEPENDENT
    assert "differs in a batch from what it is alone" in found.why


def test_place_among_several_rows_is_found_where_the_first_row_is_right():
    def second_place(x: Array) -> Array:
        y = x.copy()
        y[1:2] *= -1
        return y

    assert proof(second_place).verdict is Verdict.DEPENDENT


def test_outputs_that_never_change_prove_nothing():
    found = proof(lambda x: np.zeros_like(x))
    assert found.verdict is Verdict.UNMOVED
    found = proof(lambda x: np.full_like(x, np.nan))
    assert found.verdict is Verdict.UNMOVED


def test_output_that_never_changes_beside_one_that_does_is_named():
    found = proof(lambda x: [x, np.zeros(len(x))], outputs=("live", "dead"))
    assert found.verdict is Verdict.INDEPENDENT
    assert "output 'dead' never changed with the rows" in found.why


def test_infinity_and_nan_equal_themselves():
    def odd(x: Array) -> Array:
        y = x.copy()
        y[:, 0], y[:, 1] = np.inf, np.nan
        return y

    assert proof(odd).verdict is Verdict.INDEPENDENT


def test_infinity_that_comes_with_a_neighbour_is_found():
    def contagious(x: Array) -> Array:
        y = x.copy()
        if (x[:, 0] > 0).any():
            y[:, 1] = np.inf
        return y

    assert proof(contagious).verdict is Verdict.DEPENDENT


def test_rows_of_changing_shape_are_found():
    def ragged(x: Array) -> Array:
        return x[:, : 1 + int((x[:, 0] > 0).all())]

    found = proof(ragged)
    assert found.verdict is Verdict.DEPENDENT
    assert "has shape" in found.why


def test_values_that_one_row_does_not_take_are_no_verdict():
    def picky(x: Array) -> Array:
        if (x < 0).any():
            raise BackendError("negative")
        return x

    found = proof(picky)
    assert found.verdict is Verdict.UNUSABLE
    assert found.why == "negative"


def test_failure_that_comes_with_several_rows_is_one():
    def single(x: Array) -> Array:
        if len(x) > 1:
            raise BackendError("one at a time")
        return x

    found = proof(single)
    assert found.verdict is Verdict.DEPENDENT
    assert found.why == "the model runs with 1 row but fails with 3 (one at a time)"


def test_slow_model_is_judged_by_one_round(monkeypatch: pytest.MonkeyPatch):
    clock = count(step=100)
    monkeypatch.setattr("batchserve.backends.proof.time.perf_counter", lambda: float(next(clock)))
    runs = []
    found = proof(lambda x: (runs.append(len(x)), x)[1])
    assert found.verdict is Verdict.INDEPENDENT
    assert "in 1 round" in found.why
    assert len(runs) == RUNS_PER_ROUND
    assert sum(runs) == 24
    found = proof(lambda x: x * len(x))
    assert found.verdict is Verdict.DEPENDENT


def test_quick_model_is_judged_by_many_rounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("batchserve.backends.proof.time.perf_counter", lambda: 0.0)
    assert f"in {MOST_ROUNDS} rounds" in proof(lambda x: x).why


def test_other_values_are_tried_when_the_first_prove_nothing():
    """A threshold that normal numbers never reach: numbers ten times as wide do."""
    inputs = [GraphTensor("x", DATATYPES["FP32"], ("n", 2), "input")]
    outputs = [GraphTensor("y", DATATYPES["FP32"], ("n", 2), "output")]

    def threshold(arrays: Sequence[Array]) -> list[Array]:
        return [np.where(np.abs(arrays[0]) > 8, arrays[0], np.float32(0))]

    findings = investigate(threshold, inputs, outputs, CPU, is_switched_off=False)
    assert findings.batchability.is_batchable, findings.batchability.why
    assert findings.settings is not None
    assert findings.settings.floats == "wide"


def test_search_for_values_that_prove_something_ends():
    inputs = [GraphTensor("x", DATATYPES["FP32"], ("n", "length"), "input")]
    outputs = [GraphTensor("y", DATATYPES["FP32"], ("n",), "output")]
    runs = []

    def constant(arrays: Sequence[Array]) -> list[Array]:
        runs.append(len(arrays[0]))
        return [np.zeros(len(arrays[0]), np.float32)]

    findings = investigate(constant, inputs, outputs, CPU, is_switched_off=False)
    assert "no output changed" in findings.batchability.why
    assert len(runs) <= MOST_PROOFS * (1 + MOST_ROUNDS * RUNS_PER_ROUND)


def test_search_for_inputs_ends(monkeypatch: pytest.MonkeyPatch):
    clock = count(step=6)
    monkeypatch.setattr("batchserve.backends.batchability.time.perf_counter", lambda: float(next(clock)))
    tried = []

    def refuses(arrays: Sequence[Array]) -> list[Array]:
        tried.append(arrays[0].shape)
        raise BackendError("no")

    inputs = [GraphTensor("x", DATATYPES["FP32"], ("n", "length"), "input")]
    findings = investigate(refuses, inputs, inputs, CPU, is_switched_off=False)
    assert len(tried) == 1
    assert findings.settings is None
    assert "accepted none of the inputs tried (the last answer was: no)" in findings.batchability.why
