"""Inference in every form over the wire: JSON, binary, mixed, raw, compressed (protocol.md sections 4 to 7)."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from support.http_service import ByName, Serve, infer_body, quick, until
from support.raw_http import Reply, chunked, request_bytes

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig
from batchserve.core.tensors import DATATYPES, TensorSpec
from batchserve.frontend import inference

INFER = "/v2/models/echo/infer"
LENGTH = "Inference-Header-Content-Length"
WIDE = {
    "inputs": (TensorSpec("x", DATATYPES["FP32"], (-1, -1)),),
    "outputs": (TensorSpec("y", DATATYPES["FP32"], (-1, -1)),),
}


def binary_request(array: np.ndarray[Any, Any], datatype: str, **members: Any) -> tuple[bytes, dict[str, str]]:
    """A request with one binary input, and its header."""
    tensor = {
        "name": "x",
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [tensor], **members}).encode()
    return head + array.tobytes(), {LENGTH: str(len(head))}


def read_binary(reply: Reply, dtype: str) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """The JSON of an answer with one binary output, and that output."""
    assert reply.status == 200, reply
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers[LENGTH.lower()])
    head = json.loads(reply.body[:length])
    (output,) = head["outputs"]
    tail = reply.body[length:]
    assert output["parameters"]["binary_data_size"] == len(tail)
    return head, np.frombuffer(tail, dtype).reshape(output["shape"])


async def test_a_json_request_gets_the_example_answer(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.post(INFER, infer_body(1, 2, id="r-17"))
    assert reply.headers["content-type"] == "application/json"
    assert LENGTH.lower() not in reply.headers
    assert reply.json == {
        "id": "r-17",
        "model_name": "echo",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [2, 4], "data": [1, 1, 1, 1, 2, 2, 2, 2]}],
    }


@pytest.mark.parametrize("header", [LENGTH, LENGTH.lower(), LENGTH.upper()])
async def test_a_binary_request_gets_a_binary_answer(serve: Serve, header: str) -> None:
    service = await serve(FakeBackend())
    array = np.arange(12, dtype="<i8").reshape(3, 4)
    body, headers = binary_request(array, "INT64", parameters={"binary_data_output": True})
    async with await service.client() as client:
        reply = await client.post(INFER, body, {header: headers[LENGTH]})
    head, result = read_binary(reply, "<i8")
    assert head["outputs"][0]["name"] == "y"
    np.testing.assert_array_equal(result, array)


async def test_json_and_binary_inputs_and_outputs_mix(serve: Serve) -> None:
    inputs = (TensorSpec("a", DATATYPES["INT64"], (-1, 1)), TensorSpec("b", DATATYPES["FP32"], (-1, 2)))
    outputs = (TensorSpec("a2", DATATYPES["INT64"], (-1, 1)), TensorSpec("b2", DATATYPES["FP32"], (-1, 2)))
    service = await serve(FakeBackend(inputs=inputs, outputs=outputs), {"echo": quick()})
    tail = np.array([[1.5, -2.5]], "<f4").tobytes()
    head = json.dumps(
        {
            "inputs": [
                {"name": "b", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
                {"name": "a", "datatype": "INT64", "shape": [1, 1], "data": [7]},
            ],
            "outputs": [{"name": "b2"}, {"name": "a2", "parameters": {"binary_data": True}}],
        }
    ).encode()
    async with await service.client() as client:
        reply = await client.post(INFER, head + tail, {LENGTH: str(len(head))})
    length = int(reply.headers[LENGTH.lower()])
    assert json.loads(reply.body[:length])["outputs"] == [
        {"name": "a2", "datatype": "INT64", "shape": [1, 1], "parameters": {"binary_data_size": 8}},
        {"name": "b2", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.5]},
    ]
    assert reply.body[length:] == (7).to_bytes(8, "little")


async def test_only_the_outputs_asked_for_are_computed_and_sent(serve: Serve) -> None:
    outputs = (TensorSpec("y", DATATYPES["INT64"], (-1, 4)), TensorSpec("z", DATATYPES["INT64"], (-1, 4)))
    backend = FakeBackend(outputs=outputs)
    service = await serve(backend)
    async with await service.client() as client:
        reply = await client.post(INFER, infer_body(1, outputs=[{"name": "z"}]))
    assert [output["name"] for output in reply.json["outputs"]] == ["z"]
    assert [run.output_mask for run in backend.runs] == [2]


async def test_a_raw_request_is_one_row_and_its_answer_is_binary(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.post(INFER, np.arange(4, dtype="<i8").tobytes(), {LENGTH: "0"})
    _, result = read_binary(reply, "<i8")
    assert result.tolist() == [[0, 1, 2, 3]]


async def test_chunked_and_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    service = await serve(FakeBackend())
    first, second = (json.dumps(infer_body(value)).encode() for value in (1, 2))
    head = f"POST {INFER} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with await service.client() as client:
        await client.send(
            head + chunked(first[:10], first[10:]) + request_bytes("POST", INFER, second) + request_bytes("GET", "/v2")
        )
        assert (await client.read()).json["outputs"][0]["data"] == [1] * 4
        assert (await client.read()).json["outputs"][0]["data"] == [2] * 4
        assert (await client.read()).json["name"] == "batchserve"


async def test_a_request_that_comes_byte_by_byte_is_the_same_request(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for byte in request_bytes("POST", INFER, json.dumps(infer_body(6)).encode()):
            await client.send(bytes([byte]))
        assert (await client.read()).json["outputs"][0]["data"] == [6] * 4


# Compression

SQUEEZE = {"gzip": gzip.compress, "deflate": zlib.compress}
EXPAND = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZip"])
async def test_a_compressed_request_is_inflated(serve: Serve, coding: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        body = SQUEEZE[coding.lower()](json.dumps(infer_body(9)).encode())
        reply = await client.post(INFER, body, {"Content-Encoding": coding})
    assert reply.json["outputs"][0]["data"] == [9] * 4


async def test_header_lengths_of_a_compressed_request_count_inflated_bytes(serve: Serve) -> None:
    service = await serve(FakeBackend())
    array = np.arange(400, dtype="<i8").reshape(100, 4)
    body, headers = binary_request(array, "INT64", parameters={"binary_data_output": True})
    async with await service.client() as client:
        reply = await client.post(INFER, gzip.compress(body), {**headers, "Content-Encoding": "gzip"})
    np.testing.assert_array_equal(read_binary(reply, "<i8")[1], array)


async def test_identity_is_no_compression(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for coding in ("identity", "IDENTITY", ""):
            reply = await client.post(INFER, infer_body(1), {"Content-Encoding": coding})
            assert reply.status == 200


async def test_a_compressed_index_body_is_inflated_too(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        body = gzip.compress(b'{"ready": true}')
        reply = await client.post("/v2/repository/index", body, {"Content-Encoding": "gzip"})
        assert reply.json[0]["state"] == "READY"


LARGE = infer_body(*range(300))  # its JSON answer has some 6 KB
BINARY = {"parameters": {"binary_data_output": True}}


@pytest.mark.parametrize(
    ("accept", "members", "coding"),
    [
        ("gzip", {}, "gzip"),
        ("deflate", {}, "deflate"),
        ("gzip, deflate, br", {}, "gzip"),
        ("gzip;q=0.5, deflate", {}, "deflate"),
        ("identity", {}, None),
        ("br", {}, None),
        ("gzip;q=0", {}, None),
        (None, {}, None),
        ("gzip", BINARY, "gzip"),
        ("deflate", BINARY, "deflate"),
        ("gzip, deflate", BINARY, None),  # a client library says so on every request; nobody chose it
        ("gzip, deflate, br", BINARY, None),
    ],
)
async def test_large_answers_are_compressed_as_the_client_chose(
    serve: Serve, accept: str | None, members: dict[str, Any], coding: str | None
) -> None:
    service = await serve(FakeBackend(), {"echo": quick(max_batch_size=512)})
    async with await service.client() as client:
        plain = await client.post(INFER, {**LARGE, **members})
        reply = await client.post(INFER, {**LARGE, **members}, {} if accept is None else {"Accept-Encoding": accept})
    assert reply.headers.get("content-encoding") == coding
    body = reply.body if coding is None else EXPAND[coding](reply.body)
    assert body == plain.body
    assert reply.headers.get(LENGTH.lower()) == plain.headers.get(LENGTH.lower())
    assert reply.headers["content-type"] == plain.headers["content-type"]


async def test_two_accept_encoding_lines_are_one_list(serve: Serve) -> None:
    service = await serve(FakeBackend(), {"echo": quick(max_batch_size=512)})
    async with await service.client() as client:
        reply = await client.post(INFER, {**LARGE, **BINARY}, {"Accept-Encoding": "gzip", "accept-encoding": "deflate"})
        assert "content-encoding" not in reply.headers


async def test_small_answers_errors_and_other_endpoints_are_not_compressed(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for reply in (
            await client.post(INFER, infer_body(1), {"Accept-Encoding": "gzip"}),
            await client.post(INFER, b"", {"Accept-Encoding": "gzip"}),
            await client.get("/v2/models/echo/config", {"Accept-Encoding": "gzip"}),
        ):
            assert "content-encoding" not in reply.headers


async def test_the_switch_and_the_threshold_are_the_configured_ones(serve: Serve) -> None:
    off = await serve(FakeBackend(), config=ServerConfig(compression=False))
    low = await serve(FakeBackend(), config=ServerConfig(compression_min_size_bytes=10))
    async with await off.client() as client:
        assert "content-encoding" not in (await client.post(INFER, LARGE, {"Accept-Encoding": "gzip"})).headers
    async with await low.client() as client:
        assert "content-encoding" in (await client.post(INFER, infer_body(1), {"Accept-Encoding": "gzip"})).headers


# Large bodies


async def test_a_body_of_megabytes_goes_through_both_ways(serve: Serve) -> None:
    service = await serve(FakeBackend(**WIDE), {"echo": quick()})
    array = np.random.default_rng(1).random((4, 500_000), np.float32)
    body, headers = binary_request(array, "FP32", parameters={"binary_data_output": True})
    async with await service.client() as client:
        for encoded, extra in ((body, {}), (gzip.compress(body, 1), {"Content-Encoding": "gzip"})):
            reply = await client.post(INFER, encoded, {**headers, **extra})
            np.testing.assert_array_equal(read_binary(reply, "<f4")[1], array)
        head = f"POST {INFER} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n{LENGTH}: {headers[LENGTH]}\r\n\r\n"
        await client.send(head.encode() + chunked(*(body[i : i + 100_000] for i in range(0, len(body), 100_000))))
        np.testing.assert_array_equal(read_binary(await client.read(), "<f4")[1], array)


async def test_large_outputs_are_not_joined_or_copied(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to the socket are slices of the very array that the model gave."""
    output = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)
    service = await serve(FakeBackend(**WIDE, function=lambda inputs, mask: [output]), {"echo": quick()})
    written: list[object] = []
    async with await service.client() as client:
        await client.get("/v2")
        (connection,) = service.server._http.open_connections  # type: ignore[union-attr]
        transport = connection.transport
        monkeypatch.setattr(connection, "transport", Tap(transport, written))
        reply = await client.post(INFER, infer_json(np.zeros((1, 1), np.float32), **BINARY))
        connection.transport = transport
    np.testing.assert_array_equal(read_binary(reply, "<f4")[1], output)
    views = [np.frombuffer(part, np.uint8) for part in written if isinstance(part, memoryview)]
    assert sum(len(view) for view in views) >= output.nbytes
    assert all(len(view) <= 256 << 10 for view in views)
    assert [np.shares_memory(view, output) for view in views if len(view) > 1000] == [True] * 16


