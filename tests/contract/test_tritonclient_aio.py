"""tritonclient's asyncio HTTP client, unmodified, against a whole server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from support.live_server import LiveServer, live_server
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

ROWS = np.arange(12, dtype=np.int64).reshape(3, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("models")) as server:
        yield server


@pytest.fixture
async def client(server: LiveServer) -> AsyncIterator[InferenceServerClient]:
    async with InferenceServerClient(server.address) as client:
        yield client


def given(name: str, datatype: str, array: np.ndarray[Any, Any], *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


async def test_health(client: InferenceServerClient) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("two", "2")
    assert not await client.is_model_ready("none")


async def test_metadata_config_statistics_and_index(client: InferenceServerClient) -> None:
    assert (await client.get_server_metadata())["name"] == "batchserve"
    metadata = await client.get_model_metadata("sums")
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["total", "b_twice", "a_copy"]
    config = await client.get_model_config("sums", "1")
    assert (config["name"], config["max_batch_size"]) == ("sums", 32)
    (entry,) = (await client.get_inference_statistics("sums"))["model_stats"]
    assert (entry["name"], int(entry["version"])) == ("sums", 1)
    assert len((await client.get_inference_statistics())["model_stats"]) == 6
    assert {"name": "two", "version": "1", "state": "READY", "reason": ""} in await client.get_model_repository_index()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
async def test_infer_in_json_and_binary(client: InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    result = await client.infer(
        "same",
        [given("x", "INT64", ROWS, binary=binary_in)],
        outputs=[InferRequestedOutput("y", binary_data=binary_out)],
        request_id="r",
    )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS)
    assert result.get_response()["id"] == "r"


async def test_partial_outputs(client: InferenceServerClient) -> None:
    a, b = np.zeros((2, 3), np.float32), np.ones((2, 2), np.int64)
    inputs = [given("a", "FP32", a, binary=False), given("b", "INT64", b)]
    result = await client.infer("sums", inputs, outputs=[InferRequestedOutput("b_twice")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["b_twice"]
    np.testing.assert_array_equal(result.as_numpy("b_twice"), 2 * b)


async def test_strings(client: InferenceServerClient) -> None:
    words = np.array([["a", "é"]], np.object_)
    result = await client.infer("shout", [given("x", "BYTES", words)])
    assert [word.decode() for word in result.as_numpy("y").ravel()] == ["a!", "é!"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
async def test_compression(client: InferenceServerClient, coding: str, binary: bool) -> None:
    """Its HTTP library says `Accept-Encoding: gzip, deflate` by itself, and inflates what comes back."""
    array = np.arange(4 * 600, dtype=np.int64).reshape(600, 4)
    for response_coding in (coding, None):
        result = await client.infer(
            "same",
            [given("x", "INT64", array, binary=binary)],
            outputs=[InferRequestedOutput("y", binary_data=binary)],
            request_compression_algorithm=coding,
            response_compression_algorithm=response_coding,
        )
        np.testing.assert_array_equal(result.as_numpy("y"), array)


async def test_many_requests_at_once(client: InferenceServerClient) -> None:
    arrays = [np.full((1 + i % 5, 4), i, np.int64) for i in range(64)]
    results = await asyncio.gather(*(client.infer("same", [given("x", "INT64", array)]) for array in arrays))
    for array, result in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(result.as_numpy("y"), array)


@pytest.mark.parametrize(
    ("model", "array", "status", "word"),
    [("none", ROWS, "404", "none"), ("same", ROWS[:, :2].copy(), "400", "[3,2]")],
)
async def test_errors(
    client: InferenceServerClient, model: str, array: np.ndarray[Any, Any], status: str, word: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(model, [given("x", "INT64", array)])
    assert caught.value.status() == status
    assert word in caught.value.message()
    assert await client.is_server_live()


async def test_priority_and_timeout(client: InferenceServerClient) -> None:
    result = await client.infer("same", [given("x", "INT64", ROWS)], priority=2, timeout=10_000_000)
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS)
    with pytest.raises(InferenceServerException) as caught:
        await client.load_model("same")
    assert caught.value.status() == "403"
