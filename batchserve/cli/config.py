"""`batchserve config show`: the values that are in force, and where each came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchserve.cli.options import load_settings, model_paths, server_flags, settings_options
from batchserve.config.layers import Entry, key_path

if TYPE_CHECKING:
    from batchserve.config import Settings

__all__ = ["config"]

_MOST_INDENT = 40


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@model_paths(required=False)
@settings_options
@server_flags
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of TOML.")
def show(
    paths: tuple[Path, ...], config_file: Path | None, sets: tuple[str, ...], *, as_json: bool, **flags: object
) -> None:
    """Print the values in force and where each came from.

    With PATH as for serve: for each model found there. Without: the server's, and what holds for every model. The
    output is TOML that --config takes.
    """
    settings = load_settings(config_file, sets, flags)
    tables: dict[tuple[str, ...], Mapping[str, Entry]] = {("server",): settings.server_entries}
    if paths:
        tables |= _models(settings, paths)
    else:
        tables["defaults",] = settings.default_entries
    if as_json:
        click.echo(json.dumps(_nested(tables), indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join(_toml_table(path, entries) for path, entries in tables.items()))


def _models(settings: Settings, paths: tuple[Path, ...]) -> dict[tuple[str, ...], Mapping[str, Entry]]:
    from batchserve.engine.sources import find_models

    sources = find_models(paths)
    settings.check_model_names([source.name for source in sources])
    found: dict[tuple[str, ...], Mapping[str, Entry]] = {}
    for source in sources:
        resolved = settings.resolve(source.name, source.folder)
        for warning in resolved.warnings:
            click.echo(f"batchserve: warning: {warning}", err=True)
        found["models", source.name] = resolved.entries
    return found


def _toml_table(path: tuple[str, ...], entries: Mapping[str, Entry]) -> str:
    """Write one table, each line's comment saying where its value came from."""
    lines = {f"{name} = {entry.key.kind.show(entry.value)}": entry.origin for name, entry in entries.items()}
    width = min(_MOST_INDENT, max(map(len, lines)))
    return "\n".join((f"[{key_path(path)}]", *(f"{line:<{width}}  # from {origin}" for line, origin in lines.items())))


def _nested(tables: Mapping[tuple[str, ...], Mapping[str, Entry]]) -> dict[str, Any]:
    import tomllib

    nested: dict[str, Any] = {}
    for path, entries in tables.items():
        table = nested
        for part in path:
            table = table.setdefault(part, {})
        for name, entry in entries.items():
            value = tomllib.loads(f"value = {entry.key.kind.show(entry.value)}")["value"]
            table[name] = {"value": value, "origin": entry.origin}
    return nested