class Tap:
    """A transport that notes what is written to it."""

    def __init__(self, transport: Any, written: list[object]) -> None:
        self._transport = transport
        self._written = written

    def write(self, data: object) -> None:
        self._written.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def infer_json(array: np.ndarray[Any, Any], **members: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
    return {"inputs": [tensor], **members}


async def test_large_json_is_read_and_written_off_the_event_loop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, list[bool]] = {"decode": [], "encode": []}
    main = threading.main_thread()
    for name in threads:
        monkeypatch.setattr(inference, name, note_thread(getattr(inference, name), threads[name], main))
    service = await serve(FakeBackend(**WIDE), {"echo": quick()})
    small, large = np.zeros((1, 10), np.float32), np.full((1, 20_000), 0.5, np.float32)
    async with await service.client() as client:
        for array in (small, large):
            assert (await client.post(INFER, infer_json(array))).status == 200
        assert threads == {"decode": [True, False], "encode": [True, False]}
        body, headers = binary_request(large, "FP32", **BINARY)
        assert (await client.post(INFER, body, headers)).status == 200
        assert threads == {"decode": [True, False, True], "encode": [True, False, True]}  # binary is only viewed
        for odd in ("0" * 30 + "1", "x" * 30, "9" * 18):  # not a length one can trust: never on the loop
            assert (await client.post(INFER, body, {LENGTH: odd})).status == 400
        assert threads["decode"][3:] == [False, False, False]


