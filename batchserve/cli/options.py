"""Arguments and options that commands share, made from the configuration's own table of keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from batchserve.config import SERVER_KEYS, Key, Settings

__all__ = ["SERVER_FLAGS", "load_settings", "model_paths", "server_flags", "settings_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

SERVER_FLAGS = ("host", "port", "allow_partial", "admin", "http_fast_path", "log_level", "log_format", "access_log")
"""Keys of `[server]` that have a flag of their own; `--set` reaches all others."""


def model_paths(*, required: bool) -> Callable[[Command], Command]:
    """Add the argument `PATH…`."""
    return click.argument(
        "paths",
        metavar="PATH..." if required else "[PATH]...",
        nargs=-1,
        required=required,
        type=click.Path(path_type=Path),
    )


def settings_options(command: Command) -> Command:
    """Add `--config` and `--set`."""
    command = click.option(
        "--set",
        "sets",
        metavar="KEY=VALUE",
        multiple=True,
        help="Set any configuration key: server.KEY, defaults.KEY or models.NAME.KEY. May be repeated.",
    )(command)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        envvar="BATCHSERVE_CONFIG",
        show_envvar=True,
        type=click.Path(path_type=Path),
        help="Configuration file (TOML) with the tables [server], [defaults] and [models.NAME].",
    )(command)


def server_flags(command: Command) -> Command:
    """Add a flag for each of `SERVER_FLAGS`."""
    for name in reversed(SERVER_FLAGS):
        command = _flag(SERVER_KEYS[name])(command)
    return command


def _flag(key: Key) -> Callable[[Command], Command]:
    """Make a key's flag. Its value stays text: it is checked where all values are."""
    flag, help_text = f"--{key.name.replace('_', '-')}", key.meaning.replace("`", "")
    if isinstance(key.default, bool):
        return click.option(
            f"{flag}/--no-{flag[2:]}",
            key.name,
            default=None,
            help=f"{help_text}  [default: {'on' if key.default else 'off'}]",
        )
    return click.option(
        flag, key.name, metavar=key.name.rpartition("_")[2].upper(), help=f"{help_text}  [default: {key.default}]"
    )


def load_settings(
    config_file: Path | None, sets: tuple[str, ...], flags: Mapping[str, object] | None = None
) -> Settings:
    """Read the configuration that the command line, the environment and the file give; print its warnings.

    Args:
        config_file: Value of `--config`.
        sets: Values of `--set`.
        flags: Values of `server_flags`, by key; None where not given.

    Raises:
        ConfigError: It cannot be used.
    """
    given = {
        f"server.{name}": str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (flags or {}).items()
        if value is not None
    }
    settings = Settings.load(config_file, sets, os.environ, given)
    for warning in settings.warnings:
        click.echo(f"batchserve: warning: {warning}", err=True)
    return settings
