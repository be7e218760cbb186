"""The optimiser that trains both example models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Adam", "softmax_gradient"]

Array = npt.NDArray[Any]


class Adam:
    """Adam (Kingma and Ba, 2015) with a rate that falls to 0 in a straight line.

    Args:
        parameters: Arrays to train, changed in place; the list's order is that of the gradients given to `step`.
        rate: Learning rate of the first step.
        steps: Number of steps to come.
        decay: Factor of the weight decay added to every gradient.
    """

    def __init__(self, parameters: Sequence[Array], *, rate: float, steps: int, decay: float = 0.0) -> None:
        self._parameters = parameters
        self._rate = rate
        self._steps = steps
        self._decay = decay
        self._mean = [np.zeros_like(p) for p in parameters]
        self._square = [np.zeros_like(p) for p in parameters]
        self._done = 0

    def step(self, gradients: Sequence[Array]) -> None:
        """Move every parameter against its gradient."""
        rate = self._rate * (1 - self._done / self._steps)
        self._done += 1
        mean_scale = 1 / (1 - 0.9**self._done)
        square_scale = 1 / (1 - 0.999**self._done)
        for parameter, gradient, mean, square in zip(
            self._parameters, gradients, self._mean, self._square, strict=True
        ):
            slope = gradient + self._decay * parameter
            mean += 0.1 * (slope - mean)
            square += 0.001 * (slope * slope - square)
            parameter -= rate * mean * mean_scale / (np.sqrt(square * square_scale) + 1e-8)


def softmax_gradient(logits: Array, labels: Array) -> Array:
    """Give the gradient of the mean cross-entropy with respect to the logits.

    Args:
        logits: `float32[B, classes]`.
        labels: `int64[B]`, the right class of each row.

    Returns:
        A new `float32[B, classes]`.
    """
    gradient: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradient /= gradient.sum(axis=1, keepdims=True)
    gradient[np.arange(len(labels)), labels] -= 1
    return gradient / np.float32(len(labels))
