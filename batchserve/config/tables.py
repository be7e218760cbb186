"""Inline tables of TOML: how the text of a flag or variable becomes one, and how one is written."""

from __future__ import annotations

import re
from collections.abc import Mapping

from batchserve.config.kinds import toml_string

__all__ = ["show_table", "table_from_text"]


def table_from_text(given: str) -> object:
    """Read a value of TOML; what is none is given back as it is, for the reader to refuse."""
    import tomllib  # here, so that --help does not pay for it

    try:
        return tomllib.loads(f"value = {given}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return given


def show_table(entries: Mapping[str, str]) -> str:
    """Write an inline table of values that are TOML already."""
    return "{" + ", ".join(f"{_key(name)} = {shown}" for name, shown in entries.items()) + "}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_string(name)
