"""Images sent as bytes to a model that prepares them itself, beside the same model and a client that does it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from support import image_models as images
from support import onnx_models
from support.http_service import Serve, Service, quick
from support.raw_http import RawClient

from batchserve.backends.onnx import OnnxBackend
from batchserve.config import PreprocessConfig
from batchserve.engine.sources import find_models

PREPROCESS = PreprocessConfig(scale=images.SCALE, mean=images.MEAN, std=images.STD)


async def serve_both(serve: Serve, folder: Path, **more: Any) -> Service:
    """Serve one model twice: `plain` takes floats, `bytes` takes pixels."""
    configs = {"plain": quick(), "bytes": quick(preprocess=PREPROCESS, **more)}
    for name in configs:
        onnx_models.save(images.image_net(), folder / f"{name}.onnx")
    return await serve(OnnxBackend(), configs, sources=find_models([folder]))


def asking(datatype: str, array: images.Array) -> tuple[bytes, dict[str, str]]:
    """Build a request with one binary tensor, and how its head says so."""
    tensor = {
        "name": "image",
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


async def answer(client: RawClient, model: str, datatype: str, array: images.Array) -> images.Array:
    body, headers = asking(datatype, array)
    reply = await client.post(f"/v2/models/{model}/infer", body, headers)
    assert reply.status == 200, reply.error
    (output,) = reply.json["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


async def test_bytes_are_answered_as_the_floats_that_a_client_makes_of_them(serve: Serve, tmp_path: Path) -> None:
    service = await serve_both(serve, tmp_path)
    pixels = images.pixels(3)
    floats = images.normalised(pixels)
    async with await service.client() as client:
        expected = await answer(client, "plain", "FP32", floats)
        got = await answer(client, "bytes", "UINT8", pixels)
    assert got.shape == (3, 3, 8, 6)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert floats.nbytes == 4 * pixels.nbytes


async def test_metadata_says_what_clients_send(serve: Serve, tmp_path: Path) -> None:
    service = await serve_both(serve, tmp_path)
    async with await service.client() as client:
        (told,) = (await client.get("/v2/models/bytes")).json["inputs"]
        assert told == {"name": "image", "datatype": "UINT8", "shape": [-1, 8, 6, 3]}
        config = (await client.get("/v2/models/bytes/config")).json
    assert config["input"][0]["data_type"] == "TYPE_UINT8"
    assert config["parameters"]["batches"] == {"string_value": "true"}
    assert "image: uint8 NHWC->NCHW" in json.dumps(config["parameters"])


async def test_floats_and_other_axes_are_refused(serve: Serve, tmp_path: Path) -> None:
    service = await serve_both(serve, tmp_path)
    pixels = images.pixels(1)
    async with await service.client() as client:
        for datatype, array in (("FP32", images.normalised(pixels)), ("UINT8", pixels.transpose(0, 3, 1, 2))):
            body, headers = asking(datatype, array)
            reply = await client.post("/v2/models/bytes/infer", body, headers)
            assert reply.status == 400
            assert "image" in reply.error


async def test_images_of_one_size_share_runs_and_each_gets_its_own_answer(serve: Serve, tmp_path: Path) -> None:
    service = await serve_both(serve, tmp_path, max_queue_delay_s=0.05)
    model = service.model("bytes")
    lone = [images.pixels(1 + seed)[:1] for seed in range(8)]
    clients = [await service.client() for _ in lone]
    got = await asyncio.gather(
        *(answer(client, "bytes", "UINT8", one) for client, one in zip(clients, lone, strict=True))
    )
    for client in clients:
        await client.close()
    for one, given in zip(lone, got, strict=True):
        np.testing.assert_allclose(given, images.normalised(one) * images.weights_of(), rtol=1e-5, atol=1e-5)
    assert model.counters.executions < len(lone)
