"""tritonclient's HTTP client, unmodified, against a whole server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.live_server import LiveServer, live_server
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

ROWS = np.arange(12, dtype=np.int64).reshape(3, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("models")) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.address, concurrency=8) as client:
        yield client


def given(name: str, datatype: str, array: np.ndarray[Any, Any], *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_health(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("same")
    assert client.is_model_ready("two", "1")
    assert not client.is_model_ready("two", "3")
    assert not client.is_model_ready("none")


def test_metadata(client: InferenceServerClient) -> None:
    assert client.get_server_metadata()["name"] == "batchserve"
    assert client.get_model_metadata("sums") == {
        "name": "sums",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "b", "datatype": "INT64", "shape": [-1, 2]},
        ],
        "outputs": [
            {"name": "total", "datatype": "FP32", "shape": [-1, 1]},
            {"name": "b_twice", "datatype": "INT64", "shape": [-1, 2]},
            {"name": "a_copy", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    assert client.get_model_metadata("two", "1")["versions"] == ["1", "2"]


def test_config(client: InferenceServerClient) -> None:
    config = client.get_model_config("sums")
    metadata = client.get_model_metadata("sums")
    assert config["max_batch_size"] == 32
    assert "dynamic_batching" in config
    for mine, theirs in (("input", "inputs"), ("output", "outputs")):
        assert [tensor["name"] for tensor in config[mine]] == [tensor["name"] for tensor in metadata[theirs]]
        assert [[-1, *tensor["dims"]] for tensor in config[mine]] == [tensor["shape"] for tensor in metadata[theirs]]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer_in_json_and_binary(client: InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    result = client.infer(
        "same",
        [given("x", "INT64", ROWS, binary=binary_in)],
        outputs=[InferRequestedOutput("y", binary_data=binary_out)],
        request_id="r-17",
    )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("same", "1", "r-17")


def test_all_outputs_come_back_when_none_is_named(client: InferenceServerClient) -> None:
    a, b = np.array([[1, 2, 3.5]], np.float32), np.array([[4, 5]], np.int64)
    result = client.infer("sums", [given("a", "FP32", a), given("b", "INT64", b, binary=False)])
    np.testing.assert_array_equal(result.as_numpy("total"), [[6.5]])
    np.testing.assert_array_equal(result.as_numpy("b_twice"), 2 * b)
    np.testing.assert_array_equal(result.as_numpy("a_copy"), a)


def test_only_the_outputs_that_are_named_come_back(client: InferenceServerClient) -> None:
    a, b = np.zeros((2, 3), np.float32), np.ones((2, 2), np.int64)
    outputs = [InferRequestedOutput("a_copy", binary_data=False), InferRequestedOutput("b_twice", binary_data=True)]
    result = client.infer("sums", [given("a", "FP32", a), given("b", "INT64", b)], outputs=outputs)
    assert {output["name"] for output in result.get_response()["outputs"]} == {"a_copy", "b_twice"}
    np.testing.assert_array_equal(result.as_numpy("b_twice"), 2 * b)
    np.testing.assert_array_equal(result.as_numpy("a_copy"), a)
    assert result.as_numpy("total") is None


@pytest.mark.parametrize("binary", [True, False])
def test_strings(client: InferenceServerClient, binary: bool) -> None:
    words = np.array([["a", "é"], ["", "long " * 100]], np.object_)
    result = client.infer(
        "shout",
        [given("x", "BYTES", words, binary=binary)],
        outputs=[InferRequestedOutput("y", binary_data=binary)],
    )
    got = [word.decode() if isinstance(word, bytes) else word for word in result.as_numpy("y").ravel()]
    assert got == [f"{word}!" for word in words.ravel()]


@pytest.mark.parametrize("version", ["1", "2", ""])
def test_a_version_can_be_named(client: InferenceServerClient, version: str) -> None:
    array = np.ones((1, 4), np.float32)
    result = client.infer("two", [given("x", "FP32", array)], model_version=version)
    np.testing.assert_array_equal(result.as_numpy("y"), array + 1)
    assert result.get_response()["model_version"] == (version or "2")


@pytest.mark.parametrize("request_coding", ["gzip", "deflate", None])
@pytest.mark.parametrize("response_coding", ["gzip", "deflate", None])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(
    client: InferenceServerClient, request_coding: str | None, response_coding: str | None, binary: bool
) -> None:
    array = np.arange(4 * 600, dtype=np.int64).reshape(600, 4)
    result = client.infer(
        "same",
        [given("x", "INT64", array, binary=binary)],
        outputs=[InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_parameters_priority_and_timeout_are_taken(client: InferenceServerClient) -> None:
    result = client.infer(
        "same",
        [given("x", "INT64", ROWS)],
        priority=1,
        timeout=30_000_000,
        parameters={"tenant": "blue", "level": 3, "ratio": 0.5, "flag": True},
        sequence_id=7,
        sequence_start=True,
        sequence_end=True,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS)


def test_a_timeout_that_passes_is_504(server: LiveServer, client: InferenceServerClient) -> None:
    """Another thread's request keeps the model busy meanwhile."""
    gate = server.slow.gate = threading.Event()
    answers: list[Any] = []

    def keep_busy() -> None:
        with InferenceServerClient(server.address) as other:
            answers.append(other.infer("slow", [given("x", "INT64", ROWS)]).as_numpy("y"))

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        assert server.slow.wait_for_runs(1)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("slow", [given("x", "INT64", ROWS)], timeout=20_000)
        assert caught.value.status() == "504"
        assert "slow" in caught.value.message()
    finally:
        gate.set()
        busy.join(20)
    np.testing.assert_array_equal(answers[0], ROWS)


