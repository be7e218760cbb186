"""Every row of protocol.md section 8 that a request over HTTP can meet: its exact status and what its message names.

After each the connection works, or was announced closed; and a neighbour that waits in the same queue meanwhile gets
its own answer, out of a batch in which no row of the bad request rode.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from support.http_service import ByName, Serve, Service, infer_body, quick, rows, until

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig
from batchserve.core.tensors import DATATYPES, TensorSpec

X = {"name": "x", "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 4]}


def tensor(**members: Any) -> dict[str, Any]:
    """The good input of the fake model, changed; a member that is given as `...` is left out."""
    return {key: value for key, value in {**X, **members}.items() if value is not ...}


def body(*inputs: object, **members: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **members}).encode()


GOOD = body(X)
BINARY = tensor(data=..., parameters={"binary_data_size": 32})
TAIL = np.arange(4, dtype="<i8").tobytes()
LENGTH = "Inference-Header-Content-Length"


def split(head: bytes, tail: bytes, length: object = None) -> tuple[bytes, dict[str, str]]:
    """A binary body and its header."""
    return head + tail, {LENGTH: str(len(head) if length is None else length)}


@dataclass(frozen=True)
class Row:
    """One bad request.

    Attributes:
        name: The situation.
        status: What it must be answered with.
        words: What the message must name: what was wrong, what was seen, what was expected.
        body: The request's body.
        headers: Its headers, beside `Content-Length`.
        path: Where it goes.
        closes: True if the connection must be announced closed.
        counted: Where the model `echo` counts it; "" if it names no model that serves.
    """

    name: str
    status: int
    words: tuple[str, ...]
    body: bytes = GOOD
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v2/models/echo/infer"
    closes: bool = False
    counted: str = "invalid"


def bad(name: str, content: bytes | tuple[bytes, dict[str, str]], *words: str, **keys: Any) -> Row:
    """A row of status 400."""
    data, headers = content if isinstance(content, tuple) else (content, {})
    return Row(name, keys.pop("status", 400), words, data, {**headers, **keys.pop("headers", {})}, **keys)


SYNTAX = [
    bad("invalid JSON", b'{"inputs": [', "model 'echo'", "not valid JSON", "expected a JSON object"),
    bad("not an object", b"[1]", "model 'echo'", "an array", "expected an object"),
    bad("not an object but a number", b"5", "the number 5", "expected an object"),
    bad("invalid UTF-8", b'{"inputs": [], "id": "\xff"}', "not valid UTF-8", "byte 22", "expected"),
    bad("empty body", b"", "the body is empty", "expected a JSON object"),
    bad("deep nesting", b'{"inputs":' + b"[" * 50_000, "nested too deeply", "at most 100"),
    bad("deep data", body(tensor(data=json.loads("[" * 101 + "]" * 101))), "input 'x'", "nested", "at most 100"),
]

MEMBERS = [
    bad("no inputs", b"{}", "model 'echo'", 'no "inputs"', "expected an array"),
    bad("inputs is null", b'{"inputs": null}', "inputs is null", "expected an array"),
    bad("inputs is an object", b'{"inputs": {}}', "inputs is an object", "expected an array"),
    bad("an input is a string", body("x"), "inputs[0]", "the string 'x'", "expected an object"),
    bad("no name", body(tensor(name=...)), "inputs[0]", 'no "name"', "required"),
    bad("name is a number", body(tensor(name=1)), "inputs[0]", "name is the number 1", "expected a string"),
    bad("no datatype", body(tensor(datatype=...)), "input 'x'", 'no "datatype"', "required"),
    bad("datatype is null", body(tensor(datatype=None)), "input 'x'", "datatype is null", "expected a string"),
    bad("no shape", body(tensor(shape=...)), "input 'x'", 'no "shape"', "required"),
    bad("shape is a number", body(tensor(shape=4)), "input 'x'", "shape is the number 4", "expected an array"),
    bad("shape has a fraction", body(tensor(shape=[1.5, 4])), "input 'x'", "shape[0] is the number 1.5", "expected"),
    bad("shape has a boolean", body(tensor(shape=[True, 4])), "input 'x'", "shape[0] is true", "expected"),
    bad("shape has a string", body(tensor(shape=["1", 4])), "input 'x'", "shape[0] is the string '1'", "expected"),
    bad("no data", body(tensor(data=...)), "input 'x'", "data"),
    bad("data is a scalar", body(tensor(data=4)), "input 'x'", "data", "a number", "expected an array"),
    bad("id is a number", body(X, id=5), "id is the number 5", "expected a string"),
    bad("parameters is an array", body(X, parameters=[]), "parameters is an array", "expected an object"),
    bad("a parameter is an object", body(X, parameters={"a": {}}), "'a' is an object", "expected a string, number or"),
    bad("timeout is a string", body(X, parameters={"timeout": "1"}), "timeout", "the string '1'", "expected"),
    bad("timeout is negative", body(X, parameters={"timeout": -1}), "timeout", "-1", "expected"),
    bad("priority is a boolean", body(X, parameters={"priority": True}), "priority", "true", "expected"),
    bad("binary_data_output", body(X, parameters={"binary_data_output": 1}), "binary_data_output", "1", "expected"),
    bad("a reserved parameter", body(X, parameters={"triton_x": 1}), "triton_x", "reserved"),
    bad(
        "sequence_start", body(X, parameters={"sequence_id": 1, "sequence_start": 1}), "sequence_start", "1", "expected"
    ),
    bad("outputs is an object", body(X, outputs={}), "outputs is an object", "expected an array"),
    bad("output without a name", body(X, outputs=[{}]), "outputs[0]", 'no "name"', "required"),
    bad(
        "classification",
        body(X, outputs=[{"name": "y", "parameters": {"classification": 1}}]),
        "output 'y'",
        "classification",
    ),
]

TENSORS = [
    bad("missing input", body(), "model 'echo'", "'x'"),
    bad("unknown input", body(tensor(name="z")), "'z'", "model 'echo'", "'x'"),
    bad("extra input", body(X, tensor(name="z")), "'z'", "model 'echo'", "'x'"),
    bad("duplicate input", body(X, X), "input 'x' of model 'echo'", "twice", "expected each input once"),
    bad("unknown output", body(X, outputs=[{"name": "q"}]), "output 'q'", "model 'echo'", "expected one of 'y'"),
    bad("unknown datatype", body(tensor(datatype="INT65")), "input 'x'", "'INT65'", "INT64"),
    bad("datatype in lower case", body(tensor(datatype="int64")), "input 'x'", "'int64'", "INT64"),
    bad("another datatype", body(tensor(datatype="FP32")), "input 'x'", "FP32", "INT64"),
    bad("wrong rank", body(tensor(shape=[4])), "input 'x' of model 'echo'", "[4]", "[-1,4]"),
    bad("wrong dimension", body(tensor(shape=[1, 5], data=[0] * 5)), "input 'x' of model 'echo'", "[1,5]", "[-1,4]"),
    bad("negative dimension", body(tensor(shape=[-1, 4])), "input 'x' of model 'echo'", "-1"),
    bad("zero dimension", body(tensor(shape=[0, 4], data=[])), "input 'x' of model 'echo'", "[0,4]"),
    bad("overflowing dimension", body(tensor(shape=[2**62, 4])), "input 'x' of model 'echo'", "4611686018427387904"),
    bad("too few elements", body(tensor(data=[1, 2, 3])), "input 'x' of model 'echo'", "3", "4", "[1,4]"),
    bad("too many elements", body(tensor(data=[[1, 2], [3, 4, 5]])), "input 'x' of model 'echo'", "5", "4", "[1,4]"),
    bad("a fraction for an integer", body(tensor(data=[1, 2, 3, 4.5])), "input 'x'", "INT64"),
    bad("a boolean for an integer", body(tensor(data=[1, 2, 3, True])), "input 'x'", "a boolean", "INT64"),
    bad("a string for an integer", body(tensor(data=[1, 2, 3, "4"])), "input 'x'", "a string", "INT64"),
    bad("a null for an integer", body(tensor(data=[1, 2, 3, None])), "input 'x'", "null", "INT64"),
    bad("out of range", body(tensor(data=[1, 2, 3, 2**63])), "input 'x'", "INT64"),
    bad(
        "more rows than the queue can hold",
        body(tensor(shape=[40, 4], data=[0] * 160)),
        "model 'echo'",
        "40",
        "16",
    ),
]

BINARIES = [
    bad("header length is no number", split(body(BINARY), TAIL, "12x"), LENGTH, "'12x'", "decimal"),
    bad("header length is negative", split(body(BINARY), TAIL, "-1"), LENGTH, "'-1'", "decimal"),
    bad("header length beyond the body", split(body(BINARY), TAIL, 10**9), LENGTH, "'1000000000'", "at most"),
    bad("header length sent twice", (GOOD, {LENGTH: "5", LENGTH.lower(): "5"}), LENGTH, "'5, 5'", "decimal"),
    bad("truncated tail", split(body(BINARY), TAIL[:-1]), "input 'x'", "32", "31"),
    bad("surplus tail", split(body(BINARY), TAIL + b"!"), "1 byte"),
    bad("a tail nobody asked for", split(GOOD, b"!"), "1 byte"),
    bad(
        "binary_data_size does not fit the shape",
        split(body(tensor(data=..., parameters={"binary_data_size": 24})), TAIL[:24]),
        "input 'x'",
        "24",
        "32",
    ),
    bad(
        "binary_data_size is a string",
        split(body(tensor(data=..., parameters={"binary_data_size": "32"})), TAIL),
        "input 'x'",
        "binary_data_size",
        "'32'",
    ),
    bad(
        "data and binary_data_size",
        split(body(tensor(parameters={"binary_data_size": 32})), TAIL),
        "input 'x'",
        "binary_data_size",
        "data",
    ),
    bad("raw bytes that fit no row", (b"123", {LENGTH: "0"}), "model 'echo'", "3", "32"),
]

REGION = {"shared_memory_region": "r0", "shared_memory_byte_size": 32}

OTHERS = [
    bad("corrupt gzip", b"not gzip", "gzip", headers={"Content-Encoding": "gzip"}),
    bad("corrupt deflate", b"not deflate", "deflate", headers={"Content-Encoding": "deflate"}),
    bad("truncated gzip", gzip.compress(GOOD)[:-1], "gzip", "ends", headers={"Content-Encoding": "gzip"}),
    bad("empty gzip", b"", "gzip", "empty", headers={"Content-Encoding": "gzip"}),
    bad(
        "unknown region",
        body(tensor(data=..., parameters=REGION)),
        "'r0'",
        status=404,
    ),
    bad("unknown model", GOOD, "model 'none'", status=404, path="/v2/models/none/infer", counted=""),
    bad("unknown version", GOOD, "'echo'", "'2'", status=404, path="/v2/models/echo/versions/2/infer", counted=""),
    bad("no number", GOOD, "'echo'", "'x'", status=404, path="/v2/models/echo/versions/x/infer", counted=""),
    bad("unknown path", GOOD, "'/v2/models/echo/guess'", status=404, path="/v2/models/echo/guess", counted=""),
    bad("wrong method", GOOD, "'POST'", "GET", status=405, path="/v2/models/echo/ready", counted=""),
    bad("a failed model", GOOD, "'broken'", "corrupt", status=503, path="/v2/models/broken/infer", counted=""),
    bad("admin is off", b"", "'echo'", "server.admin", status=403, path="/v2/repository/models/echo/load", counted=""),
    bad("a body over the limit", GOOD + b" " * 4096, "4096", "max_body_size", status=413, closes=True),
    bad(
        "a body that inflates over the limit",
        zlib.compress(GOOD + b" " * 100_000),
        "4096",
        "max_body_size",
        status=413,
        headers={"Content-Encoding": "deflate"},
        closes=True,
    ),
    *(
        bad(f"Content-Encoding {coding}", GOOD, f"'{coding}'", "gzip", status=415, headers={"Content-Encoding": coding})
        for coding in ("br", "gzip, deflate", "identity, gzip", "gzip;q=1", "x")
    ),
]

ROWS = [*SYNTAX, *MEMBERS, *TENSORS, *BINARIES, *OTHERS]
assert len({row.name for row in ROWS}) == len(ROWS), "names tell the tests apart"


async def small_service(serve: Serve, echo: FakeBackend) -> Service:
    return await serve(
        ByName(echo=echo, broken=FakeBackend(load_error="the file is corrupt")),
        {"echo": quick(max_queue_size=16, max_batch_size=8), "broken": quick()},
        config=ServerConfig(max_body_size_bytes=4096),
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_bad_request_is_told_what_is_wrong_and_harms_nobody(
    serve: Serve, expected_errors: pytest.LogCaptureFixture, row: Row
) -> None:
    """Two requests wait behind a held run while the bad one comes; they share the next batch."""
    backend = FakeBackend()
    service = await small_service(serve, backend)
    if len(row.body) > 4096 and row.status == 400:
        service = await serve(backend, {"echo": quick(max_queue_size=16, max_batch_size=8)})
    held = service.hold(backend)
    model = service.model()
    async with (
        await service.client() as first,
        await service.client() as left,
        await service.client() as right,
        await service.client() as client,
    ):
        running = asyncio.create_task(first.post("/v2/models/echo/infer", infer_body(1)))
        await held.begun(1)
        neighbours = [
            asyncio.create_task(neighbour.post("/v2/models/echo/infer", infer_body(value)))
            for neighbour, value in ((left, 2), (right, 3))
        ]
        await until(lambda: model.queued_requests == 2)

        reply = await client.post(row.path, row.body, row.headers)
        assert reply.status == row.status, reply
        for word in row.words:
            assert word in reply.error
        assert reply.closes == row.closes
        if row.closes:
            assert await client.is_closed_by_server()
        else:
            assert (await client.get("/v2/health/live")).json == {"live": True}

        held.let_go()
        assert (await running).json["outputs"][0]["data"] == [1] * 4
        for value, neighbour in zip((2, 3), neighbours, strict=True):
            assert (await neighbour).json["outputs"][0]["data"] == [value] * 4
        if not row.closes:  # the very connection that erred serves on
            assert (await client.post("/v2/models/echo/infer", infer_body(4))).json["outputs"][0]["data"] == [4] * 4

    batches = [run.inputs[0][:, 0].tolist() for run in backend.runs]
    assert batches == [[1], [2, 3], *([] if row.closes else [[4]])]
    counters = model.counters
    assert (counters.invalid, sum(counters.refused.values())) == ((1 if row.counted == "invalid" else 0), 0)
    assert counters.completed == (3 if row.closes else 4)
    assert counters.received == counters.ended


MIXED = (
    TensorSpec("half", DATATYPES["FP16"], (-1, 2)),
    TensorSpec("real", DATATYPES["FP32"], (-1, 2)),
    TensorSpec("words", DATATYPES["BYTES"], (-1, 1)),
    TensorSpec("flags", DATATYPES["BOOL"], (-1, 1)),
    TensorSpec("bytes", DATATYPES["UINT8"], (-1, 1)),
)


def mixed(**changes: Any) -> tuple[bytes, dict[str, str]]:
    """A good request for the model of five inputs, changed; the half-precision input is binary."""
    inputs = {
        "half": {"datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
        "real": {"datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]},
        "words": {"datatype": "BYTES", "shape": [1, 1], "data": ["one"]},
        "flags": {"datatype": "BOOL", "shape": [1, 1], "data": [True]},
        "bytes": {"datatype": "UINT8", "shape": [1, 1], "data": [255]},
    }
    for name, change in changes.items():
        merged = {**inputs[name], **change}
        inputs[name] = {key: value for key, value in merged.items() if value is not ...}
    members = [{"name": name, **rest} for name, rest in inputs.items()]
    head = body(*members, outputs=[{"name": "real_out"}])
    return head, {LENGTH: str(len(head))}


HALF = np.array([1, 2], "<f2").tobytes()


@pytest.mark.parametrize(
    ("changes", "tail", "words"),
    [
        ({"half": {"data": [1, 2], "parameters": {}}}, b"", ("input 'half'", "FP16", "binary")),
        ({"real": {"shape": [2, 2], "data": [1, 2, 3, 4]}}, HALF, ("'real'", "2", "1", "rows")),
        ({"real": {"data": [1, True]}}, HALF, ("input 'real'", "a boolean", "FP32")),
        ({"real": {"data": [1, "2"]}}, HALF, ("input 'real'", "a string", "FP32")),
        ({"words": {"data": [1]}}, HALF, ("input 'words'", "a number", "BYTES")),
        ({"flags": {"data": [1]}}, HALF, ("input 'flags'", "a number", "BOOL")),
        ({"bytes": {"data": [300]}}, HALF, ("input 'bytes'", "UINT8")),
        ({"words": {"data": ..., "parameters": {"binary_data_size": 6}}}, HALF + b"\x05\0\0\0hi", ("input 'words'",)),
    ],
)
async def test_inputs_of_other_types_are_checked_alike(
    serve: Serve, changes: dict[str, Any], tail: bytes, words: tuple[str, ...]
) -> None:
    outputs = tuple(TensorSpec(f"{spec.name}_out", spec.datatype, spec.shape) for spec in MIXED)
    service = await serve(FakeBackend(inputs=MIXED, outputs=outputs), {"mixed": quick()})
    async with await service.client() as client:
        head, headers = mixed()
        good = await client.post("/v2/models/mixed/infer", head + HALF, headers)
        assert good.json["outputs"] == [{"name": "real_out", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]}]
        head, headers = mixed(**changes)
        reply = await client.post("/v2/models/mixed/infer", head + tail, headers)
        assert reply.status == 400
        for word in words:
            assert word in reply.error


async def test_a_half_precision_output_in_json_is_refused_before_the_model_runs(serve: Serve) -> None:
    backend = FakeBackend(outputs=(TensorSpec("h", DATATYPES["FP16"], (-1, 4)),))
    service = await serve(backend)
    async with await service.client() as client:
        reply = await client.post("/v2/models/echo/infer", infer_body(1))
    assert reply.status == 400
    for word in ("output 'h'", "FP16", "binary_data"):
        assert word in reply.error
    assert backend.runs == []


async def test_a_batch_larger_than_the_model_takes_is_400_where_splitting_is_off(serve: Serve) -> None:
    service = await serve(FakeBackend(), {"echo": quick(max_batch_size=2, split_large=False)})
    async with await service.client() as client:
        reply = await client.post("/v2/models/echo/infer", infer_body(1, 2, 3))
        assert reply.status == 400
        for word in ("model 'echo'", "3", "2"):
            assert word in reply.error
        assert (await client.post("/v2/models/echo/infer", infer_body(1, 2))).status == 200
    counters = service.model().counters
    assert (counters.invalid, counters.completed, counters.received) == (1, 1, 2)


async def test_a_full_queue_is_429_with_retry_after(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend, {"echo": quick(max_queue_size=1, max_batch_size=1)})
    held = service.hold(backend)
    async with await service.client() as first, await service.client() as second, await service.client() as third:
        running = asyncio.create_task(first.post("/v2/models/echo/infer", infer_body(1)))
        await held.begun(1)
        queued = asyncio.create_task(second.post("/v2/models/echo/infer", infer_body(2)))
        await until(lambda: service.model().queued_requests == 1)
        refused = await third.post("/v2/models/echo/infer", infer_body(3))
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert not refused.closes
        assert "echo" in refused.error
        held.let_go()
        assert [(await task).status for task in (running, queued)] == [200, 200]
        assert (await third.post("/v2/models/echo/infer", infer_body(4))).status == 200
    counters = service.model().counters
    assert (counters.refused["queue"], counters.completed, counters.received) == (1, 3, 4)


async def test_a_deadline_that_passes_in_the_queue_is_504_and_the_request_is_not_run(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    async with await service.client() as first, await service.client() as second:
        running = asyncio.create_task(first.post("/v2/models/echo/infer", infer_body(1)))
        await held.begun(1)
        late = await second.post("/v2/models/echo/infer", infer_body(2, parameters={"timeout": 1000}))
        assert late.status == 504
        assert "echo" in late.error
        held.let_go()
        assert (await running).status == 200
        assert (await second.post("/v2/models/echo/infer", infer_body(3))).status == 200
    assert [run.inputs[0][:, 0].tolist() for run in backend.runs] == [[1], [3]]
    counters = service.model().counters
    assert (counters.expired, counters.completed, counters.received) == (1, 2, 3)


async def test_a_model_that_fails_is_500_for_the_guilty_request_alone(
    serve: Serve, expected_errors: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend(fails=lambda inputs: bool((inputs[0] == 13).any()))
    service = await serve(backend)
    held = service.hold(backend)
    clients = [await service.client() for _ in range(5)]
    asked = [asyncio.create_task(clients[0].post("/v2/models/echo/infer", infer_body(1)))]
    await held.begun(1)
    asked += [
        asyncio.create_task(client.post("/v2/models/echo/infer", infer_body(value)))
        for client, value in zip(clients[1:], (12, 13, 14, 15), strict=True)
    ]
    await until(lambda: service.model().queued_requests == 4)
    held.let_go()
    replies = [await task for task in asked]
    assert [reply.status for reply in replies] == [200, 200, 500, 200, 200]
    assert "echo" in replies[2].error
    for reply, value in zip(replies, (1, 12, 13, 14, 15), strict=True):
        if value != 13:
            assert reply.json["outputs"][0]["data"] == [value] * 4
    assert (await clients[2].post("/v2/models/echo/infer", infer_body(2))).status == 200
    for client in clients:
        await client.close()
    counters = service.model().counters
    assert (counters.failed, counters.completed, counters.received) == (1, 5, 6)


async def test_texts_for_clients_hold_no_tensor_contents(serve: Serve) -> None:
    secret = "31415926535"
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for data in ([int(secret)] * 3, [secret] * 4, [float(secret) + 0.5] * 4, [{"a": secret}] * 4):
            reply = await client.post("/v2/models/echo/infer", body(tensor(data=data)))
            assert reply.status == 400
            assert secret not in reply.error


ORDER = [
    # Each request is wrong in this way and in every way below it; the first wins.
    ("an unknown path", 404, "/v2/models/none/versions/9/guess"),
    ("a wrong method", 405, "/v2/models/none/versions/9/ready"),
    ("an unknown model", 404, "/v2/models/none/versions/9/infer"),
    ("an unknown version", 404, "/v2/models/echo/versions/9/infer"),
    ("an unsupported encoding", 415, "/v2/models/echo/infer"),
]


@pytest.mark.parametrize(("situation", "status", "path"), ORDER)
async def test_of_several_faults_the_first_in_order_is_told(
    serve: Serve, situation: str, status: int, path: str
) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(max_body_size_bytes=10))
    async with await service.client() as client:
        reply = await client.post(path, b"{" * 20, {"Content-Encoding": "br"})
        assert reply.status == status, situation
        assert not reply.closes
        too_large = await client.post("/v2/models/echo/infer", b"{" * 20)
        assert too_large.status == 413


async def test_rows_helper_is_integer_coded() -> None:
    assert rows(7, 8).tolist() == [[7] * 4, [8] * 4]
