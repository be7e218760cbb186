"""Who may import whom: arrows between packages go one way (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import batchserve

ROOT = Path(batchserve.__file__).parent

# Each package, and what of batchserve it may import besides itself. errors, config and timer are leaves anyone may
# import.
LEAVES = {"errors", "config", "timer"}
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "timer": set(),
    "core": {"errors"},
    "backends": {"core"},
    "engine": {"core", "backends.base"},
    "telemetry": {"engine", "core"},
    "frontend": {"engine", "core"},
    "load": {"core"},
    "conversion": {"core", "backends"},
    "tuning": {"core", "engine", "load", "backends.base"},
    "cli": {"frontend", "engine", "backends", "telemetry", "load", "conversion", "tuning", "core"},
    "__main__": {"cli"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT).with_suffix("")
        yield relative.parts[0], path


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Give the batchserve modules that a file imports, with their lines; those for types alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [node.module or ""]
            if node.module == "batchserve":
                names = [f"batchserve.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name.removeprefix("batchserve.")) for name in names if name.startswith("batchserve."))


def is_allowed(package: str, target: str) -> bool:
    first = target.split(".", maxsplit=1)[0]
    if first == package or first == "__version__":
        return True
    if first in LEAVES:
        return package not in LEAVES or first in ALLOWED[package]
    return any(target == allowed or target.startswith(f"{allowed}.") for allowed in ALLOWED[package])


def test_every_import_follows_the_arrows() -> None:
    wrong = [
        f"{path.relative_to(ROOT.parent)}:{line}: {package} must not import {target}"
        for package, path in modules()
        if package != "__init__"
        for line, target in imported(path)
        if not is_allowed(package, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_can_fail() -> None:
    assert not is_allowed("core", "engine.model")
    assert not is_allowed("engine", "backends.onnx")
    assert not is_allowed("engine", "telemetry.metrics")
    assert not is_allowed("frontend", "telemetry.metrics")
    assert not is_allowed("frontend", "backends.onnx")
    assert not is_allowed("errors", "core.batch")
    assert not is_allowed("load", "engine.scheduler")
    assert not is_allowed("frontend", "load.latencies")
    assert not is_allowed("tuning", "backends.onnx")
    assert not is_allowed("load", "tuning.curves")
    assert is_allowed("engine", "backends.base")
    assert is_allowed("engine", "errors")


def test_core_reads_no_clock_and_waits_for_nothing() -> None:
    """The core takes the time as an argument: it imports neither clocks, threads, sockets nor loops."""
    forbidden = {
        "time",
        "asyncio",
        "threading",
        "socket",
        "select",
        "concurrent",
        "datetime",
        "logging",
        "os",
        "random",
    }
    for package, path in modules():
        if package != "core":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            used = {name.split(".")[0] for name in names} & forbidden
            assert not used, f"{path.name}:{node.lineno} imports {used}"
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{path.name} waits"
