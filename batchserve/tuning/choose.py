"""Ranks settings by their predictions, and picks those that real runs are to confirm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from batchserve.tuning.predict import Forecast
    from batchserve.tuning.settings import Setting

__all__ = ["Predicted", "Predicting", "finalists", "rank"]

CLOSE = 0.98
"""Settings with at least this share of the best one's value are as good; then the shorter latency decides."""
CALM = 0.8
"""Where no rate is given, latencies are compared at this share of the best one's largest rate."""
WORTH_CONFIRMING = 0.8
"""Share of the best one's largest speed from which on another way may turn out better in real runs."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What is predicted for a setting.

    Attributes:
        setting: Which.
        most: At the largest speed that meets the goal; None if none does.
        asked: At the traffic's own speed; None if it has none.
    """

    setting: Setting
    most: Forecast | None
    asked: Forecast | None

    @property
    def speed(self) -> float:
        """The largest speed that meets the goal; 0 if none does."""
        return 0.0 if self.most is None else self.most.speed


class Predicting(Protocol):
    """What is asked of a predictor here; see `Predictor`."""

    def bound(self, setting: Setting) -> float:
        """Return the speed that a setting cannot exceed."""

    def at(self, setting: Setting, speed: float) -> Forecast:
        """Simulate traffic so many times as fast."""

    def most(self, setting: Setting) -> Forecast | None:
        """Find the largest speed that meets the goal."""

    def lone_s(self, setting: Setting) -> float:
        """Return the seconds of a run of one row when nothing else runs."""


def rank(
    settings: Sequence[Setting],
    predictor: Predicting,
    *,
    has_rate: bool,
    has_time: Callable[[], bool],
    tell: Callable[[Setting, float], None] = lambda setting, share: None,
) -> list[Predicted]:
    """Predict for every setting that may be the best, and for each way that may come close; order them, best first.

    The best is the one that meets the goal at the largest speed: with the most room, if the traffic has a rate. If no
    setting meets it at the traffic's own rate, it is the one that answers most in time. Of settings that are equally
    good it is the one with the shortest latency.

    Args:
        settings: At least one.
        predictor: Simulates.
        has_rate: True if the traffic's own speed counts.
        has_time: Asked before each setting but the first.
        tell: Told before each one, with how far it is.
    """
    bounds = {setting: predictor.bound(setting) for setting in settings}
    found: list[Predicted] = []
    best = 0.0
    order = sorted(settings, key=lambda setting: -bounds[setting])
    for number, setting in enumerate(order):
        is_new = all(one.setting.way != setting.way for one in found)
        if found and (bounds[setting] < (WORTH_CONFIRMING if is_new else CLOSE) * best or not has_time()):
            continue
        tell(setting, number / len(order))
        found.append(Predicted(setting, predictor.most(setting), predictor.at(setting, 1.0) if has_rate else None))
        best = max(best, found[-1].speed)
    return _ordered(found, predictor, best)


def _ordered(found: Sequence[Predicted], predictor: Predicting, best: float) -> list[Predicted]:
    is_short = best < 1.0 and all(one.asked is not None for one in found)

    def value(one: Predicted) -> float:
        return one.asked.goodput_per_s if is_short and one.asked is not None else one.speed

    most = max(map(value, found))
    close = [one for one in found if value(one) >= CLOSE * most]
    if len(close) > 1:
        latencies = {one.setting: _latency_s(one, predictor, best) for one in close}
        close.sort(key=lambda one: latencies[one.setting])
    rest = sorted((one for one in found if one not in close), key=value, reverse=True)
    return [*close, *rest]


def _latency_s(one: Predicted, predictor: Predicting, best: float) -> float:
    if one.asked is not None:
        return one.asked.quantile_s
    return predictor.at(one.setting, CALM * best).quantile_s if best else predictor.lone_s(one.setting)


def finalists(ranked: Sequence[Predicted]) -> list[Predicted]:
    """Pick the best two: the best one, and the best of those on another way, or else the next one.

    What the simulator does not know of (the event loop, and whoever asks, on the same cores) is the same for all batch
    sizes of a way and not for all ways, so two ways tell more than two sizes.

    Args:
        ranked: Best first, at least one.
    """
    first = ranked[0]
    others = [one for one in ranked[1:] if one.speed >= WORTH_CONFIRMING * first.speed]
    on_another_way = [one for one in others if one.setting.way != first.setting.way]
    return [first, *(on_another_way or others)[:1]]
