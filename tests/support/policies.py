"""Policies for tests of the rules: small curves, short set-up."""

from __future__ import annotations

from support.core_requests import make_request

from batchserve.core.batch import Batch
from batchserve.core.cost import CostModel
from batchserve.core.device import Device
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy

LINE = tuple((rows, 0.004 + 0.00025 * rows) for rows in (1, 2, 4, 8, 16, 32))
"""4.25 ms for one row, 12 ms for 32: a device that likes batches."""

DEAR = tuple((rows, 0.010 * rows) for rows in (1, 2, 4, 8, 16, 32))
"""10 ms a row: nothing is gained by batching."""


def make_policy(
    points: tuple[tuple[int, float], ...] = LINE, device: Device | None = None, name: str = "m", **changes: object
) -> Policy:
    """Make a policy of 32 rows with a timeout of 10 s; a latency target sheds unless something else is said."""
    settings: dict[str, object] = {"max_batch_size": 32, "timeout_s": 10.0, "max_queue_size": 1024, **changes}
    settings.setdefault("shed", settings.get("latency_target_s") is not None)
    limits = Limits(**settings)  # type: ignore[arg-type]
    return Policy(name, limits, CostModel(points, limits.horizon_s), device)


def occupy(policy: Policy, now: float = 0.0, rows: int = 1) -> Batch:
    """Fill a slot with a batch of one request."""
    policy.arrive(make_request(rows, arrival_s=now), now)
    (batch,) = policy.decide(now).batches
    return batch
