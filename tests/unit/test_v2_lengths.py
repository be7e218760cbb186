"""Requests to a model that pads: their key, their length, and what cannot be padded."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.v2_codec import model_info

from batchserve.core.padding import PadRule
from batchserve.errors import InvalidRequest
from batchserve.frontend.v2 import ModelInfo, decode

RULE = PadRule(((1,), (1,)), (0, 0), 1, ((),))


def make_info() -> ModelInfo:
    info = model_info([("ids", "INT64", (-1, -1)), ("mask", "INT64", (-1, -1))], [("y", "FP32", (-1,))])
    return ModelInfo("m", "1", replace(info.signature, pad=RULE), 16)


def body_of(length: int, mask_length: int | None = None, *, is_binary: bool = True) -> tuple[bytes, str | None]:
    arrays = {"ids": np.ones((1, length), np.int64), "mask": np.ones((1, mask_length or length), np.int64)}
    inputs = [
        {"name": name, "datatype": "INT64", "shape": list(array.shape)}
        | ({"parameters": {"binary_data_size": array.nbytes}} if is_binary else {"data": array.ravel().tolist()})
        for name, array in arrays.items()
    ]
    header = json.dumps({"inputs": inputs}).encode()
    if not is_binary:
        return header, None
    return header + b"".join(array.tobytes() for array in arrays.values()), str(len(header))


@pytest.mark.parametrize("is_binary", [True, False])
def test_length_leaves_the_key_and_stands_in_the_request(is_binary: bool) -> None:
    """Also the second time, when the JSON is known by its bytes."""
    info = make_info()
    for length in (5, 9, 5, 9):
        request, _ = decode(info, *body_of(length, is_binary=is_binary), 0.0)
        assert (request.key, request.length) == (((-1,), (-1,)), length)
        assert request.inputs[0].shape == (1, length)


def test_without_padding_a_request_has_its_shape_for_a_key() -> None:
    info = model_info([("ids", "INT64", (-1, -1)), ("mask", "INT64", (-1, -1))], [("y", "FP32", (-1,))])
    request, _ = decode(info, *body_of(5, 7), 0.0)
    assert (request.key, request.length) == (((5,), (7,)), 0)


def test_lengths_that_disagree_are_refused() -> None:
    """Among others in a padded run, this request would fail all of them, or see what is not its own."""
    with pytest.raises(
        InvalidRequest, match=r"input 'mask' of model 'm': 7 on axis 1, but input 'ids' has 5 on axis 1"
    ):
        decode(make_info(), *body_of(5, 7), 0.0)