def test_many_requests_at_once(client: InferenceServerClient) -> None:
    arrays = [np.full((1 + i % 5, 4), i, np.int64) for i in range(64)]
    asked = [
        client.async_infer("same", [given("x", "INT64", array)], request_id=str(i)) for i, array in enumerate(arrays)
    ]
    for i, (array, request) in enumerate(zip(arrays, asked, strict=True)):
        result = request.get_result(timeout=20)
        np.testing.assert_array_equal(result.as_numpy("y"), array)
        assert result.get_response()["id"] == str(i)


def test_statistics(client: InferenceServerClient) -> None:
    (before,) = client.get_inference_statistics("same")["model_stats"]
    client.infer("same", [given("x", "INT64", ROWS)])
    (after,) = client.get_inference_statistics("same", "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    for key in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][key]["count"] - before["inference_stats"][key]["count"] == 1
    every = client.get_inference_statistics()["model_stats"]
    assert [(entry["name"], entry["version"]) for entry in every] == [
        ("same", "1"),
        ("shout", "1"),
        ("slow", "1"),
        ("sums", "1"),
        ("two", "1"),
        ("two", "2"),
    ]


def test_index(client: InferenceServerClient) -> None:
    index = client.get_model_repository_index()
    assert {"name": "two", "version": "2", "state": "READY", "reason": ""} in index
    assert len(index) == 6


@pytest.mark.parametrize(
    ("model", "array", "status", "words"),
    [
        ("none", ROWS, "404", ("none",)),
        ("same", ROWS.astype(np.float32), "400", ("'x'", "FP32", "INT64")),
        ("same", ROWS[:, :3].copy(), "400", ("'x'", "[3,3]", "[-1,4]")),
        ("same", ROWS[:0], "400", ("'x'", "[0,4]")),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_errors_come_with_status_and_reason(
    client: InferenceServerClient,
    model: str,
    array: np.ndarray[Any, Any],
    status: str,
    words: tuple[str, ...],
    binary: bool,
) -> None:
    datatype = {"int64": "INT64", "float32": "FP32"}[array.dtype.name]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [given("x", datatype, array, binary=binary)])
    assert caught.value.status() == status
    for word in words:
        assert word in caught.value.message()
    np.testing.assert_array_equal(client.infer("same", [given("x", "INT64", ROWS)]).as_numpy("y"), ROWS)


def test_an_unknown_output_and_an_unknown_version_are_told(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="'z'") as caught:
        client.infer("same", [given("x", "INT64", ROWS)], outputs=[InferRequestedOutput("z")])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="version") as caught:
        client.infer("same", [given("x", "INT64", ROWS)], model_version="9")
    assert caught.value.status() == "404"


def test_what_is_switched_off_or_absent_is_told_in_words(client: InferenceServerClient) -> None:
    for call, status in (
        (lambda: client.load_model("same"), "403"),
        (lambda: client.unload_model("same"), "403"),
        (lambda: client.register_system_shared_memory("r", "/r", 4), "403"),
        (lambda: client.register_cuda_shared_memory("r", b"x" * 64, 0, 4), "400"),
        (lambda: client.get_system_shared_memory_status("r"), "404"),
        (lambda: client.get_trace_settings(), "404"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == status
        assert caught.value.debug_details() is None, "the client could read the error"
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_system_shared_memory()
    client.unregister_system_shared_memory("r")
    client.unregister_cuda_shared_memory()


def test_models_are_loaded_and_unloaded_where_that_is_allowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        live_server(tmp_path_factory.mktemp("admin"), admin=True) as server,
        InferenceServerClient(server.address) as client,
    ):
        client.unload_model("same")
        assert not client.is_model_ready("same")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("same", [given("x", "INT64", ROWS)])
        assert caught.value.status() == "503"
        client.load_model("same")
        assert client.is_model_ready("same")
        np.testing.assert_array_equal(client.infer("same", [given("x", "INT64", ROWS)]).as_numpy("y"), ROWS)
        with pytest.raises(InferenceServerException, match="'config' is not supported"):
            client.load_model("same", config="{}")
        with pytest.raises(InferenceServerException, match="'none'"):
            client.load_model("none")


def test_log_settings_are_read_and_changed(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = logging.getLogger()
    level = root.level
    try:
        with (
            live_server(tmp_path_factory.mktemp("logs"), admin=True) as server,
            InferenceServerClient(server.address) as client,
        ):
            before = client.get_log_settings()
            assert before["log_info"] is True
            after = client.update_log_settings({"log_info": False, "log_verbose_level": 1})
            assert after == {**before, "log_info": False, "log_verbose_level": 1}
            assert client.get_log_settings() == after
            with pytest.raises(InferenceServerException, match="log_verbose_level"):
                client.update_log_settings({"log_verbose_level": -1})
    finally:
        root.setLevel(level)


def test_log_settings_are_read_only_without_control(client: InferenceServerClient) -> None:
    assert "log_format" in client.get_log_settings()
    with pytest.raises(InferenceServerException, match=r"server\.admin"):
        client.update_log_settings({"log_info": False})
