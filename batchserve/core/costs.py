"""What runs cost by shape: a curve for each shape key, and one over all of them (batching.md sections 5.1 and 9)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchserve.core.cost import CostModel

if TYPE_CHECKING:
    from batchserve.core.shapes import ShapeKey

__all__ = ["ShapeCosts"]

_KEPT = 256
"""Curves kept; with more shapes than that, those unused for longest are learnt again."""


class ShapeCosts:
    """Cost models by shape key. One thread.

    A model whose requests all have one shape has one curve. Once a second shape is seen each has its own, which begins
    with what the elements of its rows suggest, and the first curve goes on as the mean over the traffic's mix.

    Args:
        mix: The curve over all shapes, with what was measured at load.
        horizon_s: For the guess without any run.
    """

    def __init__(self, mix: CostModel, horizon_s: float) -> None:
        self._mix = mix
        self._horizon_s = horizon_s
        self._first: ShapeKey | None = None
        self._curves: dict[ShapeKey, CostModel] = {}
        self._by_elements = CostModel((), horizon_s)

    @property
    def is_mixed(self) -> bool:
        """True once requests of more than one shape were seen."""
        return bool(self._curves)

    def of(self, key: ShapeKey) -> CostModel:
        """Return the curve of one shape. It is the same object until `is_mixed` changes."""
        if not self._curves:
            if self._first is None:
                self._first = key
            if key == self._first:
                return self._mix
            self._by_elements = CostModel(
                ((rows * _elements(self._first), seconds) for rows, seconds in self._mix.points), self._horizon_s
            )
            self._add(self._first, self._mix.points)
        curve = self._curves.pop(key, None)
        if curve is None:
            curve = self._add(key, self._guess(key))
        self._curves[key] = curve  # the last one is the one used last
        return curve

    def observe(self, key: ShapeKey, rows: int, run_s: float, overhead_s: float) -> None:
        """Take a successful run in."""
        self._mix.observe(rows, run_s, overhead_s)
        if self._curves:
            self.of(key).observe(rows, run_s, overhead_s)
            self._by_elements.observe(rows * _elements(key), run_s, overhead_s)

    def _guess(self, key: ShapeKey) -> list[tuple[float, float]]:
        """Read off what one row and a batch of this shape should cost by the elements they hold."""
        if self._by_elements.is_empty:
            return []
        elements = _elements(key)
        return [(rows, self._by_elements.run(rows * elements)) for rows in (1, 4, 16)]

    def _add(self, key: ShapeKey, points: tuple[tuple[float, float], ...] | list[tuple[float, float]]) -> CostModel:
        if len(self._curves) >= _KEPT:
            del self._curves[next(iter(self._curves))]
        curve = self._curves[key] = CostModel(points, self._horizon_s)
        curve.overhead_s, curve.q = self._mix.overhead_s, self._mix.q
        return curve


def _elements(key: ShapeKey) -> int:
    return max(1, sum(math.prod(shape) for shape in key))
