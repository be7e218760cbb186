"""One place where values are written — a file, the environment, the command line — read into checked entries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchserve.config.kinds import toml_string
from batchserve.config.names import did_you_mean
from batchserve.config.schema import MODEL_KEYS, SERVER_KEYS, Key
from batchserve.config.units import BadValueError
from batchserve.errors import ConfigError

__all__ = [
    "Entry",
    "Layer",
    "environment_layer",
    "file_layer",
    "flag_layer",
    "key_path",
    "read_model_toml",
    "read_text",
]

_TABLES = ("server", "defaults", "models")
_PREFIX = "BATCHSERVE_"


@dataclass(frozen=True, slots=True)
class Entry:
    """A value somebody wrote, checked.

    Attributes:
        key: The key it is for.
        value: The field's value.
        origin: Where it was written: `batchserve.toml:server.port`, `BATCHSERVE_SERVER__PORT`, `--port`.
    """

    key: Key
    value: Any
    origin: str


Table = dict[str, Entry]


@dataclass(slots=True)
class Layer:
    """What one place says.

    Attributes:
        server: Entries of `[server]` by key.
        defaults: Entries of `[defaults]` by key.
        models: Entries of each `[models.NAME]`; the environment's are by the name as it stands in the variable.
        places: Where each model was first named, for errors about models that are not served.
    """

    server: Table = field(default_factory=dict)
    defaults: Table = field(default_factory=dict)
    models: dict[str, Table] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def table(self, path: Sequence[str], place: str) -> tuple[Table, Mapping[str, Key]]:
        """Find the entries of a table and the keys it may have, by its path without the key."""
        if path[0] == "server":
            return self.server, SERVER_KEYS
        if path[0] == "defaults":
            return self.defaults, MODEL_KEYS
        self.places.setdefault(path[1], place)
        return self.models.setdefault(path[1], {}), MODEL_KEYS


def key_path(parts: Iterable[str]) -> str:
    """Join a key's parts as TOML does, with quotes around those that need them."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else toml_string(part) for part in parts)


def _entry(
    source: str, origin: str, path: Sequence[str], keys: Mapping[str, Key], raw: object, *, is_text: bool
) -> Entry:
    """Check one value; `source` names the file, flag or variable in errors."""
    name = path[-1]
    key = keys.get(name)
    if key is None:
        if isinstance(raw, dict) and path[0] == "models":
            inner = key_path(["models", f"{path[1]}.{name}"])
            raise ConfigError(
                f"{source}: {key_path(path)} is a table; if the model's name holds a dot, write [{inner}]"
            )
        raise ConfigError(f"{source}: unknown key {key_path(path)} (= {_shown(raw)}); {_other_keys(name, keys)}")
    try:
        value = key.kind.read(key.kind.from_text(raw) if is_text and isinstance(raw, str) else raw)
    except BadValueError as bad:
        hint = f"; {bad.hint}" if bad.hint else ""
        raise ConfigError(
            f"{source}: {key_path(path)} = {_shown(raw)} {bad.reason}; expected {key.kind.allowed}{hint}"
        ) from bad
    return Entry(key, value, origin)


def _other_keys(name: str, keys: Mapping[str, Key]) -> str:
    hint = did_you_mean(name, keys)
    if name in SERVER_KEYS or name in MODEL_KEYS:
        hint = f"it is a key of {'[server]' if name in SERVER_KEYS else '[defaults] and of [models.NAME]'};"
    return f"{hint} known are {', '.join(keys)}".lstrip()


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 80 else f"{text[:77]}…"


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        ConfigError: It is not there, not to be read, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # here, so that --help does not pay for it

    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deep for a configuration") from error


def file_layer(path: Path) -> Layer:
    """Read a configuration file with its tables `[server]`, `[defaults]` and `[models.NAME]`.

    Raises:
        ConfigError: The file, a table, a key or a value is not as it should be.
    """
    layer, source = Layer(), str(path)
    for name, content in _read_toml(path).items():
        if name not in _TABLES:
            near = did_you_mean(name, _TABLES) or "expected [server], [defaults] and [models.NAME]"
            raise ConfigError(f"{source}: unknown table or key {key_path([name])} at the top level; {near}")
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: {name} = {_shown(content)} is not a table; write [{name}] above its keys")
        if name == "models":
            for model, table in content.items():
                if not isinstance(table, dict):
                    raise ConfigError(
                        f"{source}: {key_path(['models', model])} = {_shown(table)} is not a table of a model's keys"
                    )
                _fill(layer, ("models", model), table, source)
        else:
            _fill(layer, (name,), content, source)
    return layer


def _fill(layer: Layer, table_path: tuple[str, ...], content: Mapping[str, object], source: str) -> None:
    table, keys = layer.table(table_path, f"{source}: [{key_path(table_path)}]")
    for name, raw in content.items():
        path = (*table_path, name)
        table[name] = _entry(source, f"{source}:{key_path(path)}", path, keys, raw, is_text=False)


def read_model_toml(path: Path) -> Table:
    """Read a `model.toml`: the keys of one model, without a table around them.

    Raises:
        ConfigError: As `file_layer`.
    """
    source = str(path)
    return {
        name: _entry(source, f"{source}:{key_path([name])}", (name,), MODEL_KEYS, raw, is_text=False)
        for name, raw in _read_toml(path).items()
    }


_SEGMENT = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s.="'][^.="']*))\s*""")


