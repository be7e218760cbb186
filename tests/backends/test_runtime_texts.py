"""What the runtime says, without the places it says it from."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchserve.backends.runtime import MAX_TEXT, is_out_of_memory, plain_text

MODEL = Path("/srv/my models/digits/1/model.onnx")
SOURCE = "/onnxruntime_src/onnxruntime/core"


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        (
            (
                "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. "
                f"Name:'/enc/Reshape' Status Message: {SOURCE}/providers/cpu/tensor/reshape_helper.h:91 "
                "onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, "
                "onnxruntime::TensorShapeVector&, bool) input_shape_size == requested_shape_size was false.\n"
            ),
            (
                "Non-zero status code returned while running Reshape node. Name:'/enc/Reshape' Status Message: "
                "input_shape_size == requested_shape_size was false."
            ),
        ),
        (
            (
                f"[ONNXRuntimeError] : 1 : FAIL : Load model from {MODEL} failed:{SOURCE}/graph/utils.h:46 void "
                "onnxruntime::model_load_utils::ValidateOpsetForDomain(const std::unordered_map<std::string, int>&, "
                "const onnxruntime::logging::Logger&, bool, const std::string&, int) Opset 99 is under development"
            ),
            "Opset 99 is under development",
        ),
        (
            f'Error: External data path: "../../etc/x" resolved path: "/etc/x" allowed directory: "{MODEL.parent}"',
            'Error: External data path: "x" resolved path: "x" allowed directory: "the model\'s folder"',
        ),
        (f'External data path does not exist: "{MODEL.parent}/w.bin"', None),
        ("Failed to load library /usr/lib/a/libprovider.so with error: libx.so.12", None),
        (f"cannot map {MODEL}", "cannot map the model file"),
        ("", "Exception"),
    ],
)
def test_codes_and_paths_are_left_out_and_the_rest_stays(said: str, plain: str | None):
    text = plain_text(Exception(said), MODEL)
    if plain is not None:
        assert text == plain
    for part in ("/srv", "my models", "/usr", "/etc", "onnxruntime_src", "onnxruntime::"):
        assert part not in text
    for part in ("libprovider.so", "libx.so.12", "w.bin"):
        assert (part in text) == (part in said)


def test_long_texts_are_cut():
    assert len(plain_text(Exception("word " * 1000))) == MAX_TEXT


def test_relative_model_path_takes_nothing_else_out():
    assert plain_text(Exception("a.b failed. Too bad."), Path("model.onnx")) == "a.b failed. Too bad."


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (
            RuntimeError("Status Message: bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 9"),
            True,
        ),
        (RuntimeError("Status Message: std::bad_alloc"), True),
        (RuntimeError("bfc_arena.cc Available memory of 5 is smaller than requested bytes of 9"), True),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=a"), True),
        (RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"), True),
        (RuntimeError("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0"), True),
        (MemoryError(), True),
        (RuntimeError("indices element out of data bounds, idx=11 must be within the inclusive range [-10,9]"), False),
        (RuntimeError("Exiting due to terminate flag being set to true."), False),
        (RuntimeError("CUDA failure 700: an illegal memory access was encountered"), False),
    ],
)
def test_lack_of_memory_is_known_by_what_is_said(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory
