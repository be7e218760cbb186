"""Made-up costs by tokens, for tests of windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchserve.core.tensors import Array


@dataclass(frozen=True)
class LineCost:
    """A run of `t` tokens takes `base + each * t` seconds."""

    base: float
    each: float
    q: float = 1.2

    def means(self, tokens: Array) -> Array:
        """Give the seconds of an array of runs."""
        return self.base + self.each * np.asarray(tokens, float)

    def mean(self, tokens: int) -> float:
        """Give the seconds of one run."""
        return self.base + self.each * tokens


GPU_LIKE = LineCost(4e-3, 2e-6)
"""The fixed part is most of it: 2000 tokens double the time."""

CPU_LIKE = LineCost(2e-4, 2e-5)
"""The tokens are nearly all of it."""
