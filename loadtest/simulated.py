"""The server's own rules as a user gets them who tunes nothing, for simulations and their tests."""

from __future__ import annotations

from typing import Any

from batchserve.core.cost import CostModel
from batchserve.core.curves import Curve, Run, warmed
from batchserve.core.device import Device
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy
from batchserve.engine.warmup import warm_up_sizes

__all__ = ["offline_limit", "untuned"]


def untuned(
    curve: Curve,
    target_s: float | None,
    *,
    max_batch_size: int = 32,
    device: Device | None = None,
    kind: type[Policy] = Policy,
    **limits: Any,
) -> Policy:
    """Make the server's own rules as a user gets them who states a latency target and no more.

    The curve has been measured at load, without noise.
    """
    settings: dict[str, Any] = {
        "max_batch_size": max_batch_size,
        "timeout_s": 60.0,
        "max_queue_size": max(1024, 32 * max_batch_size),
        "latency_target_s": target_s,
        "shed": target_s is not None,
    }
    made = Limits(**(settings | limits))
    cost = CostModel(warmed(curve, warm_up_sizes(max_batch_size)), 60.0 if target_s is None else target_s)
    return kind("m", made, cost) if device is None else kind("m", made, cost, device=device)


def offline_limit(curve: Curve, max_batch_size: int = 32, slots: int = 1) -> float:
    """Give the most rows per second that can be run, in batches of the best size."""
    return slots * max(rows / curve(Run(rows)) for rows in range(1, max_batch_size + 1))
