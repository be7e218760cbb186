"""Finding models on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchserve.engine.sources import choose_versions, find_model, find_models
from batchserve.errors import ConfigError, ModelLoadError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def found(*paths: Path) -> dict[str, list[int]]:
    return {source.name: list(source.versions) for source in find_models(paths)}


def test_plain_file_is_version_1_of_a_model_named_by_its_stem(tmp_path: Path) -> None:
    file = touch(tmp_path / "resnet.v2.onnx")
    (source,) = find_models([file])
    assert (source.name, dict(source.versions), source.folder) == ("resnet.v2", {1: file}, None)


def test_folder_of_files_serves_each(tmp_path: Path) -> None:
    touch(tmp_path / "a.onnx")
    touch(tmp_path / "b.onnx")
    touch(tmp_path / "notes.txt")
    assert found(tmp_path) == {"a": [1], "b": [1]}


def test_repository_gives_every_version_ascending(tmp_path: Path) -> None:
    for version in (10, 2, 1):
        touch(tmp_path / "net" / str(version) / "model.onnx")
    touch(tmp_path / "net" / "config.pbtxt")
    touch(tmp_path / "other" / "1" / "model.onnx")
    (tmp_path / ".git").mkdir()
    (tmp_path / "net" / "0").mkdir()
    (tmp_path / "net" / "01").mkdir()
    (tmp_path / "net" / "assets").mkdir()
    assert found(tmp_path) == {"net": [1, 2, 10], "other": [1]}


def test_one_models_folder_is_named_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "net" / "3" / "model.onnx")
    assert found(tmp_path / "net") == {"net": [3]}
    monkeypatch.chdir(tmp_path / "net")
    assert found(Path()) == {"net": [3]}


def test_file_of_a_version_folder_keeps_its_name_and_version(tmp_path: Path) -> None:
    assert found(touch(tmp_path / "net" / "3" / "model.onnx")) == {"net": [3]}


def test_folder_without_versions_holding_a_model_is_version_1(tmp_path: Path) -> None:
    touch(tmp_path / "net" / "model.onnx")
    assert found(tmp_path) == {"net": [1]}


def test_version_folder_without_its_file_is_listed_so_that_loading_says_why(tmp_path: Path) -> None:
    (tmp_path / "net" / "1").mkdir(parents=True)
    (source,) = find_models([tmp_path])
    assert source.versions == {1: tmp_path / "net" / "1" / "model.onnx"}


def test_configured_folder_without_versions_is_a_model_with_none(tmp_path: Path) -> None:
    touch(tmp_path / "net" / "model.toml")
    assert found(tmp_path) == {"net": []}


def test_same_name_twice_is_an_error_naming_both_places(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.onnx")
    touch(tmp_path / "y" / "a.onnx")
    with pytest.raises(ConfigError, match=r"two models are named 'a'.*/x.*/y"):
        find_models([tmp_path / "x", tmp_path / "y"])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: path / "missing", "does not exist"),
        (lambda path: path, "holds no model"),
        (lambda path: touch(path / "a.pt"), r"is not a \.onnx file"),
    ],
    ids=["missing", "empty", "not onnx"],
)
def test_unusable_path_says_what_was_expected(tmp_path: Path, make: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        find_models([make(tmp_path)])  # type: ignore[operator]


def test_looking_again_sees_new_versions_and_missing_models(tmp_path: Path) -> None:
    touch(tmp_path / "net" / "1" / "model.onnx")
    touch(tmp_path / "net" / "2" / "model.onnx")
    source = find_model(tmp_path, "net")
    assert source is not None
    assert list(source.versions) == [1, 2]
    assert find_model(tmp_path, "gone") is None
    assert find_model(tmp_path / "gone", "net") is None


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [("latest", [7]), ("latest:2", [3, 7]), ("latest:9", [1, 3, 7]), ("all", [1, 3, 7]), ("1,7", [1, 7]), ("9", [9])],
)
def test_policy_chooses_versions(policy: str, chosen: list[int]) -> None:
    assert choose_versions(policy, [7, 1, 3]) == chosen


def test_no_version_is_a_load_error() -> None:
    with pytest.raises(ModelLoadError, match="no version was found"):
        choose_versions("latest", [])
