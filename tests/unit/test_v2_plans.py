"""JSON seen before is read and written from memory: with the same result, and bounded."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from batchserve import __version__
from batchserve.core.request import Phases, Response
from batchserve.core.tensors import DATATYPES, ModelSignature, TensorSpec
from batchserve.errors import InvalidRequest
from batchserve.frontend.plans import LONGEST_JSON, MOST_PLANS
from batchserve.frontend.replies import plain_reply
from batchserve.frontend.templates import MOST_BYTES, fitting
from batchserve.frontend.v2 import Asked, ModelInfo, decode, encode

PHASES = Phases(0, 0, 0, 0, 0, 0)


def make_info() -> ModelInfo:
    signature = ModelSignature(
        (TensorSpec("a", DATATYPES["FP32"], (-1, 3)), TensorSpec("b", DATATYPES["INT64"], (-1, -1))),
        (TensorSpec("y", DATATYPES["FP32"], (-1, 2)), TensorSpec("z", DATATYPES["INT8"], (-1,))),
        8,
    )
    return ModelInfo("m", "1", signature, 100, priority_levels=3)


def body_of(a: np.ndarray, b: np.ndarray, **members: object) -> tuple[bytes, str]:
    """A binary request whose inputs come in the other order than the model's."""
    inputs = [
        {"name": name, "datatype": kind, "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
        for name, kind, x in (("b", "INT64", b), ("a", "FP32", a))
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}, **members}).encode()
    return header + b.tobytes() + a.tobytes(), str(len(header))


def tensors(seed: int, rows: int = 2, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, 3)).astype(np.float32), random.integers(0, 9, (rows, width))


def test_second_request_is_read_from_the_plan_and_is_the_same_but_for_its_tensors() -> None:
    info, fresh = make_info(), make_info()
    options = {"id": "r-1", "outputs": [{"name": "z", "parameters": {"binary_data": False}}]}
    options["parameters"] = {"timeout": 5000, "priority": 2, "mine": "kept"}
    for seed in range(3):
        a, b = tensors(seed)
        body, length = body_of(a, b, **options)
        request, asked = decode(info, body, length, 7.5)
        slow, slow_asked = decode(make_info(), body, length, 7.5)
        assert [x.tolist() for x in request.inputs] == [a.tolist(), b.tolist()]
        assert [(x.dtype, x.shape, x.flags.c_contiguous) for x in request.inputs] == [
            (x.dtype, x.shape, True) for x in slow.inputs
        ]
        for name in ("rows", "key", "output_mask", "arrival_s", "timeout_s", "priority", "size_bytes", "id"):
            assert getattr(request, name) == getattr(slow, name), name
        assert dict(request.parameters) == dict(slow.parameters)
        assert asked == slow_asked
    assert len(info.plans._plans) == 1
    assert not fresh.plans._plans


@pytest.mark.parametrize("wrap", [bytes, bytearray, lambda data: memoryview(bytearray(data))])
def test_arrays_are_views_of_whatever_buffer_the_body_is(wrap: object) -> None:
    info = make_info()
    a, b = tensors(1)
    body, length = body_of(a, b)
    decode(info, body, length, 0.0)
    given = wrap(body)  # type: ignore[operator]
    request, _ = decode(info, given, length, 0.0)
    assert request.inputs[0].tolist() == a.tolist()
    assert np.shares_memory(request.inputs[0], np.frombuffer(given, np.uint8))


def test_known_json_before_too_few_or_too_many_bytes_is_refused_as_ever() -> None:
    info = make_info()
    body, length = body_of(*tensors(1))
    decode(info, body, length, 0.0)
    for damaged in (body[:-1], body + b"\0", body[: int(length)]):
        with pytest.raises(InvalidRequest) as quick:
            decode(info, damaged, length, 0.0)
        with pytest.raises(InvalidRequest) as slow:
            decode(make_info(), damaged, length, 0.0)
        assert str(quick.value) == str(slow.value)


