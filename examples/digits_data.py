"""Scikit-learn's bundled handwritten digits, split into training and held-out samples.

1797 grey images of 8 x 8 pixels with values 0 to 16. Every fifth sample is held out. The same people wrote both
parts, so the accuracy says how the model does on more digits by these writers, not by strangers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["held_out", "training"]

HELD_OUT_EVERY = 5

Samples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def _select(*, held: bool) -> Samples:
    """Pick one side of the split: pixels `float32[N, 64]` and labels `int64[N]`."""
    # Imported here so that a caller without scikit-learn gets the error when it asks for samples.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    pixels: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    pixels, labels = load_digits(return_X_y=True)
    is_held = np.arange(len(labels)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    chosen = is_held if held else ~is_held
    return pixels[chosen].astype(np.float32), labels[chosen].astype(np.int64)


def training() -> Samples:
    """Return what to train on, four of five samples.

    Returns:
        Pixels `float32[1438, 64]`, row by row from the top left, 0 (white) to 16; labels `int64[1438]`.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    return _select(held=False)


def held_out() -> Samples:
    """Return what training never sees, every fifth sample.

    Returns:
        Pixels `float32[359, 64]` and labels `int64[359]`, as in `training`.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    return _select(held=True)