def note_thread(function: Any, seen: list[bool], main: threading.Thread) -> Any:
    def noted(*args: Any) -> Any:
        seen.append(threading.current_thread() is main)
        return function(*args)

    return noted


async def test_strings_go_both_ways_in_either_form(serve: Serve) -> None:
    words = {
        "inputs": (TensorSpec("x", DATATYPES["BYTES"], (-1, -1)),),
        "outputs": (TensorSpec("y", DATATYPES["BYTES"], (-1, -1)),),
    }
    service = await serve(FakeBackend(**words), {"echo": quick()})
    texts = ["", "ü", "\0", "long " * 4000, *map(str, range(9000))]
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, len(texts)], "data": texts}
    async with await service.client() as client:
        reply = await client.post(INFER, {"inputs": [tensor]})
        assert reply.json["outputs"][0]["data"] == texts
        tail = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
        tensor = {**tensor, "parameters": {"binary_data_size": len(tail)}}
        del tensor["data"]
        head = json.dumps({"inputs": [tensor], **BINARY}).encode()
        reply = await client.post(INFER, head + tail, {LENGTH: str(len(head))})
        assert reply.body[int(reply.headers[LENGTH.lower()]) :] == tail


async def test_a_reload_while_the_body_comes_leaves_the_request_to_the_new_version(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    body = json.dumps(infer_body(3)).encode()
    async with await service.client() as client:
        old = service.model()
        data = request_bytes("POST", INFER, body)
        await client.send(data[:-5])
        await until(lambda: service.server.held_bytes > 0)
        await service.repository.load("echo")
        assert service.model() is not old
        await client.send(data[-5:])
        assert (await client.read()).json["outputs"][0]["data"] == [3] * 4
    assert service.model().counters.completed == 1
    assert (old.counters.received, old.counters.invalid, sum(old.counters.refused.values())) == (0, 0, 0)


async def test_every_request_is_counted_once(serve: Serve) -> None:
    service = await serve(ByName(echo=FakeBackend()), {"echo": quick(max_queue_size=4, max_batch_size=4)})
    async with await service.client() as client:
        for body in (infer_body(1), b"{}", infer_body(*range(5)), {"inputs": []}):
            await client.post(INFER, body)
    counters = service.model().counters
    assert (counters.received, counters.completed, counters.invalid) == (4, 1, 3)
