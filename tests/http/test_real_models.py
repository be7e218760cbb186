"""Small real models on ONNX Runtime behind HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import onnx_models
from support.http_service import Serve, Service, quick

from batchserve.backends.onnx import OnnxBackend
from batchserve.engine.sources import find_models


async def serve_file(serve: Serve, folder: Path, **models: Any) -> Service:
    for name, proto in models.items():
        onnx_models.save(proto, folder / f"{name}.onnx")
    return await serve(OnnxBackend(), {name: quick() for name in models}, sources=find_models([folder]))


def tensor(name: str, datatype: str, array: np.ndarray[Any, Any] | list[Any], shape: list[int]) -> dict[str, Any]:
    data = array.ravel().tolist() if isinstance(array, np.ndarray) else array
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


async def test_several_inputs_and_outputs(serve: Serve, tmp_path: Path) -> None:
    service = await serve_file(serve, tmp_path, sums=onnx_models.several_tensors())
    inputs = [
        tensor("b", "INT64", [1, 2, 3, 4], [2, 2]),
        tensor("a", "FP32", [0.5, 1, 1.5, 2, 2.5, 3], [2, 3]),
    ]
    async with await service.client() as client:
        reply = await client.post("/v2/models/sums/infer", {"inputs": inputs})
        assert reply.json["outputs"] == [
            tensor("total", "FP32", [3.0, 7.5], [2, 1]),
            tensor("b_twice", "INT64", [2, 4, 6, 8], [2, 2]),
            tensor("a_copy", "FP32", [0.5, 1.0, 1.5, 2.0, 2.5, 3.0], [2, 3]),
        ]
        reply = await client.post("/v2/models/sums/infer", {"inputs": inputs, "outputs": [{"name": "b_twice"}]})
        assert [output["name"] for output in reply.json["outputs"]] == ["b_twice"]


async def test_strings(serve: Serve, tmp_path: Path) -> None:
    service = await serve_file(serve, tmp_path, shout=onnx_models.string_suffix("!"))
    async with await service.client() as client:
        body = {"inputs": [tensor("x", "BYTES", ["a", "é", "", "\U0001f600"], [2, 2])]}
        reply = await client.post("/v2/models/shout/infer", body)
        assert reply.json["outputs"][0]["data"] == ["a!", "é!", "!", "\U0001f600!"]


async def test_a_model_without_a_batch_axis_is_run_whole(serve: Serve, tmp_path: Path) -> None:
    service = await serve_file(serve, tmp_path, fixed=onnx_models.fixed_batch(2))
    async with await service.client() as client:
        config = (await client.get("/v2/models/fixed/config")).json
        assert config["max_batch_size"] == 0
        assert config["parameters"]["batches"] == {"string_value": "false"}
        assert len(config["parameters"]["batches.why"]["string_value"]) > 10
        assert (await client.get("/v2/models/fixed")).json["inputs"][0]["shape"] == config["input"][0]["dims"]
        good = {"inputs": [tensor("x", "FP32", [1.0] * 8, [2, 4])]}
        reply = await client.post("/v2/models/fixed/infer", good)
        assert reply.json["outputs"][0]["shape"] == [2, 4]
        bad = await client.post("/v2/models/fixed/infer", {"inputs": [tensor("x", "FP32", [1.0] * 4, [1, 4])]})
        assert bad.status == 400
        assert "[1,4]" in bad.error
        assert "[2,4]" in bad.error


async def test_a_row_on_which_the_model_fails_fails_alone(serve: Serve, tmp_path: Path) -> None:
    """Nothing in its form is wrong: the runtime itself refuses the whole batch it rides in."""
    service = await serve_file(serve, tmp_path, table=onnx_models.lookup(10))
    clients = [await service.client() for _ in range(8)]

    async def ask(position: int, value: int) -> Any:
        body = {"inputs": [tensor("x", "INT64", [value], [1, 1])]}
        return await clients[position].post("/v2/models/table/infer", body)

    replies = await asyncio.gather(*(ask(i, 99 if i == 3 else i) for i in range(8)))
    for client in clients:
        await client.close()
    for position, reply in enumerate(replies):
        if position == 3:
            assert reply.status == 500
            assert "table" in reply.error
        else:
            assert reply.json["outputs"][0]["data"] == [float(position)] * 4
    counters = service.model("table").counters
    assert (counters.failed, counters.completed, counters.received) == (1, 7, 8)


@pytest.mark.parametrize("is_binary", [True, False])
async def test_special_values_survive(serve: Serve, tmp_path: Path, is_binary: bool) -> None:
    service = await serve_file(serve, tmp_path, same=onnx_models.identity(onnx_models.FLOAT, 4))
    array = np.array([[np.nan, np.inf, -np.inf, -0.0], [1e-45, 3.4e38, 0.1, 1 / 3]], np.float32)
    head = json.dumps(
        {"inputs": [tensor("x", "FP32", array, [2, 4])], "parameters": {"binary_data_output": is_binary}}
    ).encode()
    async with await service.client() as client:
        reply = await client.post("/v2/models/same/infer", head)
    if is_binary:
        length = int(reply.headers["inference-header-content-length"])
        got = np.frombuffer(reply.body[length:], np.float32)
    else:
        got = np.array(json.loads(reply.body)["outputs"][0]["data"], np.float32)
    np.testing.assert_array_equal(got.view(np.uint32) | 0, _without_payload(array.ravel()).view(np.uint32))


def _without_payload(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.array([float(value) for value in array], np.float32)
