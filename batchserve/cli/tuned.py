"""What `batchserve tune` found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchserve.tuning.written import chosen_keys

if TYPE_CHECKING:
    from batchserve.config import ModelConfig
    from batchserve.core.padding import PadRule
    from batchserve.engine.sources import ModelSource
    from batchserve.tuning.advice import Remedy
    from batchserve.tuning.choose import Predicted
    from batchserve.tuning.confirm import Confirmed
    from batchserve.tuning.curves import Curves
    from batchserve.tuning.demand import Demand
    from batchserve.tuning.settings import Setting, Way

__all__ = ["Facts", "Tuned"]


@dataclass(frozen=True)
class Facts:
    """What is known about the model and the machine once the model has been loaded.

    Attributes:
        is_batching: True if requests may share a run.
        why: The reason.
        pad: How lengths are padded; None if they are not.
        length: Size of free axes in the measurements; 0 for the sample's own.
        row_bytes: Bytes of a row's inputs.
        ways: Ways to run it.
        skipped: Providers that were left out, and why.
        load_s: How long opening it took.
        machine: Processor, cores and versions, by what people call them.
    """

    is_batching: bool
    why: str
    pad: PadRule | None
    length: int
    row_bytes: int
    ways: Sequence[Way]
    skipped: Mapping[str, str]
    load_s: float
    machine: Mapping[str, str]


@dataclass
class Tuned:
    """What came of it.

    Attributes:
        source: The model.
        config: Its configuration before.
        demand: The traffic and the goal.
        facts: About the model and the machine.
        curves: What was measured.
        is_measured: True if nothing was left out for want of time.
        predicted: Every setting that was simulated, best first.
        finalists: Those of them that were to be confirmed.
        confirmed: What real runs gave for each of those; None where there was no time.
        chosen: Index of the choice among the finalists.
        remedies: What would meet the target, if it is not met.
        budget_s: The time there was.
        spent_s: The time it took.
        started: When it began, ISO 8601.
    """

    source: ModelSource
    config: ModelConfig
    demand: Demand
    facts: Facts
    curves: Curves
    is_measured: bool
    predicted: Sequence[Predicted]
    finalists: Sequence[Predicted]
    confirmed: Sequence[Confirmed | None]
    chosen: int
    budget_s: float
    started: str
    spent_s: float = 0.0
    remedies: Sequence[Remedy] = field(default_factory=tuple)

    @property
    def setting(self) -> Setting:
        """The choice."""
        return self.finalists[self.chosen].setting

    @property
    def chosen_keys(self) -> dict[str, object]:
        """The choice as fields of the configuration."""
        return chosen_keys(self.setting, self.demand.goal.target_s)

    @property
    def is_held(self) -> bool:
        """True if the target is met: by real runs, or by the prediction where there were none."""
        if (confirmed := self.confirmed[self.chosen]) is not None:
            return confirmed.held is not None
        return self.is_forecast

    @property
    def is_forecast(self) -> bool:
        """True if the target is met by the prediction."""
        return self.finalists[self.chosen].speed >= (1.0 if self.demand.has_rate else 1e-9)
