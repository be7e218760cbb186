"""Loading: what each kind of bad file says, types that cannot be served, declarations, options."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from support import onnx_models as models

from batchserve.backends import runtime
from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.onnx import OnnxBackend, require_runtime
from batchserve.config import DeclaredTensor, ModelConfig
from batchserve.errors import ConfigError, ModelLoadError, ProviderUnavailable


def refusal(path: Path, config: ModelConfig | None = None) -> str:
    """Load a file that cannot be loaded and return the reason, which never holds a path."""
    with pytest.raises(ModelLoadError) as caught:
        OnnxBackend().load(ModelFile("m", 1, path), config or ModelConfig())
    text = str(caught.value)
    assert str(path.parent) not in text
    assert "site-packages" not in text
    assert "\n" not in text
    return text


def refused_model(tmp_path: Path, proto: object, **config: object) -> str:
    return refusal(models.save(proto, tmp_path / "model.onnx"), ModelConfig(**config))


def test_missing_file(tmp_path: Path):
    assert "missing" in refusal(tmp_path / "model.onnx")


def test_folder_in_place_of_a_file(tmp_path: Path):
    (tmp_path / "model.onnx").mkdir()
    assert "is a folder" in refusal(tmp_path / "model.onnx")


def test_empty_file(tmp_path: Path):
    (tmp_path / "model.onnx").touch()
    assert "empty" in refusal(tmp_path / "model.onnx")


def test_git_lfs_pointer(tmp_path: Path):
    (tmp_path / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "git lfs pull" in refusal(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"this is no model", b"\x00" * 64, bytes(range(256)) * 8, b"PK\x03\x04" * 9])
def test_other_files(tmp_path: Path, content: bytes):
    (tmp_path / "model.onnx").write_bytes(content)
    text = refusal(tmp_path / "model.onnx")
    assert f"({len(content)} bytes) is not an ONNX model, or is cut short" in text


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_model(tmp_path: Path, share: float):
    whole = models.mlp().SerializeToString()
    (tmp_path / "model.onnx").write_bytes(whole[: int(len(whole) * share)])
    assert "cut short" in refusal(tmp_path / "model.onnx")


def test_too_new_a_model_says_what_to_do(tmp_path: Path):
    proto = models.mlp()
    proto.ir_version = 99
    text = refused_model(tmp_path, proto)
    assert "99" in text
    assert "Upgrade ONNX Runtime" in text


def test_unknown_operator_is_named(tmp_path: Path):
    assert "example.org:Frobnicate" in refused_model(tmp_path, models.unknown_operator())


@pytest.mark.parametrize("location", ["weights.bin", "../outside/weights.bin"])
def test_external_weights_that_are_not_there(tmp_path: Path, location: str):
    text = refused_model(tmp_path, models.external_weights(location))
    assert "weights.bin" in text
    assert str(tmp_path.parent) not in text


def test_external_weights_beside_the_model_load(tmp_path: Path):
    (tmp_path / "weights.bin").write_bytes(b"\x00\x00\x80\x3f" * 4)
    path = models.save(models.external_weights(), tmp_path / "model.onnx")
    session = OnnxBackend().load(ModelFile("m", 1, path), ModelConfig())
    assert session.batchability.is_batchable
    session.close()


def test_relative_path_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    models.save(models.mlp(), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    OnnxBackend().load(ModelFile("m", 1, Path("model.onnx")), ModelConfig()).close()
    Path("model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelLoadError, match="not an ONNX model"):
        OnnxBackend().load(ModelFile("m", 1, Path("model.onnx")), ModelConfig())


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (models.zipmap(), ["output 'y'", "seq(map(int64,tensor(float)))", "without ZipMap"]),
        (models.sequence(), ["output 'y'", "seq(tensor(float))", "inside the model"]),
        (models.optional(), ["input 'x'", "optional(tensor(float))", "plain tensor"]),
        (models.identity(TensorProto.BFLOAT16), ["input 'x'", "tensor(bfloat16)", "cast it to float"]),
    ],
    ids=["zipmap", "sequence", "optional", "bfloat16"],
)
def test_type_that_is_no_tensor_names_tensor_type_and_remedy(tmp_path: Path, proto: object, words: list[str]):
    text = refused_model(tmp_path, proto)
    for word in words:
        assert word in text


@pytest.mark.parametrize("element", [TensorProto.COMPLEX64, TensorProto.FLOAT8E4M3FN, TensorProto.INT4])
def test_type_the_runtime_refuses_is_named(tmp_path: Path, element: int):
    name = {TensorProto.COMPLEX64: "complex64", TensorProto.FLOAT8E4M3FN: "float8e4m3fn", TensorProto.INT4: "int4"}
    assert f"tensor({name[element]})" in refused_model(tmp_path, models.identity(element))


def test_optional_inputs_with_defaults_are_left_out(load):
    session = load(models.overridable())
    assert [spec.name for spec in session.inputs] == ["x"]
    assert session.batchability.is_batchable


def test_shapes_show_what_is_free(load):
    session = load(models.masked_mean())
    assert [spec.shape for spec in session.inputs] == [(-1, -1), (-1, -1)]
    assert session.outputs[0].shape == (-1, 3)


def test_unknown_output_rank_is_learnt_from_a_run(load):
    session = load(models.unknown_output_rank())
    assert session.outputs[0].shape == (-1, -1)
    assert session.batchability.is_batchable


def test_unknown_input_rank_needs_a_declaration(tmp_path: Path, load):
    proto = models.one_op("Relu", shape=None, out=None)
    text = refused_model(tmp_path, proto)
    assert "input 'x' has no shape" in text
    session = load(proto, inputs=(DeclaredTensor("x", dims=(3,), leaves_out_batch=True),))
    assert session.inputs[0].shape == (-1, 3)
    assert session.outputs[0].shape == (-1, -1)
    assert session.batchability.is_batchable


def declared(**config: tuple[DeclaredTensor, ...]) -> dict[str, tuple[DeclaredTensor, ...]]:
    return config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (declared(inputs=(DeclaredTensor("X"),)), ["input 'X'", "did you mean 'x'?", "its inputs are x"]),
        (declared(outputs=(DeclaredTensor("z"),)), ["output 'z'", "its outputs are y"]),
        (declared(inputs=(DeclaredTensor("x", "TYPE_INT64"),)), ["input 'x'", "TYPE_INT64", "TYPE_FP32"]),
        (declared(inputs=(DeclaredTensor("x", dims=(5,), leaves_out_batch=True),)), ["input 'x'", "[5]", "[-1, 16]"]),
        (declared(inputs=(DeclaredTensor("x", dims=(-1,), leaves_out_batch=True),)), ["input 'x'", "[-1]", "[-1, 16]"]),
        (declared(inputs=(DeclaredTensor("x", dims=(16,)),)), ["[16]", "[-1, 16]", "every axis, the batch axis too"]),
        (declared(outputs=(DeclaredTensor("y", dims=(4, 1), leaves_out_batch=True),)), ["'y'", "[4, 1]", "[-1, 4]"]),
    ],
)
def test_declaration_that_differs_says_declared_and_found(tmp_path: Path, config: dict[str, object], words: list[str]):
    text = refused_model(tmp_path, models.mlp(), **config)
    for word in words:
        assert word in text


def test_declaring_an_overridable_input_says_to_remove_it(tmp_path: Path):
    text = refused_model(tmp_path, models.overridable(), inputs=(DeclaredTensor("k"),))
    assert "has a default value" in text


def test_declaration_that_agrees_is_taken(load):
    session = load(
        models.mlp(),
        max_batch_size=8,
        inputs=(DeclaredTensor("x", "TYPE_FP32", (16,), leaves_out_batch=True),),
        outputs=(DeclaredTensor("y", "TYPE_FP32", (-1, 4)),),
    )
    assert session.inputs[0].shape == (-1, 16)
    assert session.batchability.is_batchable


def test_declared_size_narrows_a_free_axis(load):
    session = load(models.square(), inputs=(DeclaredTensor("x", dims=(9,), leaves_out_batch=True),))
    assert session.inputs[0].shape == (-1, 9)
    assert session.sample(2)[0].shape == (2, 9)


def test_declared_batch_of_one_switches_batching_off(load):
    session = load(models.square(), inputs=(DeclaredTensor("x", dims=(1, -1)),))
    assert session.inputs[0].shape == (1, -1)
    assert not session.batchability.is_batchable
    assert "fixed size 1" in session.batchability.why


def test_importing_the_backend_does_not_import_the_runtime():
    code = "import sys, batchserve.backends.onnx; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_runtime_names_both_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError) as caught:
        require_runtime()
    text = str(caught.value)
    assert "batchserve[cpu]" in text
    assert "batchserve[gpu]" in text
    assert "\n" not in text
    assert refused_model(tmp_path, models.mlp()) == text


def test_half_removed_runtime_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    with pytest.raises(ConfigError, match="incomplete"):
        require_runtime()


def test_options_of_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = {}
    real = onnxruntime.InferenceSession

    def record(path: str, options: onnxruntime.SessionOptions, **arguments: object) -> object:
        seen.update(path=path, options=options, **arguments)
        return real(path, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    monkeypatch.setattr("batchserve.backends.cores.usable_cores", lambda: 6)
    path = models.save(models.mlp(), tmp_path / "model.onnx")
    OnnxBackend().load(ModelFile("m", 1, path), ModelConfig(instances=2)).close()
    options = seen["options"]
    assert seen["path"] == str(path)
    assert seen["enable_fallback"] == 0
    assert seen["providers"] == ["CPUExecutionProvider"]
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.enable_mem_pattern is False
    assert options.enable_cpu_mem_arena is True
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

    fixed = models.save(models.fixed_batch(), tmp_path / "fixed.onnx")
    OnnxBackend().load(ModelFile("m", 1, fixed), ModelConfig(instances=9, spinning="short")).close()
    assert seen["options"].intra_op_num_threads == 1
    assert seen["options"].enable_mem_pattern is True
    assert seen["options"].get_session_config_entry("session.intra_op.spin_duration_us") == "200"

    OnnxBackend().load(ModelFile("m", 1, fixed), ModelConfig(intra_op_threads=5, spinning="on")).close()
    assert seen["options"].intra_op_num_threads == 5
    assert seen["options"].get_session_config_entry("session.intra_op.allow_spinning") == "1"


def test_session_is_opened_again_with_other_threads_and_nothing_is_proved_again(tmp_path: Path):
    path = models.save(models.mlp(), tmp_path / "model.onnx")
    session = OnnxBackend().load(ModelFile("m", 1, path), ModelConfig(intra_op_threads=2))
    again = session.reopen(Layout(1, 1))
    assert (session.layouts[0].threads, again.layouts) == (2, (Layout(1, 1),))
    assert again.facts == {**session.facts, "intra_op_threads": "1"}, "the seconds of the proof are the first one's"
    assert again.batchability == session.batchability
    inputs = session.sample(3)
    assert np.allclose(session.run(inputs, 1)[0], again.run(inputs, 1)[0])
    session.close()
    assert again.run(inputs, 1)[0].shape[0] == 3, "neither needs the other"
    again.close()


def test_sessions_are_made_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = onnxruntime.InferenceSession
    inside, most = 0, 0

    def record(*arguments: object, **options: object) -> object:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        session = real(*arguments, **options)
        inside -= 1
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    path = models.save(models.mlp((256, 1024, 256)), tmp_path / "model.onnx")
    errors = []

    def load() -> None:
        try:
            OnnxBackend().load(ModelFile("m", 1, path), ModelConfig()).close()
        except ModelLoadError as error:
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert most == 1


def test_provider_that_is_not_compiled_in(tmp_path: Path):
    text = refused_model(tmp_path, models.mlp(), providers=("cuda", "cpu"))
    assert "'cuda'" in text
    assert "CPUExecutionProvider" in text
    assert "batchserve[gpu]" in text


def test_provider_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    """A provider that is compiled in but whose libraries are missing is only a log line to the runtime."""
    real = onnxruntime.InferenceSession

    def without_cuda(
        path: str, options: object, *, providers: list[str], provider_options: list[object], **rest: object
    ):
        kept = [(name, value) for name, value in zip(providers, provider_options, strict=True) if "CUDA" not in name]
        return real(path, options, providers=[n for n, _ in kept], provider_options=[v for _, v in kept], **rest)

    preloaded = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda **where: preloaded.append(where), raising=False)
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    text = refused_model(tmp_path, models.mlp(), providers=("cuda", "cpu"))
    assert "CUDAExecutionProvider could not be started" in text
    assert "CPUExecutionProvider" in text
    assert preloaded == [{"directory": ""}]

    monkeypatch.setattr("batchserve.backends.providers.cuda_devices", lambda: 1)
    monkeypatch.setattr("batchserve.backends.cores.usable_cores", lambda: 5)
    session = OnnxBackend().load(ModelFile("m", 1, tmp_path / "model.onnx"), ModelConfig(providers=("auto",)))
    assert session.providers == ("CPUExecutionProvider",)
    assert session.facts["intra_op_threads"] == "5"
    assert "could not be started" in caplog.text
    session.close()


def test_device_that_the_runtime_does_not_have_is_a_reason(tmp_path: Path):
    """A device that is named must be used: no quiet run on another one."""
    assert "provider 'openvino' is not in the installed" in refused_model(tmp_path, models.mlp(), device="openvino")
    assert "write 'cpu'" in refused_model(tmp_path, models.mlp(), device="cpu:1")


def test_device_is_told_to_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`cuda:1` becomes CUDA's option `device_id`; a stand-in is needed where there is no such device."""
    real, seen = onnxruntime.InferenceSession, []

    def record(path: str, options: onnxruntime.SessionOptions, **arguments: object) -> object:
        seen.append((arguments["providers"], arguments["provider_options"]))
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert "CUDAExecutionProvider could not be started" in refused_model(tmp_path, models.mlp(), device="cuda:1")
    OnnxBackend().load(ModelFile("m", 1, tmp_path / "model.onnx"), ModelConfig(device="cpu")).close()
    assert seen == [
        (["CUDAExecutionProvider"], [{"device_id": "1", "cudnn_conv_algo_search": "HEURISTIC"}]),
        (["CPUExecutionProvider"], [{}]),
    ]


