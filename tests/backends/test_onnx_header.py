"""Reading a model file's tensors without a runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import onnx_models as models

from batchserve.backends.header import Header, read_header


@pytest.mark.parametrize(
    ("proto", "header", "is_dynamic"),
    [
        (models.mlp(), Header({"x": ("batch", 16)}, {"y": ("batch", 4)}), True),
        (models.scalars(), Header({"a": (), "b": ()}, {"y": ()}), False),
        (models.fixed_batch(), Header({"x": (2, 4)}, {"y": (2, 4)}), False),
        (models.unknown_output_rank(), Header({"x": ("batch", 4)}, {"y": None}), True),
        (models.square(length=None), Header({"x": ("batch", None)}, {"y": ("batch", None)}), True),
        (models.zipmap(), Header({"x": ("batch", 2)}, {"y": None}), True),
        (models.square(length=-1), Header({"x": ("batch", None)}, {"y": ("batch", None)}), True),
        (models.one_op("Relu", shape=(300, 70000), out=("", 1)), Header({"x": (300, 70000)}, {"y": (None, 1)}), True),
    ],
)
def test_axes_of_every_kind(tmp_path: Path, proto, header: Header, is_dynamic: bool):
    found = read_header(models.save(proto, tmp_path / "model.onnx"))
    assert found == header
    assert found.is_dynamic is is_dynamic


@pytest.mark.parametrize("content", [b"", b"text", b"\x3a", b"\x3a\x05ab", b"\xff" * 20, b"\x0b", b"\x08\x01"])
def test_other_files_have_none(tmp_path: Path, content: bytes):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert read_header(path) is None
    assert read_header(tmp_path / "missing.onnx") is None
    assert read_header(tmp_path) is None


WHOLE = models.masked_mean().SerializeToString()


@given(st.binary(max_size=60), st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
def test_damaged_files_never_raise(tmp_path_factory, junk: bytes, start: int, end: int):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(WHOLE[:start] + junk + WHOLE[end:])
    read_header(path)
