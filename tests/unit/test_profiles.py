"""Profiles on disk: what is written is read back, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchserve.backends.base import ModelFile
from batchserve.config import ModelConfig
from batchserve.engine.observed import Observation
from batchserve.engine.profiles import MOST_BYTES, Profile, ProfileFile, Profiles

PROFILE = Profile(
    ((1.0, 0.001), (3.75, 0.0025)), ((1, 0.0009), (4, 0.002)), 1.13, (Observation(1.0, 0.001, 0.0002, 7),), (1.0, 0.9)
)
KEY = {"format": "1", "model": "abc"}


def kept(folder: Path, key: dict[str, str] = KEY) -> ProfileFile:
    return ProfileFile(folder, "m/1", key)


def test_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    place = kept(tmp_path / "not" / "yet")
    assert place.read() is None
    place.write(PROFILE)
    place.write(PROFILE)
    assert place.read() == PROFILE
    assert [path.name for path in place.path.parent.iterdir()] == [place.path.name]


def test_place_that_is_only_read_keeps_what_is_there(tmp_path: Path) -> None:
    kept(tmp_path).write(PROFILE)
    place = ProfileFile(tmp_path, "m/1", KEY, is_read_only=True)
    place.write(replace(PROFILE, q=2.0))
    assert place.read() == PROFILE


def test_profile_of_another_key_is_another_file(tmp_path: Path) -> None:
    kept(tmp_path).write(PROFILE)
    assert kept(tmp_path, {**KEY, "model": "abd"}).read() is None


def changed(**members: object) -> bytes:
    value = {"key": KEY, "points": PROFILE.points, "measured": PROFILE.measured, "q": PROFILE.q, **members}
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 5000,
        changed()[:-9],
        changed(key={}),
        changed(key={**KEY, "model": "other"}),
        changed(q=None),
        changed(q=float("nan")),
        changed(q=0.5),
        changed(q=True),
        changed(points=[]),
        changed(points=None),
        changed(points=[[1]]),
        changed(points=[[0, 1.0]]),
        changed(points=[[1, 0.0]]),
        changed(points=[[1, -1.0]]),
        changed(points=[[1, float("inf")]]),
        changed(points=[[float("nan"), 1.0]]),
        changed(points=[[10**400, 1.0]]),
        changed(points=[["1", 1.0]]),
        changed(points=[[1, 1.0]] * 1000),
        changed(measured={"1": 2}),
        changed(observed=None),
        changed(observed=[[1, 1.0, -1.0, 1]]),
        changed(observed=[[1, 1.0, 1.0, 0]]),
        changed(observed=[[1, 1.0, 1.0]]),
        changed(ratios=None),
        changed(ratios=[0.0]),
        changed(ratios=["1"]),
        changed(ratios=[float("nan")]),
        changed(ratios=[1.0] * 5000),
        changed() + b" " * MOST_BYTES,
    ],
)
def test_file_that_is_not_what_it_should_be_is_ignored_aloud(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = kept(tmp_path)
    place.path.write_bytes(content)
    assert place.read() is None
    (record,) = caplog.records
    assert "model m/1: the profile" in record.getMessage()
    assert "is not used" in record.getMessage()
    place.write(PROFILE)
    assert place.read() == PROFILE


def test_place_that_cannot_be_written_or_read_is_told_and_nothing_else_happens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    place = kept(tmp_path / "file")
    place.write(PROFILE)
    assert place.read() is None
    assert "cannot be kept" in caplog.text
    assert "set server.cache_dir to a folder that can be written" in caplog.text
    assert "cannot be read" in caplog.text


def session(**facts: str) -> SimpleNamespace:
    return SimpleNamespace(pad=None, providers=("CPUExecutionProvider",), facts={"runtime": "1", "cores": "2", **facts})


def test_place_depends_on_all_that_costs_depend_on(tmp_path: Path) -> None:
    model, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    model.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    profiles = Profiles(tmp_path)

    def path(file: Path = model, config: ModelConfig | None = None, **facts: str) -> Path:
        place = profiles.place(ModelFile("m", 1, file), config or ModelConfig(), session(**facts))  # type: ignore[arg-type]
        assert place is not None
        return place.path

    paths = [
        path(),
        path(other),
        path(runtime="2"),
        path(cores="3"),
        path(intra_op_threads="1"),
        path(spinning="on"),
        path(preprocess="image: uint8"),
        path(cpu_affinity="0-1"),
        path(config=ModelConfig(instances=2)),
        path(config=ModelConfig(device="cuda:1")),
    ]
    assert len(set(paths)) == len(paths)
    model.rename(tmp_path / "renamed.onnx")
    assert path(tmp_path / "renamed.onnx") == paths[0]


def test_model_file_that_cannot_be_read_has_no_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = ModelFile("m", 1, tmp_path / "none.onnx")
    assert Profiles(tmp_path).place(file, ModelConfig(), session()) is None  # type: ignore[arg-type]
    assert "model m/1: no profile is kept of it" in caplog.text
