"""What becomes of models in ONNX Runtime's tools, and how a converted model is held against its original."""

from __future__ import annotations

import builtins
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import image_models, onnx_models, sequence_models

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.onnx import OnnxBackend, OnnxSession
from batchserve.config import ModelConfig
from batchserve.conversion import comparison, tools
from batchserve.conversion.comparison import compare_answers, compare_loads, compare_speed
from batchserve.conversion.questions import Questions
from batchserve.conversion.recorded import read_folder
from batchserve.core.tensors import DATATYPES, TensorSpec
from batchserve.errors import BackendError, ConversionError

MLP = onnx_models.mlp((16, 64, 64, 4))


def opened(path: Path) -> OnnxSession:
    return OnnxBackend().load(ModelFile("m", 1, path), ModelConfig(instances=1))


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return onnx_models.save(MLP, tmp_path / "mlp.onnx")


def calibration() -> list[dict[str, Any]]:
    return [{"x": np.random.default_rng(seed).normal(size=(8, 16)).astype(np.float32)} for seed in range(4)]


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


# The tools.


@pytest.mark.parametrize(
    ("method", "wanted", "batches"),
    [
        ("int8-dynamic", {"DynamicQuantizeLinear", "MatMulInteger"}, False),
        ("int8-static", {"QuantizeLinear", "DequantizeLinear"}, True),
        ("fp16", {"Cast"}, True),
        ("optimize", {"MatMul"}, True),
    ],
)
def test_each_method_makes_a_model_of_its_kind_that_answers_nearly_the_same(
    mlp: Path, method: str, wanted: set[str], batches: bool
) -> None:
    """The server's own proof says what batches: dynamic scales are the batch's, so that model does not."""
    target = mlp.with_name("out.onnx")
    tools.convert(mlp, target, method, calibration())
    assert wanted <= operators(target)
    original, converted = opened(mlp), opened(target)
    assert converted.inputs == original.inputs
    assert converted.batchability.is_batchable == batches, converted.batchability.why
    (found,) = compare_answers(original, converted, [[one["x"]] for one in calibration()])
    assert found.relative is not None
    assert found.relative < 0.05
    assert found.not_finite == 0
    assert (found.max_difference == 0) == (method == "optimize")
    original.close()
    converted.close()


@pytest.mark.parametrize("opset", [11, 12, 13, 18])
def test_static_quantisation_of_older_opsets_gives_a_model_that_loads(tmp_path: Path, opset: int) -> None:
    proto = onnx_models.mlp((16, 8))
    proto.opset_import[0].version = opset
    source = onnx_models.save(proto, tmp_path / "old.onnx")
    tools.convert(source, tmp_path / "out.onnx", "int8-static", calibration())
    opened(tmp_path / "out.onnx").close()


def convolution() -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    inputs = [onnx_models.tensor("x", TensorProto.FLOAT, ("batch", 3, 8, 8))]
    return onnx_models.model([node], inputs, [onnx_models.tensor("y", TensorProto.FLOAT, None)], {"w": weights})


def test_optimised_graph_has_operators_fused(tmp_path: Path) -> None:
    proto = convolution()
    proto.graph.node[0].output[0] = "inner"
    proto.graph.node.append(helper.make_node("Relu", ["inner"], ["y"]))
    source = onnx_models.save(proto, tmp_path / "conv.onnx")
    tools.convert(source, tmp_path / "out.onnx", "optimize")
    assert operators(tmp_path / "out.onnx") == {"FusedConv"}


def test_convolutions_are_left_to_static_quantisation(tmp_path: Path) -> None:
    source = onnx_models.save(convolution(), tmp_path / "conv.onnx")
    with pytest.raises(ConversionError, match=r"nothing in the model can be quantised \(convolutions .* static\)"):
        tools.convert(source, tmp_path / "out.onnx", "int8-dynamic")
    assert not (tmp_path / "out.onnx").exists()


