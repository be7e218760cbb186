"""What the server says about itself and its models (protocol.md sections 2, 9, 10, 11, 12, 14, 15, 17)."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from support.http_service import ByName, Serve, infer_body, quick

from batchserve import __version__
from batchserve.backends.fake import FakeBackend
from batchserve.core.tensors import DATATYPES, TensorSpec
from batchserve.engine.sources import ModelSource


async def test_a_server_that_runs_is_live_and_ready(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        live = await client.get("/v2/health/live")
        assert (live.status, live.json) == (200, {"live": True})
        ready = await client.get("/v2/health/ready")
        assert (ready.status, ready.json) == (200, {"ready": True})
        alive = await client.get("/")
        assert (alive.status, alive.json) == (200, {"status": "alive"})


async def test_a_server_is_live_but_not_ready_while_a_model_loads(serve: Serve) -> None:
    gate = threading.Event()
    service = await serve(FakeBackend(load_gate=gate), load=False)
    loading = asyncio.create_task(service.repository.load_all())
    try:
        async with await service.client() as client:
            assert (await client.get("/v2/health/live")).json == {"live": True}
            ready = await client.get("/v2/health/ready")
            assert ready.status == 400
            assert ready.json["ready"] is False
            assert "echo" in ready.json["error"]
            assert "loading" in ready.json["error"].lower()
            gate.set()
            await loading
            assert (await client.get("/v2/health/ready")).json == {"ready": True}
    finally:
        gate.set()
        await loading


async def test_a_failed_model_makes_readiness_say_which_and_why(
    serve: Serve, expected_errors: pytest.LogCaptureFixture
) -> None:
    service = await serve(
        ByName(good=FakeBackend(), bad=FakeBackend(load_error="the graph has no outputs")),
        {"good": quick(), "bad": quick()},
    )
    async with await service.client() as client:
        ready = await client.get("/v2/health/ready")
        assert (ready.status, ready.json["ready"]) == (400, False)
        assert "bad" in ready.json["error"]
        assert "the graph has no outputs" in ready.json["error"]
        answer = await client.post("/v2/models/good/infer", infer_body(7))
        assert answer.json["outputs"][0]["data"] == [7, 7, 7, 7]


async def test_server_metadata_names_only_extensions_that_work(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.get("/v2")
    assert reply.json == {
        "name": "batchserve",
        "version": __version__,
        "extensions": [
            "binary_tensor_data",
            "model_configuration",
            "statistics",
            "parameters",
            "model_repository",
            "schedule_policy",
        ],
    }


RESIZE = FakeBackend(
    inputs=(
        TensorSpec("pixels", DATATYPES["UINT8"], (-1, 3, 64, 64)),
        TensorSpec("words", DATATYPES["BYTES"], (-1, -1)),
    ),
    outputs=(TensorSpec("score", DATATYPES["FP32"], (-1, 10)),),
)


async def test_model_metadata_shows_full_wire_shapes_in_the_models_order(serve: Serve) -> None:
    service = await serve(RESIZE, {"resize": quick()})
    async with await service.client() as client:
        expected = {
            "name": "resize",
            "versions": ["1"],
            "platform": "onnx_onnxv1",
            "inputs": [
                {"name": "pixels", "datatype": "UINT8", "shape": [-1, 3, 64, 64]},
                {"name": "words", "datatype": "BYTES", "shape": [-1, -1]},
            ],
            "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 10]}],
        }
        assert (await client.get("/v2/models/resize")).json == expected
        assert (await client.get("/v2/models/resize/versions/1")).json == expected


async def test_config_of_a_batching_model_leaves_the_batch_out_and_shows_the_scheduler(serve: Serve) -> None:
    service = await serve(RESIZE, {"resize": quick(max_batch_size=16, max_queue_delay_s=0.0005, instances=2)})
    async with await service.client() as client:
        reply = await client.get("/v2/models/resize/config")
        assert (await client.get("/v2/models/resize/versions/1/config")).json == reply.json
    config = reply.json
    assert config.pop("parameters") == {
        "batches": {"string_value": "true"},
        "batches.why": {"string_value": "the test says so"},
        "providers": {"string_value": "FakeExecutionProvider"},
        "max_queue_size": {"string_value": "1024"},
        "runtime.runtime": {"string_value": "fake"},
    }
    assert config == {
        "name": "resize",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 16,
        "input": [
            {"name": "pixels", "data_type": "TYPE_UINT8", "dims": [3, 64, 64]},
            {"name": "words", "data_type": "TYPE_STRING", "dims": [-1]},
        ],
        "output": [{"name": "score", "data_type": "TYPE_FP32", "dims": [10]}],
        "instance_group": [{"name": "resize_0", "kind": "KIND_CPU", "count": 2, "gpus": []}],
        "dynamic_batching": {"max_queue_delay_microseconds": 500},
    }


async def test_config_of_a_model_that_does_not_batch_shows_whole_shapes_and_no_scheduler(serve: Serve) -> None:
    backend = FakeBackend(
        inputs=(TensorSpec("x", DATATYPES["FP32"], (2, 3)),),
        outputs=(TensorSpec("y", DATATYPES["FP32"], (2, 3)),),
        batchable=False,
    )
    service = await serve(backend, {"whole": quick(version_policy="all")})
    async with await service.client() as client:
        config = (await client.get("/v2/models/whole/config")).json
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2, 3]}]
    assert config["parameters"]["batches"] == {"string_value": "false"}
    assert config["parameters"]["batches.why"] == {"string_value": "the test says so"}
    assert config["version_policy"] == {"all": {}}
    assert "dynamic_batching" not in config
    assert not {"sequence_batching", "ensemble_scheduling", "model_transaction_policy", "response_cache"} & set(config)


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ("latest", {"latest": {"num_versions": 1}}),
        ("latest:2", {"latest": {"num_versions": 2}}),
        ("1,3", {"specific": {"versions": [1, 3]}}),
    ],
)
async def test_config_shows_the_version_policy_as_triton_writes_it(
    serve: Serve, policy: str, shown: dict[str, object]
) -> None:
    service = await serve(FakeBackend(), {"m": quick(version_policy=policy)}, sources=[versions("m", 1, 3)])
    async with await service.client() as client:
        assert (await client.get("/v2/models/m/config")).json["version_policy"] == shown


def versions(name: str, *numbers: int) -> ModelSource:
    return ModelSource(name, {number: Path("none.onnx") for number in numbers}, None, Path("none.onnx"))


async def test_an_omitted_version_is_the_highest_that_is_ready(serve: Serve) -> None:
    service = await serve(FakeBackend(), {"m": quick(version_policy="all")}, sources=[versions("m", 2, 10)])
    async with await service.client() as client:
        assert (await client.get("/v2/models/m")).json["versions"] == ["2", "10"]
        for path, version in (("", "10"), ("/versions/2", "2"), ("/versions/10", "10")):
            answer = await client.post(f"/v2/models/m{path}/infer", infer_body(1))
            assert answer.json["model_version"] == version
        every = (await client.get("/v2/models/m/stats")).json["model_stats"]
        assert [(entry["version"], entry["inference_count"]) for entry in every] == [("2", 1), ("10", 2)]
        one = (await client.get("/v2/models/m/versions/2/stats")).json["model_stats"]
        assert one == every[:1]
        assert (await client.get("/v2/models/stats")).json["model_stats"] == every


async def test_model_readiness_tells_ready_from_known_and_from_unknown(
    serve: Serve, expected_errors: pytest.LogCaptureFixture
) -> None:
    service = await serve(
        ByName(good=FakeBackend(), bad=FakeBackend(load_error="it is corrupt")), {"good": quick(), "bad": quick()}
    )
    async with await service.client() as client:
        good = await client.get("/v2/models/good/ready")
        assert (good.status, good.json) == (200, {"name": "good", "ready": True})
        assert (await client.get("/v2/models/good/versions/1/ready")).status == 200
        bad = await client.get("/v2/models/bad/ready")
        assert (bad.status, bad.json["name"], bad.json["ready"]) == (400, "bad", False)
        assert "it is corrupt" in bad.json["error"]
        assert (await client.get("/v2/models/none/ready")).status == 404
        assert (await client.get("/v2/models/good/versions/2/ready")).status == 404


async def test_statistics_of_the_requests_that_were_served(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for values in ((1,), (2, 3)):
            await client.post("/v2/models/echo/infer", infer_body(*values))
        (entry,) = (await client.get("/v2/models/echo/stats")).json["model_stats"]
    assert (entry["name"], entry["version"]) == ("echo", "1")
    assert (entry["inference_count"], entry["execution_count"]) == (3, 2)
    assert {key: entry["inference_stats"][key]["count"] for key in entry["inference_stats"]} == {
        "success": 2,
        "fail": 0,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
        "cache_hit": 0,
        "cache_miss": 0,
    }


async def test_the_repository_index_lists_every_version_with_state_and_reason(
    serve: Serve, expected_errors: pytest.LogCaptureFixture
) -> None:
    service = await serve(
        ByName(good=FakeBackend(), bad=FakeBackend(load_error="it is corrupt")), {"good": quick(), "bad": quick()}
    )
    async with await service.client() as client:
        good = {"name": "good", "version": "1", "state": "READY", "reason": ""}
        bad = {"name": "bad", "version": "1", "state": "UNAVAILABLE", "reason": "it is corrupt"}
        for body in (b"", b"{}", b'{"ready": false}', b'{"ready": null, "other": 1}', b"  \r\n"):
            reply = await client.post("/v2/repository/index", body)
            assert (reply.status, reply.json) == (200, [bad, good]), body
        assert (await client.post("/v2/repository/index", b'{"ready": true}')).json == [good]


@pytest.mark.parametrize(
    ("body", "fragments"),
    [
        (b'{"ready": 1}', ("'ready'", "the number 1", "expected true or false")),
        (b"[]", ("an array", "expected a JSON object")),
        (b"{", ("not JSON", "expected a JSON object")),
        (b'"\xff"', ("not JSON",)),
        (b"[" * 100_000, ("not JSON",)),
    ],
)
async def test_a_bad_body_for_the_index_is_400(serve: Serve, body: bytes, fragments: tuple[str, ...]) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.post("/v2/repository/index", body)
        assert reply.status == 400
        for fragment in fragments:
            assert fragment in reply.error
        assert (await client.get("/v2/health/live")).status == 200


async def test_metrics_are_the_renderers_page_under_its_content_type(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.get("/metrics", {"Accept": "application/openmetrics-text"})
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert reply.body == b"# accept: application/openmetrics-text\n"


@pytest.mark.parametrize("family", ["systemsharedmemory", "cudasharedmemory"])
async def test_shared_memory_answers_as_what_is_not_there(serve: Serve, family: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        status = await client.get(f"/v2/{family}/status")
        assert (status.status, status.json) == (200, [])
        one = await client.get(f"/v2/{family}/region/r%20x/status")
        assert one.status == 404
        assert "'r x'" in one.error
        body = b'{"key": "/k", "byte_size": 4}'
        registered = await client.post(f"/v2/{family}/region/r/register", body)
        assert registered.status == (403 if family == "systemsharedmemory" else 400)
        assert "region 'r'" in registered.error
        for path in ("unregister", "region/r/unregister"):
            reply = await client.post(f"/v2/{family}/{path}")
            assert (reply.status, reply.json) == (200, {})


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/v2/trace/setting",
        "/v2/models/echo/trace/setting",
        "/v1/models",
        "/v1/models/echo",
        "/v1/models/echo:predict",
    ],
)
async def test_what_is_not_implemented_is_404_in_json(serve: Serve, method: str, path: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        reply = await client.ask(method, path, b"{}" if method == "POST" else None)
        assert reply.status == 404
        assert path in reply.error


GET_PATHS = [
    "/",
    "/metrics",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/stats",
    "/v2/models/echo",
    "/v2/models/echo/versions/1",
    "/v2/models/echo/ready",
    "/v2/models/echo/config",
    "/v2/models/echo/stats",
    "/v2/systemsharedmemory/status",
]


@pytest.mark.parametrize("path", GET_PATHS)
async def test_head_gives_the_head_of_get_without_its_body(serve: Serve, path: str) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        get = await client.get(path)
        head = await client.ask("HEAD", path)
        assert head.status == get.status == 200
        for name in ("content-type", "content-length"):
            assert head.headers[name] == get.headers[name]
        assert (await client.get(path)).body == get.body  # nothing of the HEAD's body is in the way


async def test_answers_name_batchserve_and_not_its_libraries(serve: Serve) -> None:
    service = await serve(FakeBackend())
    async with await service.client() as client:
        for path in ("/v2", "/none", "/metrics"):
            assert (await client.get(path)).headers["server"] == f"batchserve/{__version__}"


async def test_the_access_log_has_one_record_for_each_request(serve: Serve) -> None:
    service = await serve(FakeBackend(), with_access_log=True)
    async with await service.client() as client:
        replies = [
            await client.get("/v2/health/live?x=1"),
            await client.get("/nowhere"),
            await client.post("/v2/models/echo/infer", infer_body(1)),
        ]
    seen = [(access["method"], access["path"], access["status"]) for access in service.accesses]
    assert seen == [("GET", "/v2/health/live", 200), ("GET", "/nowhere", 404), ("POST", "/v2/models/echo/infer", 200)]
    for access, reply in zip(service.accesses, replies, strict=True):
        assert access["remote"] == "127.0.0.1"
        assert isinstance(access["duration_s"], float)
        assert 0 < access["duration_s"] < 10
        assert isinstance(access["sent_bytes"], int)
        assert access["sent_bytes"] > len(reply.body)


async def test_a_bug_is_500_with_generic_text_and_its_traceback_in_the_log(
    serve: Serve, expected_errors: pytest.LogCaptureFixture
) -> None:
    def broken(model: object) -> dict[str, object]:
        raise KeyError("/secret/path")

    service = await serve(FakeBackend(), entry=broken)
    async with await service.client() as client:
        reply = await client.get("/v2/models/echo/stats")
        assert (reply.status, reply.error) == (500, "internal error; the server's log has the details")
        (record,) = [r for r in expected_errors.records if r.name.startswith("batchserve.frontend")]
        assert "/v2/models/echo/stats" in record.getMessage()
        assert record.exc_info is not None
        assert (await client.get("/v2/health/live")).status == 200


async def test_answers_come_while_a_model_is_busy(serve: Serve) -> None:
    backend = FakeBackend()
    service = await serve(backend)
    held = service.hold(backend)
    async with await service.client() as waiting, await service.client() as client:
        asked = asyncio.create_task(waiting.post("/v2/models/echo/infer", infer_body(1)))
        await held.begun(1)
        assert (await client.get("/v2/health/live")).status == 200
        assert (await client.get("/v2/models/echo")).status == 200
        held.let_go()
        assert (await asked).status == 200
