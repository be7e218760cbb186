"""Answers: their heads, their outputs, and when two say the same."""

from __future__ import annotations

import numpy as np
import pytest

from batchserve.load.answers import CHUNKED, Head, MalformedAnswer, agree, dechunked, outputs, read_head
from batchserve.load.questions import CHECKED_THEN, MOST_KNOWN, Question

JSON_ANSWER = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'


def binary_answer(*values: float) -> tuple[Head, bytes]:
    header = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,%d],"parameters":{"binary_data_size":%d}}]}' % (
        len(values),
        4 * len(values),
    )
    body = header + np.array(values, "<f4").tobytes()
    return Head(200, len(body), json_length=len(header)), body


def test_head_tells_where_the_time_went() -> None:
    head = read_head(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer-Timing: queue;dur=1.500, run;dur=0.25\r\n"
        b"X-Batch-Rows: 7\r\nInference-Header-Content-Length: 3\r\n\r\n"
    )
    assert head == Head(200, 5, False, 3, {"queue": 0.0015, "run": 0.00025}, 7)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\ncontent-length:0\r\nConnection: close\r\n\r\n", Head(429, 0, closes=True)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", Head(200, 2, closes=True)),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Head(200, CHUNKED)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Head(204, 0)),
    ],
)
def test_heads_of_other_servers_are_read(head: bytes, expected: Head) -> None:
    assert read_head(head) == expected


@pytest.mark.parametrize("head", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_no_head_is_malformed(head: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read_head(head)


def test_body_in_chunks_is_put_together_once_it_is_whole() -> None:
    data = b"3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n"
    assert dechunked(data) == (b"abcde", len(data))
    assert all(dechunked(data[:end]) is None for end in range(len(data)))
    with pytest.raises(MalformedAnswer, match="a chunk's size"):
        dechunked(b"zz\r\nabc")


def test_outputs_are_the_same_in_both_forms() -> None:
    head, body = binary_answer(1.0, 2.0)
    assert agree(outputs(body, head.json_length), outputs(JSON_ANSWER, None))


@pytest.mark.parametrize(
    "body", [b"{}", b"not json", b'{"outputs":[{"name":"y"}]}', b'{"outputs":[{"name":"y","datatype":"FP32"}]}']
)
def test_answer_without_outputs_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer, match="expected an answer with outputs"):
        outputs(body, None)


def test_bytes_behind_the_outputs_are_malformed() -> None:
    head, body = binary_answer(1.0)
    with pytest.raises(MalformedAnswer, match="the outputs end at byte"):
        outputs(body + b"x", head.json_length)


def test_floats_may_differ_in_their_last_digits_and_integers_may_not() -> None:
    right = {"y": np.array([1.0, -2.0, np.nan], np.float32), "n": np.array([1, 2])}
    assert agree({"y": right["y"] * np.float32(1.0001), "n": right["n"]}, right)
    assert not agree({"y": right["y"] * np.float32(1.01), "n": right["n"]}, right)
    assert not agree({"y": right["y"], "n": right["n"] + 1}, right)
    assert not agree({"y": right["y"]}, right)
    assert not agree({"y": right["y"][:2], "n": right["n"]}, right)


def test_question_takes_what_it_learnt_and_nothing_else() -> None:
    question = Question(0, b"", b"")
    assert question.is_right(*binary_answer(3.0, 4.0))  # nothing learnt yet
    question.learn(*binary_answer(1.0, 2.0))
    assert question.is_right(*binary_answer(1.0, 2.00001))
    assert not question.is_right(*binary_answer(1.0, 2.1))
    assert not question.is_right(*binary_answer(1.0))
    assert not question.is_right(Head(200, 2), b"{}")


def test_question_compares_some_answers_when_none_is_the_same_twice() -> None:
    """A server that puts an id of its own into each answer costs no memory without end, and is still checked."""
    question = Question(0, b"", b"")
    question.learn(Head(200, 0), JSON_ANSWER)
    for number in range(MOST_KNOWN * 2):
        assert question.is_right(Head(200, 0), JSON_ANSWER[:-1] + b',"id":"%d"}' % number)
    wrong = JSON_ANSWER.replace(b"2.0", b"9.0")
    found = [question.is_right(Head(200, 0), wrong) for _ in range(CHECKED_THEN)]
    assert found.count(False) == 1


def test_raw_answer_is_compared_as_numbers() -> None:
    question = Question(0, b"", b"", is_raw=True, answer_dtype=np.dtype("<f4"))
    right = np.array([1.0, 2.0], "<f4")
    question.learn(Head(200, 8), right.tobytes())
    assert question.is_right(Head(200, 8), (right * np.float32(1.00001)).tobytes())
    assert not question.is_right(Head(200, 8), (right + 1).tobytes())
    assert not question.is_right(Head(200, 7), b"1234567")


def test_raw_answer_in_json_is_compared_number_by_number() -> None:
    question = Question(0, b"", b"", is_raw=True)
    question.learn(Head(200, 0), b'{"y": [1.0, 2, -3e1], "by": "one", "ok": true}')
    assert question.is_right(Head(200, 0), b'{"y":[1.00001,2.0,-30.0],"by":"one","ok":true}')
    assert not question.is_right(Head(200, 0), b'{"y":[2,1.0,-3e1],"by":"one","ok":true}')
    assert not question.is_right(Head(200, 0), b'{"y":[1.0,2,-3e1],"by":"two","ok":true}')
    assert not question.is_right(Head(200, 0), b'{"y":[1.0,2],"by":"one","ok":true}')
    assert not question.is_right(Head(200, 0), b"{")
