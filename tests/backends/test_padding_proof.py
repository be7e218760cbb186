"""The proof of padding: its power on models written in numpy, and what it says of real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from support import onnx_models, sequence_models

from batchserve.backends.agreement import elsewhere
from batchserve.backends.onnx import OnnxSession
from batchserve.backends.padding import resolve
from batchserve.backends.padding_proof import prove_padding
from batchserve.backends.samples import Settings
from batchserve.backends.tensors import GraphTensor
from batchserve.config import PadConfig
from batchserve.core.tensors import DATATYPES, Array
from batchserve.errors import BackendError, ModelLoadError

CPU = elsewhere(["CPUExecutionProvider"])
BOTH = {"input_ids": (1,), "attention_mask": (1,)}
Load = Callable[..., OnnxSession]

TABLE = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)


def prove(
    function: Callable[[Array, Array], Array | list[Array]],
    *,
    mask_type: str = "INT64",
    outputs: Sequence[str] = ("y",),
    settings: Settings | None = None,
    **pad: Any,
) -> str:
    """Prove a model of `ids` and `mask`, both `[n, length]`."""

    def run(inputs: Sequence[Array]) -> list[Array]:
        made = function(inputs[0], inputs[1])
        return made if isinstance(made, list) else [made]

    inputs = [
        GraphTensor("ids", DATATYPES["INT64"], ("n", "length"), "input"),
        GraphTensor("mask", DATATYPES[mask_type], ("n", "length"), "input"),
    ]
    described = [GraphTensor(name, DATATYPES["FP32"], None, "output") for name in outputs]
    rule = resolve(PadConfig(**{"axes": {"ids": (1,), "mask": (1,)}, "mask": "mask", **pad}), None, inputs, described)
    return prove_padding(run, rule, inputs, outputs, settings or Settings(), CPU)


def masked_mean(ids: Array, mask: Array) -> Array:
    kept = mask[:, :, None].astype(np.float32)
    return (TABLE[ids] * kept).sum(axis=1) / kept.sum(axis=1)


# --- models that keep padding out -------------------------------------------------------------------------------------


def test_masked_mean_is_proved():
    assert "rows of 1 to 34 gave the same answers alone and padded among longer ones" in prove(masked_mean)


def test_mask_whose_padding_is_true_is_proved_with_its_value():
    """As PyTorch's key padding masks: true means padding. Padded with false, only what was added would count."""

    def inverted(ids: Array, mask: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return masked_mean(ids, ~mask)

    assert "same answers" in prove(inverted, mask_type="BOOL", values={"mask": True})
    with pytest.raises(ModelLoadError, match="pad changes answers"):
        prove(inverted, mask_type="BOOL")


def test_mask_that_is_added_is_proved_with_its_value():
    def softmax_mean(ids: Array, mask: Array) -> Array:
        weights = np.exp(ids + mask - (ids + mask).max(axis=1, keepdims=True))
        return (TABLE[ids] * (weights / weights.sum(axis=1, keepdims=True))[:, :, None]).sum(axis=1)

    assert "same answers" in prove(softmax_mean, mask_type="FP32", values={"mask": -10000.0})


def test_rare_flips_of_a_rounded_answer_do_not_condemn():
    """An integer that is the place of a largest value may flip where two were equal but for rounding."""
    rounds = 0

    def flipping(ids: Array, mask: Array) -> Array:
        nonlocal rounds
        rounds += len(ids) == 2
        label = (masked_mean(ids, mask)[:, 0] > 0).astype(np.int64)
        return 1 - label if rounds == 1 and len(ids) == 2 else label

    assert "differences as rounding makes them in 1: output 'y' of a row of 1" in prove(flipping)


# --- models that do not -----------------------------------------------------------------------------------------------


def test_mean_that_ignores_the_mask_is_found():
    with pytest.raises(
        ModelLoadError, match=r"pad changes answers: output 'y' of a row of \d+ differs when it is padded"
    ):
        prove(lambda ids, mask: TABLE[ids].mean(axis=1))


def test_maximum_that_ignores_the_mask_is_found():
    """Padding changes it only where nothing in the row is larger: the shortest rows tell."""
    with pytest.raises(ModelLoadError, match="pad changes answers"):
        prove(lambda ids, mask: TABLE[ids].max(axis=1))


@pytest.mark.parametrize("strength", [1e-1, 1e-2, 1e-3])
def test_weak_leak_of_padding_is_found(strength: float):
    with pytest.raises(ModelLoadError, match="pad changes answers"):
        prove(lambda ids, mask: masked_mean(ids, mask) + np.float32(strength) * TABLE[ids].sum(axis=1))


def test_answer_that_depends_on_the_runs_length_is_found():
    with pytest.raises(ModelLoadError, match="pad changes answers"):
        prove(lambda ids, mask: masked_mean(ids, mask) * np.float32(1 + 1e-3 * ids.shape[1]))


def test_row_that_sees_its_longer_neighbours_is_found():
    """A mask shared by the batch: each row counts as many tokens as the longest has."""

    def shared(ids: Array, mask: Array) -> Array:
        return masked_mean(ids, np.broadcast_to(mask.max(axis=0), mask.shape))

    with pytest.raises(ModelLoadError, match="pad changes answers"):
        prove(shared)


def test_output_that_grows_with_the_run_must_be_named():
    def tokens(ids: Array, mask: Array) -> Array:
        return TABLE[ids] * mask[:, :, None]

    with pytest.raises(
        ModelLoadError, match=r"has shape \[\d+, 4\] alone and \[\d+, 4\] padded to \d+: name its axis 1 in"
    ):
        prove(tokens)
    assert "same answers" in prove_with_outputs(tokens)


def prove_with_outputs(function: Callable[[Array, Array], Array]) -> str:
    inputs = [
        GraphTensor("ids", DATATYPES["INT64"], ("n", "length"), "input"),
        GraphTensor("mask", DATATYPES["INT64"], ("n", "length"), "input"),
    ]
    outputs = [GraphTensor("y", DATATYPES["FP32"], ("n", "length", 4), "output")]
    config = PadConfig({"ids": (1,), "mask": (1,)}, "mask", {"y": (1,)})
    rule = resolve(config, None, inputs, outputs)
    return prove_padding(lambda given: [function(given[0], given[1])], rule, inputs, ["y"], Settings(), CPU)


def test_output_shorter_than_the_run_cannot_be_cut():
    with pytest.raises(
        ModelLoadError, match=r"pad.outputs names axis 1 of 'y', whose shape is \[1, 1, 4\] in a row of 2"
    ):
        prove_with_outputs(lambda ids, mask: TABLE[ids][:, ::2])


def test_length_that_is_too_long_when_rounded_up_is_told():
    def at_most_34(ids: Array, mask: Array) -> Array:
        if ids.shape[1] > 34:
            raise BackendError("too long")
        return masked_mean(ids, mask)

    with pytest.raises(ModelLoadError, match=r"fails with them padded to 40 \(too long\); set pad.multiple = 1"):
        prove(at_most_34)
    assert "rows of 1 to 34" in prove(at_most_34, multiple=1)


def test_model_of_one_length_cannot_be_padded():
    def only_16(ids: Array, mask: Array) -> Array:
        if ids.shape[1] != 16:
            raise BackendError("wrong length")
        return masked_mean(ids, mask)

    with pytest.raises(ModelLoadError, match=r"the model takes rows of 16 only \(to others it says: wrong length\)"):
        prove(only_16, settings=Settings(length=16))


def test_values_that_are_refused_later_end_the_proof():
    def picky(ids: Array, mask: Array) -> Array:
        if len(ids) == 1 and ids.shape[1] > 8 and ids[0, :4].tolist() == [1, 1, 1, 1]:
            raise BackendError("four of them")
        return masked_mean(ids, mask)

    with pytest.raises(
        ModelLoadError, match=r"pad cannot be proved: the model refuses a random row of \d+ \(four of them"
    ):
        prove(picky)


def test_rows_of_nothing_but_padding_prove_nothing():
    """Where only the value 0 is taken and 0 is the padding, a mean that ignores the mask would look right."""
    with pytest.raises(
        ModelLoadError, match="every value that the model was found to take is the one it is padded with"
    ):
        prove(lambda ids, mask: TABLE[ids].mean(axis=1), settings=Settings(most=0))


# --- names that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pad", "match"),
    [
        ({"axes": {"input_id": (1,)}}, r"pad.axes names 'input_id', which is no input .*did you mean 'input_ids'\?"),
        ({"mask": "mask"}, "pad.mask names 'mask', which is no input of the model"),
        ({"outputs": {"score": (1,)}}, "pad.outputs names 'score', which is no output"),
        ({"axes": {**BOTH, "input_ids": (2,)}}, "names axis 2 of input 'input_ids', which has 2 axes"),
        ({"outputs": {"scores": (1,)}}, "names axis 1 of output 'scores', which has the fixed size 3"),
        ({"axes": {"input_ids": (1,)}}, "axis 1 of input 'attention_mask' is 'length', as that of 'input_ids'"),
        ({"values": {"input_ids": 0.5}}, "pad.values has 0.5 for input 'input_ids', which holds INT64"),
        ({"values": {"input_ids": "x"}}, "pad.values has 'x' for input 'input_ids'"),
    ],
)
def test_names_that_do_not_fit_the_model_are_told(load: Load, pad: dict[str, Any], match: str):
    with pytest.raises(ModelLoadError, match=match):
        load(sequence_models.mean_encoder(), pad=PadConfig(**{"axes": BOTH, "mask": "attention_mask", **pad}))


