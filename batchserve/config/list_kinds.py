"""The kinds of value that hold several: names, numbers of rows, weights by name, versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

from batchserve.config.kinds import Kind, read_weight, toml_string, weight_from_text
from batchserve.config.names import did_you_mean
from batchserve.config.units import BadValueError

__all__ = ["core_numbers", "names", "options", "row_counts", "show_cores", "version_policy", "weights"]

_MOST_ROWS = 1 << 20
_MOST_CORES = 1 << 14


def _listed(given: str) -> list[str]:
    """Split text at commas; text in TOML's brackets keeps its brackets away."""
    stripped = given.strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        stripped = stripped[1:-1]
    return [part.strip().strip("\"'") for part in stripped.split(",")]


def names() -> Kind:
    """A list of names, most preferred first; one name needs no list."""

    def read(value: object) -> tuple[str, ...]:
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise BadValueError("is not a list of names")
        stripped = tuple(part.strip() for part in parts)
        if not stripped or not all(stripped):
            raise BadValueError("has an empty name in it" if stripped else "is empty")
        if not all(name.isprintable() for name in stripped):
            raise BadValueError("has characters in it that cannot be printed")
        if twice := next((name for name in stripped if stripped.count(name) > 1), None):
            raise BadValueError(f"has {twice!r} twice")
        return stripped

    def show(value: Sequence[str]) -> str:
        return "[" + ", ".join(toml_string(name) for name in value) + "]"

    return Kind("list of names", "a name or a list of names, most preferred first", read, _listed, show)


def row_counts() -> Kind:
    """A list of numbers of rows, none at all for `[]` or `none`; the field's value is ascending, each once."""

    def read(value: object) -> tuple[int, ...]:
        if value == "none":
            return ()
        parts = value if isinstance(value, list) else [value]
        numbers = [part for part in parts if isinstance(part, int) and not isinstance(part, bool)]
        if len(numbers) < len(parts):
            raise BadValueError("is not a list of whole numbers")
        for part in numbers:
            if not 1 <= part <= _MOST_ROWS:
                raise BadValueError(f"has {part} in it, which is no number of rows", "rows count from 1")
        return tuple(sorted(set(numbers)))

    def from_text(given: str) -> object:
        parts = [part for part in _listed(given) if part] if given.strip() != "none" else []
        is_numbers = all(re.fullmatch(r"[+-]?[0-9]{1,19}", part) for part in parts)
        return [int(part) for part in parts] if is_numbers and (parts or given.strip() in ("none", "[]")) else given

    return Kind("list of rows", "whole numbers of rows such as [4, 8], or none", read, from_text, _show_rows)


def _show_rows(rows: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, rows)) + "]"


def core_numbers() -> Kind:
    """Processor cores by number, with ranges, or `none`; the field's value has each once, in the order given."""

    def read(value: object) -> tuple[int, ...]:
        if value == "none":
            return ()
        parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
        found: list[int] = []
        for part in parts:
            text = "" if isinstance(part, bool) else str(part)
            match = re.fullmatch(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", text)
            if match is None:
                raise BadValueError(f"has {part!r} in it, which is no core and no range of cores")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last >= _MOST_CORES:
                raise BadValueError(f"has {part!r} in it", f"cores count from 0 upwards, to {_MOST_CORES - 1} at most")
            found += range(first, last + 1)
        if not found:
            raise BadValueError("names no core")
        if len(set(found)) < len(found):
            raise BadValueError("has a core twice")
        return tuple(found)

    def show(value: Sequence[int]) -> str:
        return toml_string(show_cores(value) or "none")

    return Kind(
        "list of cores or none", 'numbers of cores such as "0-3,6", or none', read, lambda given: given.strip(), show
    )


def show_cores(cores: Sequence[int]) -> str:
    """Write cores with ranges where they follow each other: `0-3,6`."""
    ranges: list[list[int]] = []
    for core in cores:
        if ranges and core == ranges[-1][-1] + 1:
            ranges[-1].append(core)
        else:
            ranges.append([core])
    return ",".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in ranges)


