"""When two answers of a model count as the same.

Two questions are asked of a row's answer, and they deserve different strictness:

* **Do its neighbours reach it?** The row stays where it is in a batch of the same size; only other rows change. The
  runtime then does the very same arithmetic for the row, so the answer should be equal to the last bit.
* **Is it the same elsewhere?** Alone, or at another place, other kernels may add the same numbers in another order.

| element type | neighbours change (`NEIGHBOURS`) | alone or moved, CPU | alone or moved, other providers |
|---|---|---|---|
| float32, float64 | 1e-5 | 1e-4 | 2e-2 (TF32 and the like) |
| float16 | 2e-3 | 2e-2 | 2e-2 |
| all others | equal | equal | equal |

A number agrees if it differs by no more than that share of (its size + the output's scale), or by less than 1e-7. The
scale is the size that a tenth of the output's non-zero numbers stay under: huge constants, such as the -3e38 of a mask,
do not loosen it for the rest, even where they are most of the output. NaN equals NaN.

Source: onnxruntime.md, "Same result batched and unbatched?": differences up to 1.7e-7 of the scale seen on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchserve.core.tensors import Array

__all__ = ["NEIGHBOURS", "Tolerance", "difference", "differences", "elsewhere", "scale_of"]

FLOOR = 1e-7
SCALE_PERCENTILE = 10


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Allowed difference as a share of a number's size plus the output's scale."""

    single: float
    half: float


NEIGHBOURS = Tolerance(single=1e-5, half=2e-3)
_ELSEWHERE_CPU = Tolerance(single=1e-4, half=2e-2)
_ELSEWHERE_OTHER = Tolerance(single=2e-2, half=2e-2)


def elsewhere(providers: Sequence[str]) -> Tolerance:
    """Choose the tolerance for a row alone or at another place, for a session that uses these providers."""
    return _ELSEWHERE_CPU if all(name == "CPUExecutionProvider" for name in providers) else _ELSEWHERE_OTHER


def scale_of(output: Array) -> float:
    """Find the size under which a tenth of an output's finite, non-zero numbers stay; 0 for other types."""
    if output.dtype.kind != "f":
        return 0.0
    sizes = np.abs(output[np.isfinite(output) & (output != 0)].astype(np.float64))
    return float(np.percentile(sizes, SCALE_PERCENTILE)) if sizes.size else 0.0


def difference(expected: Sequence[Array], got: Sequence[Array], tolerance: Tolerance) -> str:
    """Say how the outputs of two runs on the same inputs differ; "" if they agree."""
    for index, (right, given) in enumerate(zip(expected, got, strict=True)):
        if right.shape != given.shape or right.dtype != given.dtype:
            return f"output {index} is {given.dtype}{list(given.shape)} in place of {right.dtype}{list(right.shape)}"
        if apart := differences(right, given, scale_of(right), tolerance):
            return f"output {index} is another ({apart})"
    return ""


def differences(expected: Array, got: Array, scale: float, tolerance: Tolerance) -> str:
    """Say how two answers of equal shape differ; "" if they agree.

    Args:
        expected: The reference.
        got: The other answer, of the same dtype and shape.
        scale: Of the whole output that the reference is a part of.
        tolerance: How much floats may differ.
    """
    if expected.dtype.kind != "f":
        count = int(np.count_nonzero(np.asarray(expected != got)))
        return f"{count} of {expected.size} elements differ" if count else ""
    if np.array_equal(expected, got, equal_nan=True):
        return ""
    share = tolerance.half if expected.dtype.itemsize <= 2 else tolerance.single
    a, b = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(a - b)
        is_finite = np.isfinite(a) & np.isfinite(b)
        is_same = (a == b) | (np.isnan(a) & np.isnan(b)) | (is_finite & (apart <= share * (np.abs(a) + scale) + FLOOR))
    if is_same.all():
        return ""
    count = int(np.count_nonzero(~is_same))
    worst = apart[~is_same & is_finite]
    size = f", by up to {worst.max():.2g}" if worst.size else ""
    return f"{count} of {expected.size} elements differ{size}"
