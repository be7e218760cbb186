"""Puts committed results into the pages of docs/ that show them, between `<!-- result NAME -->` and `<!-- end -->`.

docs/results/ holds one file for each name: what a benchmark wrote, without what fills pages. The words around the marks
are written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.result_tables import against_us, tables

__all__ = ["DOCS", "PageError", "add", "block", "fill", "name_of", "read_results", "write_pages"]

DOCS = Path(__file__).resolve().parents[1] / "docs"

LEFT_OUT = {"histogram", "timeline", "lags"}
"""What is left out of committed results, wherever it stands."""

FURTHER = "performance.md"
"""The page that a result goes to which no page shows yet."""

MARKS = re.compile(r"<!-- result (\S+) -->\n.*?<!-- end -->", re.DOTALL)

_OPTIONS = re.compile(r" --results[ =]\S+")
_PATH = re.compile(r"(?<![^ =])[/~]\S+")
_PRIVATE = re.compile(r"(?:/home|/root|/tmp|/work|/opt|/Users)/[^\s'\",)]*")


class PageError(Exception):
    """A file is no result of a benchmark; the text says why."""


def name_of(result: Mapping[str, Any]) -> str:
    """Name a result after its benchmark and the part of it that was run."""
    parts = [result["benchmark"], result.get("what", ""), "http" if "--http" in result.get("command", "") else ""]
    return "-".join(part for part in parts if part)


def add(file: Path, docs: Path = DOCS) -> str:
    """Take a result in, in the place of the one with its name, and return the name.

    A page that has no mark for it gets one at the end of docs/performance.md.

    Raises:
        PageError: It is no result, or it was made with errors.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        name = name_of(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PageError(f"{file}: expected a JSON file that a script of loadtest/ wrote: {error}") from error
    if result.get("error"):
        raise PageError(f"{file}: the benchmark ended with an error, so it is no evidence: {result['error']}")
    result = _slim(result)
    result["command"] = _PATH.sub("…", _OPTIONS.sub("", result.get("command", f"python loadtest/{name}.py")))
    block(name, result)  # what cannot be shown is not taken in
    folder = docs / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not any(f"<!-- result {name} -->" in page.read_text(encoding="utf-8") for page in docs.glob("*.md")):
        page = docs / FURTHER
        text = page.read_text(encoding="utf-8")
        page.write_text(f"{text}\n## {name}\n\n<!-- result {name} -->\n<!-- end -->\n", encoding="utf-8")
    return name


def read_results(docs: Path = DOCS) -> dict[str, Any]:
    """Read all committed results by name."""
    files = sorted((docs / "results").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def fill(page: str, results: Mapping[str, Any]) -> str:
    """Put each result between its marks; marks without a result keep what stands there."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- result {name} -->\n{block(name, results[name])}\n<!-- end -->" if name in results else match[0]

    return MARKS.sub(filled, page)


def write_pages(docs: Path = DOCS) -> list[Path]:
    """Write the tables of all pages anew, and return the pages that changed."""
    results, changed = read_results(docs), []
    for page in sorted(docs.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = fill(before, results)
        if after != before:
            page.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed


def block(name: str, result: Mapping[str, Any]) -> str:
    """Write what a page shows of a result: where it is from, its tables, and what was missed.

    Raises:
        NoTableError: It is in no form that is known.
    """
    parts = [_origin(result), tables(result)]
    if missed := against_us(result):
        parts.append("What went against us:\n\n" + "\n".join(f"- {one}" for one in missed))
    parts.append(f"Everything behind it: [results/{name}.json](results/{name}.json).")
    return "\n\n".join(parts)


def _origin(result: Mapping[str, Any]) -> str:
    """Say how, when and on what a result was made."""
    machine = result["machine"]
    memory_kb = str(machine.get("memory", "")).split()
    system = re.sub(r"^(\w+)-(\d+\.\d+).*", r"\1 \2", machine.get("system", ""))
    packages = {**machine.get("packages", {}), **{one: result[one] for one in ("loadgen", "wrk") if result.get(one)}}
    load = machine.get("load_average") or []
    where = [
        f"{machine.get('usable_cores', '?')} cores of {machine.get('processor', 'an unknown processor')}",
        f"{int(memory_kb[0]) / 1e6:.0f} GB of memory" if memory_kb and memory_kb[0].isdigit() else "",
        system,
        f"Python {machine.get('python', '?')}",
        *(f"{package} {version}" for package, version in packages.items()),
        str(result.get("mosec", "")),
    ]
    commit = machine.get("commit", "")
    facts = [
        result.get("started", "")[:10],
        f"commit {commit[:10]}{' with changes' if commit.endswith('-dirty') else ''}" if commit else "",
        f"load average {load[0]:.1f} when it began" if load else "",
    ]
    left_out = "".join(f"\nLeft out: {reason}." for reason in result.get("left_out") or [])
    return (
        f"`{result['command']}` on {', '.join(part for part in where if part)} "
        f"({'; '.join(part for part in facts if part)}).{left_out}"
    )


def _slim(value: Any) -> Any:
    """Leave out what fills pages, and where files lay."""
    if isinstance(value, str):
        return _PRIVATE.sub("…", value)
    if isinstance(value, dict):
        return {key: _slim(one) for key, one in value.items() if key not in LEFT_OUT}
    return [_slim(one) for one in value] if isinstance(value, list) else value
