"""Finds models on disk: plain files, folders of files, and repositories of versioned folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchserve.errors import ConfigError, ModelLoadError

__all__ = ["ModelSource", "choose_versions", "find_model", "find_models"]

CONFIG_FILES = ("model.toml", "config.pbtxt")
MODEL_FILE = "model.onnx"

_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where one model lies.

    Attributes:
        name: Its name on the wire: the file's stem, or the folder's name.
        versions: File of each version, ascending. A file may be missing; loading it says so.
        folder: The folder that may hold `model.toml` and `config.pbtxt`; None for a plain file.
        origin: The path it was found under, to look again on reload.
    """

    name: str
    versions: Mapping[int, Path]
    folder: Path | None
    origin: Path


def find_models(paths: Sequence[Path]) -> list[ModelSource]:
    """Find every model under the given paths.

    Args:
        paths: Each a `.onnx` file, a folder of `.onnx` files, a repository (`<model>/<version>/model.onnx`), or one
            model's folder of such a repository.

    Returns:
        The models by name.

    Raises:
        ConfigError: A path does not exist or holds no model, or two models have one name.
    """
    found: dict[str, ModelSource] = {}
    for path in paths:
        for source in _under(path):
            if (other := found.get(source.name)) is not None:
                raise ConfigError(
                    f"two models are named '{source.name}', one under {other.origin} and one under {source.origin}: "
                    "rename one of them, or serve one of the two paths"
                )
            found[source.name] = source
    return [found[name] for name in sorted(found)]


def find_model(origin: Path, name: str) -> ModelSource | None:
    """Look again for one model under the path it came from; None if it is gone."""
    try:
        return next((source for source in _under(origin) if source.name == name), None)
    except ConfigError:
        return None


def choose_versions(policy: str, versions: Sequence[int]) -> list[int]:
    """Say which versions a policy serves, ascending.

    Args:
        policy: `latest`, `latest:N`, `all`, or a list such as `1,3` (which may name versions that are missing).
        versions: What lies on disk.

    Raises:
        ModelLoadError: There is nothing to choose from.
    """
    if not versions:
        raise ModelLoadError(f"no version was found: expected a folder such as 1/ that holds {MODEL_FILE}")
    ascending = sorted(versions)
    if policy == "all":
        return ascending
    kind, _, count = policy.partition(":")
    if kind == "latest":
        return ascending[-int(count or 1) :]
    return sorted({int(version) for version in policy.split(",")})


def _under(path: Path) -> list[ModelSource]:
    if path.is_file():
        return [_from_file(path)]
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist: expected a .onnx file or a folder of models")
    folder = path.resolve()  # "." has no name of its own
    if _versions(folder) or any((folder / name).is_file() for name in CONFIG_FILES):
        return [ModelSource(folder.name, _versions(folder), folder, path)]
    sources = [ModelSource(file.stem, {1: file}, None, path) for file in _visible(folder) if _is_model_file(file)]
    children = (_from_folder(child, path) for child in _visible(folder) if child.is_dir())
    sources += [source for source in children if source is not None]
    if not sources:
        raise ConfigError(
            f"{path} holds no model: expected .onnx files, or folders such as <model>/<version>/{MODEL_FILE}"
        )
    return sources


def _from_file(path: Path) -> ModelSource:
    if path.suffix != ".onnx":
        raise ConfigError(f"{path} is not a .onnx file: expected a .onnx file or a folder of models")
    file = path.resolve()
    if file.name == MODEL_FILE and _VERSION.fullmatch(file.parent.name):
        # One version of a repository, named by its file: it keeps the name and the version it has there.
        return ModelSource(file.parent.parent.name, {int(file.parent.name): file}, file.parent.parent, path)
    return ModelSource(path.stem, {1: path}, None, path)


def _from_folder(folder: Path, origin: Path) -> ModelSource | None:
    """Read one folder of a repository; None if nothing in it looks like a model."""
    versions = _versions(folder)
    if not versions and (folder / MODEL_FILE).is_file():
        versions = {1: folder / MODEL_FILE}
    if not versions and not any((folder / name).is_file() for name in CONFIG_FILES):
        return None
    return ModelSource(folder.name, versions, folder, origin)


def _versions(folder: Path) -> dict[int, Path]:
    numbers = sorted(int(child.name) for child in _visible(folder) if child.is_dir() and _VERSION.fullmatch(child.name))
    return {number: folder / str(number) / MODEL_FILE for number in numbers}


def _is_model_file(path: Path) -> bool:
    return path.suffix == ".onnx" and path.is_file()


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith((".", "__")))
