"""docs/configuration.md says of every key what the code says, and names no other."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from batchserve.config import MODEL_KEYS, SERVER_KEYS, Key, Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def section(heading: str) -> str:
    """The text below a heading, up to the next of its level."""
    _, _, below = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert below, f"docs/configuration.md has no section {heading}"
    return below.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a section's first table, without its head."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def expected(keys: Mapping[str, Key]) -> list[list[str]]:
    return [[f"`{key.name}`", f"`{key.shown_default}`", key.kind.name, key.meaning] for key in keys.values()]


@pytest.mark.parametrize(
    ("heading", "keys"), [("[server]", SERVER_KEYS), ("[defaults], [models.NAME] and model.toml", MODEL_KEYS)]
)
def test_table_of_keys_is_the_schema(heading: str, keys: Mapping[str, Key]) -> None:
    """Both ways: no key is missing, none is made up, and defaults, values and meanings are those in force."""
    assert rows(section(heading)) == expected(keys)


def test_every_name_in_backquotes_that_looks_like_a_key_is_one() -> None:
    """A key that was renamed leaves no trace in the prose."""
    advice = section("[defaults], [models.NAME] and model.toml") + section("[server]")
    assigned = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)(?: = [^`]*)?`", advice))
    assert assigned
    assert assigned - SERVER_KEYS.keys() - MODEL_KEYS.keys() == set()


def test_example_files_are_accepted(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "batchserve.toml").write_text(blocks[0])
    settings = Settings.load(tmp_path / "batchserve.toml")
    settings.check_model_names(["digits", "text.en"])
    (tmp_path / "model.toml").write_text(blocks[1])
    config = settings.model("digits", tmp_path)
    assert (config.max_batch_size, config.version_policy) == (64, "latest:2")
    assert settings.server.port == tomllib.loads(blocks[0])["server"]["port"]


def test_prose_has_one_sentence_per_line() -> None:
    prose = re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if line and not line.startswith(("|", "#"))]
    several = [line for line in lines if re.search(r"[.!?] [A-Z]", line)]
    assert several == []
