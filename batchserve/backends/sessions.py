"""Several sessions of one model that stand for one: what the first of them says for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.backends.base import Batchability, Profiled, Session
    from batchserve.config import PadConfig
    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array, TensorSpec

__all__ = ["Sessions"]


class Sessions:
    """The part of a session that the first of several speaks for. What runs where is for those that inherit it.

    Args:
        sessions: At least one; closed with this one.
    """

    may_run_in_place = False

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = tuple(sessions)
        first = sessions[0]
        self.inputs: tuple[TensorSpec, ...] = first.inputs
        self.outputs: tuple[TensorSpec, ...] = first.outputs
        self.batchability: Batchability = first.batchability
        self.pad: PadRule | None = first.pad

    @property
    def providers(self) -> tuple[str, ...]:
        """Those of the first."""
        return self.sessions[0].providers

    @property
    def facts(self) -> Mapping[str, str]:
        """Those of the first, and how often the processes of all were started again."""
        facts = dict(self.sessions[0].facts)
        if "restarts" in facts:
            facts["restarts"] = str(sum(int(session.facts["restarts"]) for session in self.sessions))
        return facts

    def sample(self, rows: int, length: int = 0) -> list[Array]:
        """See `Session.sample`."""
        return self.sessions[0].sample(rows, length)

    def propose_pad(self) -> PadConfig | None:
        """See `Session.propose_pad`."""
        return self.sessions[0].propose_pad()

    def profiled(self) -> Profiled:
        """Watch the model as the first runs it; see `Session.profiled`."""
        return self.sessions[0].profiled()

    def close(self) -> None:
        """Close all of them."""
        for session in self.sessions:
            session.close()