def test_provider_that_is_missing_is_an_error_unless_the_cpu_may_take_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = ModelFile("m", 1, models.save(models.mlp(), tmp_path / "model.onnx"))
    for asked in (ModelConfig(providers=("qnn",)), ModelConfig(device="qnn"), ModelConfig(providers=("qnn", "cpu"))):
        with pytest.raises(ProviderUnavailable, match="'qnn' is not in the installed ONNX Runtime"):
            OnnxBackend().load(file, asked)
        session = OnnxBackend().load(file, replace(asked, fallback="cpu", provider_options=(("qnn", ()),)))
        assert session.providers == ("CPUExecutionProvider",)
        assert session.run(session.sample(1), 1)
        session.reopen(Layout(1, 1)).close()
        session.close()
    assert "runs on the CPU, as fallback allows: provider 'qnn'" in caplog.text


def test_fallback_is_not_for_other_failures(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(ModelLoadError, match="is not an ONNX model"):
        OnnxBackend().load(ModelFile("m", 1, tmp_path / "model.onnx"), ModelConfig(fallback="cpu"))


def test_two_runtimes_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(runtime, "installed_packages", lambda: [("onnxruntime", "1"), ("onnxruntime-gpu", "2")])
    runtime._warn_of_several.cache_clear()
    require_runtime()
    require_runtime()
    assert caplog.text.count("onnxruntime and onnxruntime-gpu overwrite each other's files") == 1
    runtime._warn_of_several.cache_clear()