def _split_path(text: str, source: str) -> list[str]:
    """Split `models."a.b".timeout` into its parts."""
    parts: list[str] = []
    position = 0
    while True:
        match = _SEGMENT.match(text, position)
        if match is None:
            raise ConfigError(f"{source}: {text!r} is not a key; expected server.KEY, defaults.KEY or models.NAME.KEY")
        quoted, literal, bare = match.groups()
        if quoted is not None:
            parts.append(re.sub(r"\\(.)", r"\1", quoted))
        else:
            parts.append(literal if literal is not None else bare.strip())
        position = match.end()
        if position == len(text):
            return parts
        if text[position] != ".":
            raise ConfigError(f"{source}: {text!r} is not a key; expected a dot at {text[position:]!r}")
        position += 1


_ASSIGNMENT = re.compile(r"""((?:"(?:[^"\\]|\\.)*"|'[^']*'|[^="'])*)=(.*)""", re.DOTALL)


def flag_layer(sets: Sequence[str], flags: Mapping[str, str]) -> Layer:
    """Read the command line's values.

    Args:
        sets: What `--set` was given, as `server.port=0`; the last of one key counts.
        flags: Values of flags that have a key, by key path: `{"server.port": "0"}`. Their name is the key's with
            dashes: `--port`.

    Raises:
        ConfigError: As `file_layer`, or a key is given both ways.
    """
    layer = Layer()
    for given in sets:
        match = _ASSIGNMENT.fullmatch(given)
        if match is None:
            raise ConfigError(f"--set {given}: is not KEY=VALUE; expected for example server.port=8001")
        _assign(layer, _split_path(match[1], f"--set {given}"), match[2], "--set")
    for dotted, value in flags.items():
        path = dotted.split(".")
        name = "--" + path[-1].replace("_", "-")
        if path[0] == "server" and path[-1] in layer.server:
            raise ConfigError(f"{dotted} is given both by {name} and by --set; give it once")
        _assign(layer, path, value, name)
    return layer


def _assign(layer: Layer, path: Sequence[str], value: str, flag: str) -> None:
    dotted = key_path(path)
    source = flag if flag != "--set" else f"--set {dotted}={value}"
    if path[0] not in _TABLES:
        near = did_you_mean(path[0], _TABLES) or "expected server.KEY, defaults.KEY or models.NAME.KEY"
        raise ConfigError(f"{source}: unknown table {path[0]!r}; {near}")
    if len(path) != (3 if path[0] == "models" else 2):
        hint = ""
        if path[0] == "models" and len(path) > 3:
            hint = f'; quote a name that holds a dot: models."{".".join(path[1:-1])}".{path[-1]}'
        raise ConfigError(
            f"{source}: {dotted} is not a key; expected server.KEY, defaults.KEY or models.NAME.KEY{hint}"
        )
    table, keys = layer.table(path[:-1], source)
    table[path[-1]] = _entry(source, flag if flag != "--set" else f"--set {dotted}", path, keys, value, is_text=True)


def environment_layer(environ: Mapping[str, str]) -> tuple[Layer, list[str]]:
    """Read `BATCHSERVE_SERVER__KEY`, `BATCHSERVE_DEFAULTS__KEY` and `BATCHSERVE_MODELS__NAME__KEY`.

    An empty variable counts as not set: that is how compose files and charts pass one on. Variables that start with
    `BATCHSERVE_` and have no double underscore belong to others: Kubernetes makes some for a service named batchserve.

    Returns:
        The layer, its models by `variable_part` of their names; and warnings about variables that look like a slip.

    Raises:
        ConfigError: As `file_layer`.
    """
    layer, warnings = Layer(), []
    for variable in sorted(environ):
        value = environ[variable]
        if not variable.upper().startswith(_PREFIX) or not value.strip():
            continue
        table, separator, rest = variable.upper()[len(_PREFIX) :].partition("__")
        if not separator:
            warnings.extend(_slip(variable))
            continue
        path = [table.casefold(), *rest.rsplit("__", 1)] if table == "MODELS" else [table.casefold(), rest]
        path[-1] = path[-1].casefold()
        if path[0] not in _TABLES:
            near = did_you_mean(path[0], _TABLES)
            raise ConfigError(f"{variable}: unknown table {path[0]!r}; {near or 'expected SERVER, DEFAULTS or MODELS'}")
        if len(path) != (3 if path[0] == "models" else 2) or not all(path):
            raise ConfigError(f"{variable}: names no key; expected {_PREFIX}SERVER__KEY or {_PREFIX}MODELS__NAME__KEY")
        entries, keys = layer.table(path[:-1], variable)
        if path[-1] in entries:
            raise ConfigError(f"{variable}: sets the same key as {entries[path[-1]].origin}; set one of them")
        entries[path[-1]] = _entry(variable, variable, path, keys, value, is_text=True)
    return layer, warnings


def _slip(variable: str) -> list[str]:
    """Warn of a single underscore where two are meant: `BATCHSERVE_SERVER_PORT`."""
    table, _, key = variable.upper()[len(_PREFIX) :].partition("_")
    keys = {"SERVER": SERVER_KEYS, "DEFAULTS": MODEL_KEYS}.get(table, {})
    if key.casefold() in keys:
        return [f"{variable} is ignored: two underscores stand before the key, as in {_PREFIX}{table}__{key}"]
    return []
