"""What is known of a model by its name: which versions there are, how each is doing, and why one does not serve."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchserve.engine.events import ModelState

if TYPE_CHECKING:
    from batchserve.engine.model import Model
    from batchserve.engine.sources import ModelSource

__all__ = ["IndexEntry", "NamedModel", "VersionState"]

_LEFT_ON_PURPOSE = frozenset({"no longer chosen by version_policy"})


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index (protocol.md section 11); `version` is "" for a model never loaded."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(slots=True)
class VersionState:
    """A version that is or was to be served. Invariant: `model` is set exactly in READY."""

    state: str = ModelState.LOADING
    reason: str = ""
    model: Model | None = None


@dataclass(slots=True)
class NamedModel:
    """A model by name: its source, its versions, and whether it should be served."""

    source: ModelSource
    versions: dict[int, VersionState] = field(default_factory=dict)
    is_wanted: bool = True
    problem: str = ""  # why not even its versions are known
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_loading(self) -> bool:
        """True while a version of it is being loaded, or it is not even known which there are."""
        if not self.versions:
            return not self.problem
        return any(version.state == ModelState.LOADING for version in self.versions.values())

    @property
    def is_whole(self) -> bool:
        """True if everything that should serve does: a version that left on purpose is not missing."""
        states = [version.state for version in self.versions.values() if version.reason not in _LEFT_ON_PURPOSE]
        return bool(states) and all(state == ModelState.READY for state in states)

    @property
    def why_not(self) -> str:
        """Say why it, or a part of it, does not serve."""
        if self.problem:
            return self.problem
        reasons = [version.reason or version.state for version in self.versions.values() if version.model is None]
        return "; ".join(reasons) or "loading"

    def entries(self) -> list[IndexEntry]:
        """List its versions with their states, ascending; one line without a version if none is known."""
        name = self.source.name
        if not self.versions:
            state = ModelState.UNAVAILABLE if self.problem else ModelState.LOADING
            return [IndexEntry(name, "", state, self.problem)]
        return [
            IndexEntry(name, str(number), version.state, version.reason)
            for number, version in sorted(self.versions.items())
        ]