def test_requests_with_json_data_and_wrong_ones_leave_no_plan() -> None:
    info = make_info()
    json_only = json.dumps(
        {
            "inputs": [
                {"name": "a", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]},
                {"name": "b", "datatype": "INT64", "shape": [1, 1], "data": [4]},
            ]
        }
    ).encode()
    decode(info, json_only, str(len(json_only)), 0.0)
    with pytest.raises(InvalidRequest):
        decode(info, b'{"inputs":[]}', "13", 0.0)
    assert not info.plans._plans


def test_plans_are_bounded_in_number_and_size() -> None:
    info = make_info()
    for number in range(MOST_PLANS + 50):
        body, length = body_of(*tensors(0), id=str(number))
        decode(info, body, length, 0.0)
    assert len(info.plans._plans) <= MOST_PLANS
    body, length = body_of(*tensors(0), id="x" * LONGEST_JSON)
    decode(info, body, length, 0.0)
    assert all(len(header) <= LONGEST_JSON for header in info.plans._plans)


def ask(info: ModelInfo, rows: int, seed: int, **members: object) -> tuple[Asked, Response]:
    """Decode a request, and make up an answer to it."""
    body, length = body_of(*tensors(seed, rows), **members)
    request, asked = decode(info, body, length, 0.0)
    assert request.output_mask == 3
    y = np.random.default_rng(seed).standard_normal((rows, 2)).astype(np.float32)
    return asked, Response((y, np.arange(rows, dtype=np.int8)), PHASES, rows)


def written(info: ModelInfo, asked: Asked, response: Response) -> bytes:
    return b"".join(encode(info, asked, response).parts)


def test_answers_to_the_same_question_are_the_same_bytes_from_the_template_as_without() -> None:
    info = make_info()
    for seed, rows in enumerate((1, 1, 2, 1, 1, 2)):
        for members in ({}, {"id": "r-1"}):
            asked, response = ask(info, rows, seed, **members)
            fresh = Asked(asked.id, asked.outputs, asked.binary)
            assert written(info, asked, response) == written(make_info(), fresh, response)
    assert asked.template is not None


def test_template_fits_only_outputs_of_its_shapes() -> None:
    info = make_info()
    asked, response = ask(info, 1, 0)
    assert fitting(asked, response.outputs) is None
    encode(info, asked, response)
    again, response = ask(info, 1, 1)
    assert again is asked
    assert fitting(again, response.outputs) is asked.template
    y, z = response.outputs
    assert fitting(again, (y.repeat(2, 0), z)) is None
    assert fitting(again, (y, z.repeat(2, 0))) is None


def test_plain_reply_is_a_whole_answer_and_its_date_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_info()
    asked, response = ask(info, 1, 0)
    body = written(info, asked, response)
    assert asked.template is not None
    for second, clock in ((0, "00:00:00"), (0, "00:00:00"), (61, "00:01:01")):
        monkeypatch.setattr(time, "time", lambda second=second: second + 0.7)
        head, _, rest = plain_reply(asked.template, response.outputs).partition(b"\r\n\r\n")
        assert rest == body
        assert f"Date: Thu, 01 Jan 1970 {clock} GMT\r\n".encode() in head
        assert head.endswith(b"batchserve/" + __version__.encode())
        assert b"\r\nContent-Length: %d\r\n" % len(body) in head


def test_answers_in_json_of_strings_or_large_ones_leave_no_template() -> None:
    info = make_info()
    asked, response = ask(info, 1, 0, parameters={})
    encode(info, asked, response)
    assert asked.template is None

    signature = ModelSignature(
        (TensorSpec("a", DATATYPES["FP32"], (-1, 3)),), (TensorSpec("s", DATATYPES["BYTES"], (-1,)),), 8
    )
    strings = ModelInfo("m", "1", signature, 100)
    for text in ("short", "much longer"):
        asked = Asked("", (0,), (True,))
        answer = encode(strings, asked, Response((np.array([text], object),), PHASES, 1))
        assert bytes(answer.parts[-1]).endswith(text.encode())
        assert asked.template is None

    asked, _ = ask(info, 1, 0)
    large = np.zeros((MOST_BYTES // 8 + 1, 2), np.float32), np.zeros(1, np.int8)
    encode(info, asked, Response(large, PHASES, 1))
    assert asked.template is None