def test_mask_must_tell_something(load: Load):
    with pytest.raises(ModelLoadError, match="neither padded nor one whole number a row"):
        load(onnx_models.several_tensors(), pad=PadConfig({}, "b"))
    with pytest.raises(ModelLoadError, match="nothing else is padded"):
        load(onnx_models.square(), pad=PadConfig({"x": (1,)}, "x"))


# --- real models ------------------------------------------------------------------------------------------------------


def test_encoder_with_a_mask_is_padded(load: Load):
    session = load(sequence_models.mean_encoder(), pad=PadConfig(BOTH, "attention_mask", values={"input_ids": 7}))
    assert session.pad is not None
    assert session.pad.values == (7, 0)
    assert session.facts["padding"].startswith("rows of 1 to 34 gave the same answers")
    assert [array.shape for array in session.sample(3, 17)] == [(3, 17), (3, 17)]


def test_encoder_that_ignores_its_mask_fails_to_load(load: Load):
    with pytest.raises(ModelLoadError, match="pad changes answers: output 'scores'"):
        load(sequence_models.mean_encoder(ignores_mask=True), pad=PadConfig(BOTH, "attention_mask"))


def test_mask_that_only_dampens_fails_to_load(load: Load):
    """Adding -2 to the logits of padding makes it count less, not nothing."""
    outputs = {"states": (1,), "weights": (1, 2)}
    pad = PadConfig(BOTH, "attention_mask", outputs)
    assert load(sequence_models.attention_encoder(), pad=pad).pad is not None
    with pytest.raises(ModelLoadError, match="pad changes answers: output 'states'"):
        load(sequence_models.attention_encoder(hidden=-2.0), pad=pad)


