"""All places put together: what is in force, and where each value came from."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchserve.config.layers import (
    Entry,
    Layer,
    Table,
    environment_layer,
    file_layer,
    flag_layer,
    read_model_toml,
    read_text,
)
from batchserve.config.names import did_you_mean, listing, variable_part
from batchserve.config.schema import MODEL_KEYS, SERVER_KEYS, DeclaredTensor, Key, ModelConfig, ServerConfig
from batchserve.config.together import check_together
from batchserve.config.triton import read_config_pbtxt
from batchserve.config.units import format_duration
from batchserve.errors import ConfigError

__all__ = ["BUILT_IN", "ModelSettings", "Settings"]

BUILT_IN = "built-in"

_log = logging.getLogger("batchserve.config")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is in force for one model.

    Attributes:
        config: The values.
        entries: Each key's value with its origin, in the schema's order.
        warnings: What a person should know about the model's files, each a sentence.
    """

    config: ModelConfig
    entries: Mapping[str, Entry]
    warnings: tuple[str, ...]


class Settings:
    """The configuration of one process: read once, asked for each model when it is loaded.

    It never changes: what the configuration file says later is in what `reread` returns. `model.toml` and
    `config.pbtxt` are read again each time a model is asked for. Any thread.
    """

    def __init__(
        self,
        flags: Layer,
        environment: Layer,
        file: Layer,
        warnings: Sequence[str] = (),
        *,
        config_file: Path | None = None,
    ) -> None:
        self.config_file = config_file
        self._flags = flags
        self._environment = environment
        self._file = file
        self.warnings = tuple(warnings)
        self.server_entries: Mapping[str, Entry] = _chosen(SERVER_KEYS, flags.server, environment.server, file.server)
        self.server = ServerConfig(**_fields(self.server_entries))

    @property
    def default_entries(self) -> Mapping[str, Entry]:
        """What holds for a model that nothing is said about: `[defaults]` from all places over the built-in values."""
        return self.resolve("").entries

    @classmethod
    def load(
        cls,
        config_file: Path | None = None,
        sets: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read every place but the models' own folders.

        Args:
            config_file: The file of `--config`, or None.
            sets: What `--set` was given, as `server.port=0`.
            environ: The environment; None is an empty one.
            flags: Values of the flags that have a key, by key path, as text.

        Raises:
            ConfigError: Something in them cannot be; the first that was found.
        """
        file = file_layer(config_file) if config_file is not None else Layer()
        environment, warnings = environment_layer(environ or {})
        return cls(flag_layer(sets, flags or {}), environment, file, warnings, config_file=config_file)

    def reread(self) -> Settings:
        """Read the configuration file again; the command line and the environment are those of the process.

        Raises:
            ConfigError: Something in the file cannot be.
        """
        file = file_layer(self.config_file) if self.config_file is not None else Layer()
        return Settings(self._flags, self._environment, file, self.warnings, config_file=self.config_file)

    def check_model_names(self, names: Collection[str]) -> None:
        """Refuse settings for models that are not served.

        Args:
            names: Names of all models that are served.

        Raises:
            ConfigError: A table, flag or variable names another one, or a variable could mean several.
        """
        for layer in (self._flags, self._file):
            for name in layer.models:
                if name not in names:
                    raise _not_served(layer.places[name], name, names)
        spelt: dict[str, list[str]] = {}
        for name in names:
            spelt.setdefault(variable_part(name), []).append(name)
        for part, variable in self._environment.places.items():
            meant = spelt.get(part, [])
            if not meant:
                raise _not_served(variable, part, names)
            if len(meant) > 1:
                raise ConfigError(
                    f"{variable}: may mean any of the models {listing(meant)}; set it by --set or in [models.NAME]"
                )

    def model(self, name: str, folder: Path | None = None) -> ModelConfig:
        """Work out what is in force for a model, reading its folder anew; logs its warnings.

        Args:
            name: The model's name.
            folder: Where its `model.toml` and `config.pbtxt` may lie, or None.

        Raises:
            ConfigError: One of the two files cannot be used, or two values cannot be together.
        """
        settings = self.resolve(name, folder)
        for warning in settings.warnings:
            _log.warning("%s", warning)
        return settings.config

    def resolve(self, name: str, folder: Path | None = None) -> ModelSettings:
        """Do as `model`, and say where each value came from instead of logging.

        Raises:
            ConfigError: One of the two files cannot be used, or two values cannot be together.
        """
        own, inputs, outputs, warnings = _folder_tables(name, folder)
        part = variable_part(name)
        entries = _chosen(
            MODEL_KEYS,
            self._flags.models.get(name, {}),
            self._environment.models.get(part, {}),
            self._file.models.get(name, {}),
            *own,
            self._flags.defaults,
            self._environment.defaults,
            self._file.defaults,
        )
        entries["drain_timeout"] = self._bounded(entries["drain_timeout"])
        warnings += check_together(entries)
        config = ModelConfig(**_fields(entries), inputs=inputs, outputs=outputs)
        return ModelSettings(config, entries, warnings)

    def _bounded(self, own: Entry) -> Entry:
        """Keep a model's `drain_timeout` within the server's, since the process ends then."""
        server = self.server_entries["drain_timeout"]
        if own.value <= server.value:
            return own
        wanted = "" if own.origin == BUILT_IN else f", which bounds the {format_duration(own.value)} of {own.origin}"
        return Entry(own.key, server.value, f"server.drain_timeout ({server.origin}){wanted}")


def _chosen(keys: Mapping[str, Key], *tables: Table) -> dict[str, Entry]:
    """Take each key from the first table that has it, else its built-in value."""
    return {
        name: next((table[name] for table in tables if name in table), Entry(key, key.default, BUILT_IN))
        for name, key in keys.items()
    }


def _fields(entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {entry.key.field: entry.value for entry in entries.values()}


def _folder_tables(
    name: str, folder: Path | None
) -> tuple[list[Table], tuple[DeclaredTensor, ...], tuple[DeclaredTensor, ...], tuple[str, ...]]:
    """Read a model's own files: their tables in order of precedence, declared inputs and outputs, warnings."""
    if folder is None:
        return [], (), (), ()
    tables: list[Table] = []
    if (own := folder / "model.toml").exists():
        tables.append(read_model_toml(own))
    if not (pbtxt := folder / "config.pbtxt").exists():
        return tables, (), (), ()
    found = read_config_pbtxt(read_text(pbtxt), str(pbtxt), name)
    tables.append({key: Entry(MODEL_KEYS[key], value, place) for key, (value, place) in found.values.items()})
    warnings: tuple[str, ...] = ()
    if found.unused:
        warnings = (f"{pbtxt}: these fields of Triton's are known but not used: {', '.join(found.unused)}",)
    return tables, found.inputs, found.outputs, warnings


def _not_served(place: str, name: str, names: Collection[str]) -> ConfigError:
    near = did_you_mean(name, names)
    served = f"served are {listing(names)}" if names else "none is served"
    return ConfigError(f"{place}: no model {name!r} is served; {f'{near} ' if near else ''}{served}")
