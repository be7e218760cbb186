"""Requests of different lengths in one run, on ONNX Runtime behind HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from support import onnx_models, sequence_models
from support.http_service import Serve, Service, quick

from batchserve.backends.onnx import OnnxBackend
from batchserve.config import PadConfig
from batchserve.engine.sources import find_models

PAD = PadConfig(
    {"input_ids": (1,), "attention_mask": (1,)}, "attention_mask", {"tokens": (1,)}, values={"input_ids": 40}
)


async def serve_model(serve: Serve, folder: Path, proto: ModelProto, **keys: Any) -> Service:
    onnx_models.save(proto, folder / "m.onnx")
    return await serve(OnnxBackend(), {"m": quick(**keys)}, sources=find_models([folder]))


def body_of(ids: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in (("input_ids", ids), ("attention_mask", np.ones_like(ids)))
        ]
    }


def ids_of(number: int, length: int, rows: int = 1) -> np.ndarray[Any, Any]:
    """Integer-coded: whose they are, which row, and which place."""
    return 10_000 * number + 1000 * np.arange(rows)[:, None] + np.arange(length)[None, :]


async def ask(service: Service, requests: list[np.ndarray[Any, Any]], model: str = "m") -> list[Any]:
    clients = [await service.client() for _ in requests]
    replies = await asyncio.gather(
        *(client.post(f"/v2/models/{model}/infer", body_of(ids)) for client, ids in zip(clients, requests, strict=True))
    )
    for client in clients:
        await client.close()
    return replies


async def test_every_request_gets_its_own_elements_back(serve: Serve, tmp_path: Path) -> None:
    """Exact, with lengths of 1 to 60 and one to three rows; hardly any of the runs can have been of one length."""
    service = await serve_model(serve, tmp_path, sequence_models.token_echo(), pad=PAD, max_queue_delay_s=0.02)
    random = np.random.default_rng(0)
    requests = [ids_of(i, int(random.integers(1, 61)), int(random.integers(1, 4))) for i in range(40)]
    for reply, ids in zip(await ask(service, requests), requests, strict=True):
        assert reply.status == 200, reply.error
        tokens, total = reply.json["outputs"]
        assert tokens["shape"] == list(ids.shape)
        assert tokens["data"] == (2 * ids + 1).ravel().tolist()
        assert total["data"] == ids.sum(axis=1).tolist()
    counters = service.model("m").counters
    assert counters.completed == 40
    assert counters.executions < 30


async def test_answers_are_those_of_a_request_alone(serve: Serve, tmp_path: Path) -> None:
    """A real mask in a real attention: padded among others, every answer is what it is alone."""
    proto = sequence_models.attention_encoder()
    pad = PadConfig({"input_ids": (1,), "attention_mask": (1,)}, "attention_mask", {"states": (1,), "weights": (1, 2)})
    service = await serve_model(serve, tmp_path, proto, pad=pad, max_queue_delay_s=0.02)
    random = np.random.default_rng(1)
    requests = [random.integers(0, 50, (1, length)) for length in (3, 17, 8, 30, 1, 12)]
    together = await ask(service, requests)
    assert service.model("m").counters.executions < 6
    for reply, ids in zip(together, requests, strict=True):
        (alone,) = await ask(service, [ids])
        for got, expected in zip(reply.json["outputs"], alone.json["outputs"], strict=True):
            assert got["shape"] == expected["shape"]
            np.testing.assert_allclose(got["data"], expected["data"], rtol=1e-4, atol=1e-6)  # as the proof at load


async def test_without_pad_no_two_lengths_share_a_run(serve: Serve, tmp_path: Path) -> None:
    service = await serve_model(serve, tmp_path, sequence_models.token_echo(), max_queue_delay_s=0.02)
    await ask(service, [ids_of(i, 5 + i) for i in range(6)])
    assert service.model("m").counters.executions == 6


async def test_lengths_that_disagree_are_a_bad_request(serve: Serve, tmp_path: Path) -> None:
    service = await serve_model(serve, tmp_path, sequence_models.token_echo(), pad=PAD)
    body = body_of(ids_of(1, 5))
    body["inputs"][1] |= {"shape": [1, 4], "data": [1] * 4}
    async with await service.client() as client:
        reply = await client.post("/v2/models/m/infer", body)
    assert reply.status == 400
    assert "input 'attention_mask' of model 'm': 4 on axis 1, but input 'input_ids' has 5" in reply.error


async def test_a_large_request_is_split_and_joined_at_its_length(serve: Serve, tmp_path: Path) -> None:
    service = await serve_model(
        serve, tmp_path, sequence_models.token_echo(), pad=PAD, max_batch_size=4, max_queue_delay_s=0.02
    )
    large, small = ids_of(1, 11, rows=9), ids_of(2, 13)
    for reply, ids in zip(await ask(service, [large, small]), (large, small), strict=True):
        assert reply.json["outputs"][0]["data"] == (2 * ids + 1).ravel().tolist()
        assert reply.json["outputs"][0]["shape"] == list(ids.shape)


async def test_a_model_that_padding_would_change_does_not_load(
    serve: Serve, tmp_path: Path, expected_errors: pytest.LogCaptureFixture
) -> None:
    pad = PadConfig({"input_ids": (1,), "attention_mask": (1,)}, "attention_mask")
    proto = sequence_models.mean_encoder(ignores_mask=True)
    service = await serve_model(serve, tmp_path, proto, pad=pad)
    async with await service.client() as client:
        reply = await client.post("/v2/models/m/infer", body_of(ids_of(0, 3)))
    assert reply.status in (404, 503)
    (entry,) = service.repository.index()
    assert "pad changes answers: output 'scores' of a row of" in entry.reason