def test_lengths_in_place_of_a_mask(load: Load):
    session = load(sequence_models.sum_by_length(), pad=PadConfig({"x": (1,)}, "lengths", values={"x": 99.0}))
    assert session.pad is not None
    assert session.pad.axes == ((1,), ())


def test_model_that_is_not_batched_cannot_be_padded(load: Load):
    with pytest.raises(ModelLoadError, match=r"pad joins requests, but this model cannot be batched: .*another row"):
        load(sequence_models.mean_encoder(mixes_rows=True), pad=PadConfig(BOTH, "attention_mask"))


def test_switched_off_batching_needs_no_proof_of_padding(load: Load):
    pad = PadConfig(BOTH, "attention_mask")
    assert load(sequence_models.mean_encoder(ignores_mask=True), pad=pad, max_batch_size=0).pad is None


# --- proposals --------------------------------------------------------------------------------------------------------


def test_setting_is_proposed_where_names_make_it_plain_and_runs_prove_it(load: Load):
    session = load(sequence_models.attention_encoder())
    assert session.propose_pad() == PadConfig(BOTH, "attention_mask", {"states": (1,), "weights": (1, 2)})
    assert load(sequence_models.mean_encoder()).propose_pad() == PadConfig(BOTH, "attention_mask")


def test_nothing_is_proposed_that_would_change_answers(load: Load):
    assert load(sequence_models.mean_encoder(ignores_mask=True)).propose_pad() is None


def test_nothing_is_proposed_without_a_mask_or_where_padding_is_in_use(load: Load):
    assert load(onnx_models.square()).propose_pad() is None
    assert load(sequence_models.sum_by_length()).propose_pad() is None
    assert load(sequence_models.mean_encoder(), pad=PadConfig(BOTH, "attention_mask")).propose_pad() is None