def weights() -> Kind:
    """Numbers above 0 by name; the field's value is pairs in the order of their names."""

    def read(value: object) -> tuple[tuple[str, float], ...]:
        if not isinstance(value, dict):
            raise BadValueError("is not a table of weights")
        found = {}
        for name, given in value.items():
            if not name.strip() or not name.isprintable():
                raise BadValueError("has a name in it that is empty or cannot be printed")
            try:
                found[name.strip()] = read_weight(given)
            except BadValueError as bad:
                raise BadValueError(f"has {name!r} in it, whose weight {bad.reason}", bad.hint) from bad
        return tuple(sorted(found.items()))

    def from_text(given: str) -> object:
        pairs = [part.rpartition("=") for part in given.split(",")] if given.strip() not in ("", "{}") else []
        if not all(name.strip() and separator for name, separator, _ in pairs):
            return given
        return {name.strip(): weight_from_text(number) for name, _, number in pairs}

    def show(value: Sequence[tuple[str, float]]) -> str:
        return "{" + ", ".join(f"{toml_string(name)} = {weight!r}" for name, weight in value) + "}"

    return Kind("table of weights", "numbers above 0 by name, such as {batch-jobs = 0.5}", read, from_text, show)


def options() -> Kind:
    """Options passed through by provider; the field's value is pairs of a name and its pairs of option and text."""

    def read(value: object) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
        if not isinstance(value, dict):
            raise BadValueError("is not a table of tables")
        found = {}
        for name, given in value.items():
            if not isinstance(given, dict):
                raise BadValueError(f"has {name!r} in it, which is no table", f"write {{{name} = {{option = value}}}}")
            if bad := [key for key, one in given.items() if isinstance(one, bool) or not isinstance(one, str | int)]:
                raise BadValueError(
                    f"has {bad[0]!r} in it, which is neither text nor a whole number",
                    'write what the provider reads, such as "1", "True" or "0.5"',
                )
            found[name] = tuple(sorted((key, str(one)) for key, one in given.items()))
        return tuple(sorted(found.items()))

    def from_text(given: str) -> object:
        try:
            return tomllib.loads(f"given = {given}")["given"]
        except tomllib.TOMLDecodeError:
            return given

    def show(value: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
        tables = (
            f"{toml_string(name)} = {{"
            + ", ".join(f"{toml_string(key)} = {toml_string(one)}" for key, one in given)
            + "}"
            for name, given in value
        )
        return "{" + ", ".join(tables) + "}"

    allowed = "a table of options for each provider, such as {cuda = {gpu_mem_limit = 4294967296}}"
    return Kind("table of options", allowed, read, from_text, show)


def version_policy() -> Kind:
    """Which versions are served: `latest`, `latest:N`, `all`, or version numbers.

    The field's value is a canonical string: `latest`, `latest:2`, `all` or `1,3` (ascending, each once).
    """
    numbers = re.compile(r"[0-9]{1,19}(\s*,\s*[0-9]{1,19})*")

    def read(value: object) -> str:
        versions = [value] if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(versions, list):
            if not versions:
                raise BadValueError("names no version")
            if not all(isinstance(version, int) and not isinstance(version, bool) for version in versions):
                raise BadValueError("has something in it that is not a version number")
            return _canonical(versions)
        if not isinstance(value, str):
            raise BadValueError("is not a version policy")
        word = value.strip()
        if word in ("latest", "all"):
            return word
        if latest := re.fullmatch(r"latest\s*:\s*([0-9]{1,9})", word):
            if int(latest[1]) == 0:
                raise BadValueError("serves no version")
            return "latest" if int(latest[1]) == 1 else f"latest:{int(latest[1])}"
        if numbers.fullmatch(word):
            return _canonical([int(part) for part in word.split(",")])
        raise BadValueError("is not a version policy", did_you_mean(word, ("latest", "all")))

    def from_text(given: str) -> object:
        return given.strip().strip("[]")

    return Kind("version policy", "latest, latest:N, all, or version numbers such as 1,3", read, from_text, toml_string)


def _canonical(versions: Sequence[int]) -> str:
    for version in versions:
        if not 1 <= version < 2**63:
            raise BadValueError(f"has {version} in it, which is no version number", "versions count from 1")
    return ",".join(str(version) for version in sorted(set(versions)))