def test_weights_in_another_file_count_and_become_part_of_the_one_written(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save_model(
        onnx_models.mlp((16, 64, 4)), source, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    whole = tools.whole_size_bytes(source)
    assert whole == source.stat().st_size + (tmp_path / "w.bin").stat().st_size
    (tmp_path / "out").mkdir()
    tools.convert(source, tmp_path / "out" / "model.onnx", "fp16")
    opened(tmp_path / "out" / "model.onnx").close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_model_too_large_for_one_message_is_refused(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MOST_BYTES", 1000)
    with pytest.raises(ConversionError, match=r"can be converted: call onnxruntime\.quantization with"):
        tools.convert(mlp, mlp.with_name("out.onnx"), "fp16")


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save_model(onnx_models.mlp((16, 4)), source, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ConversionError, match=r"w\.bin: No such file"):
        tools.convert(source, tmp_path / "out.onnx", "fp16")


def test_what_the_tools_say_is_told(mlp: Path) -> None:
    with pytest.raises(ConversionError, match=r"ONNX Runtime's tools failed on it: .+"):
        tools.convert(mlp, mlp.with_name("out.onnx"), "int8-static", [])
    mlp.write_bytes(b"rubbish")
    with pytest.raises(ConversionError, match=r"ONNX Runtime's tools failed on it: .+"):
        tools.convert(mlp, mlp.with_name("out.onnx"), "fp16")


def test_missing_package_is_named(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConversionError, match=r"needs the package onnx, which is not installed: .*batchserve\[onnx\]"):
        tools.convert(mlp, mlp.with_name("out.onnx"), "fp16")


# Holding one against the other.


def answering(*outputs: Any, names: tuple[str, ...] = ("y",)) -> Any:
    """A session that takes anything and answers with these."""
    specs = tuple(TensorSpec(name, DATATYPES["FP32"], (-1,)) for name in names)
    return SimpleNamespace(inputs=(), outputs=specs, run=lambda inputs, mask: list(outputs))


def test_differences_are_counted_over_all_runs_and_numbers() -> None:
    original = np.array([[1.0, 2.0, 3.0], [4.0, 0.0, -4.0]], np.float32)
    converted = np.array([[1.0, 2.5, 2.0], [4.0, 0.0, -4.0]], np.float32)
    (found,) = compare_answers(answering(original), answering(converted), [[], []])
    assert found.max_difference == 1.0
    assert found.mean_difference == pytest.approx(1.5 / 6)
    assert found.relative == pytest.approx(1.5 / 14)
    assert found.top1 == 0.5
    assert found.not_finite == 0


def test_numbers_that_overflowed_are_counted_apart() -> None:
    original = np.array([[70000.0, 1.0, np.nan, np.inf]], np.float32)
    converted = np.array([[np.inf, 1.5, np.nan, np.inf]], np.float32)
    (found,) = compare_answers(answering(original), answering(converted), [[]])
    assert (found.not_finite, found.max_difference) == (1, 0.5)


def test_one_number_a_row_is_no_choice_of_classes() -> None:
    numbers = np.ones((2, 1), np.float32)
    (found,) = compare_answers(answering(numbers), answering(numbers), [[]])
    assert found.top1 is None


def test_integers_and_words_are_compared_for_equality() -> None:
    for original, converted in (([1, 2, 3, 4], [1, 2, 3, 5]), (["a", "b", "c", "d"], ["a", "b", "c", ""])):
        kind = object if isinstance(original[0], str) else np.int64
        pair = (answering(np.array(one, kind)) for one in (original, converted))
        (found,) = compare_answers(*pair, [[]])
        assert (found.same, found.relative, found.top1) == (0.75, None, None)


@pytest.mark.parametrize(
    ("converted", "why"),
    [
        (answering(np.ones(2), names=("z",)), "other inputs or outputs"),
        (
            answering(np.ones(3)),
            r"output 'y' of the converted model has the shape \[3\] where the original's has \[2\]",
        ),
    ],
)
def test_another_kind_of_model_is_refused(converted: Any, why: str) -> None:
    with pytest.raises(ConversionError, match=why):
        compare_answers(answering(np.ones(2)), converted, [[]])


def test_speed_is_rows_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each run moves: 10 ms on one, 5 ms on the other."""
    now = [0.0]

    def taking(seconds: float) -> Any:
        def run(inputs: Any, mask: int) -> list[Any]:
            now[0] += seconds
            return []

        return SimpleNamespace(outputs=(), run=run)

    monkeypatch.setattr(comparison.time, "perf_counter", lambda: now[0])
    found = compare_speed(taking(0.01), taking(0.005), [], 8)
    assert (round(found.original), round(found.converted)) == (800, 1600)
    assert found.spread == pytest.approx(1)


def test_time_to_load_is_that_of_opening_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    closed = []

    def taking(seconds: float) -> Any:
        def reopen(layout: Layout) -> Any:
            now[0] += seconds
            return SimpleNamespace(close=lambda: closed.append(layout.threads))

        return SimpleNamespace(layouts=(Layout(1, 2),), reopen=reopen)

    monkeypatch.setattr(comparison.time, "perf_counter", lambda: now[0])
    assert compare_loads(taking(3), taking(2)) == (3, 2)
    assert closed == [2] * 6


# Inputs kept in a folder.

SPECS = (TensorSpec("x", DATATYPES["FP32"], (-1, 2)), TensorSpec("words", DATATYPES["BYTES"], (-1,)))


def test_files_are_read_by_name_in_the_models_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        np.savez(tmp_path / f"{name}.npz", words=np.array([name]), x=np.zeros((1, 2), np.float32), more=np.zeros(1))
    (tmp_path / "notes.txt").write_text("not an input")
    first, second = read_folder(tmp_path, SPECS)
    assert list(first) == ["x", "words"]
    assert (first["words"].tolist(), second["words"].tolist()) == (["a"], ["b"])
    assert first["words"].dtype == object


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.zeros((1, 2), np.float32)}, "holds the arrays x; expected one for each input: x, words"),
        ({"x": np.zeros((1, 2)), "words": np.array(["a"])}, r"'x' is float64\[1, 2\], but the model takes float32"),
        ({"x": np.zeros((1, 3), np.float32), "words": np.array(["a"])}, r"'x' is float32\[1, 3\], but .*\[-1, 2\]"),
        ({"x": np.zeros(2, np.float32), "words": np.array(["a"])}, r"'x' is float32\[2\]"),
        (
            {"x": np.zeros((0, 2), np.float32), "words": np.array(["a"])},
            "'x' has no elements; expected at least one row",
        ),
        ({"x": np.array([None]), "words": np.array(["a"])}, "cannot be read as arrays of numpy"),
    ],
)
def test_file_that_the_model_does_not_take_is_named(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    np.savez(tmp_path / "one.npz", **arrays)
    with pytest.raises(ConversionError, match=rf"one\.npz.*{why}"):
        read_folder(tmp_path, SPECS)


def test_rubbish_and_empty_folders_are_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConversionError, match=r"holds no .npz files: write some there by numpy.savez\(FILE, x=…"):
            read_folder(folder, SPECS)
    (tmp_path / "bad.npz").write_bytes(b"rubbish")
    with pytest.raises(ConversionError, match=r"bad\.npz cannot be read"):
        read_folder(tmp_path, SPECS)


# What is asked.


def test_rows_of_the_first_file_are_asked_over_and_over(mlp: Path) -> None:
    session = opened(mlp)
    rows = np.arange(48, dtype=np.float32).reshape(3, 16)
    questions = Questions(session, [{"x": rows}, {"x": rows[:1]}])
    assert [list(one[:, 0]) for one in questions.of_rows(5)] == [[0, 16, 32, 0, 16]]
    assert [len(one[0]) for one in questions.for_answers((7,))] == [3, 1]
    session.close()


def test_random_rows_have_a_usual_length_where_the_model_takes_it(tmp_path: Path) -> None:
    free = opened(onnx_models.save(sequence_models.attention_encoder(), tmp_path / "free.onnx"))
    assert {one.shape for one in Questions(free, None).of_rows(2)} == {(2, 64)}
    free.close()
    short = SimpleNamespace(
        inputs=(TensorSpec("x", DATATYPES["FP32"], (-1, -1)),), outputs=(), sample=lambda rows, length: length
    )
    short.run = lambda inputs, mask: failing()
    assert Questions(short, None).of_rows(2) == 0  # type: ignore[arg-type, comparison-overlap]


def failing() -> None:
    raise BackendError("too long")


def test_file_is_asked_whole_of_a_model_that_does_not_batch(tmp_path: Path) -> None:
    session = opened(onnx_models.save(onnx_models.fixed_batch(2), tmp_path / "fixed.onnx"))
    rows = np.ones((2, 4), np.float32)
    (asked,) = Questions(session, [{"x": rows}]).of_rows(1)
    assert asked is rows
    session.close()


def test_images_of_the_support_module_survive_half_precision(tmp_path: Path) -> None:
    source = onnx_models.save(image_models.image_net(), tmp_path / "net.onnx")
    tools.convert(source, tmp_path / "half.onnx", "fp16")
    original, converted = opened(source), opened(tmp_path / "half.onnx")
    values = image_models.normalised(image_models.pixels(2))
    (found,) = compare_answers(original, converted, [[values]])
    assert found.top1 is None
    assert found.relative is not None
    assert 0 < found.relative < 1e-3
    original.close()
    converted.close()
