"""The limits that a model's configuration sets its scheduler, with every default resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchserve.core.limits import DEFAULT_MAX_BATCH_SIZE, Limits

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.config import ModelConfig
    from batchserve.core.padding import PadRule

__all__ = ["limits_of", "max_rows_of"]


def max_rows_of(session: Session, config: ModelConfig) -> int:
    """Rows in one run: what is configured, if the model can batch at all."""
    if not session.batchability.is_batchable:
        return 0
    return DEFAULT_MAX_BATCH_SIZE if config.max_batch_size is None else config.max_batch_size


def limits_of(config: ModelConfig, instances: int, max_batch_size: int, pad: PadRule | None) -> Limits:
    """Fill the limits of a model.

    Args:
        config: Its configuration.
        instances: Batches that may run at once.
        max_batch_size: Rows of one run, as far as it batches.
        pad: How lengths are padded, if they are.
    """
    return Limits(
        max_batch_size=max_batch_size,
        timeout_s=config.timeout_s,
        max_queue_size=config.max_queue_size or max(1024, 32 * max_batch_size),
        allow_timeout_override=config.allow_timeout_override,
        max_queue_delay_s=config.max_queue_delay_s,
        priority_levels=config.priority_levels,
        split_large=config.split_large,
        isolate_failures=config.isolate_failures,
        slots=instances,
        latency_target_s=config.latency_target_s,
        shed=config.latency_target_s is not None if config.shed is None else config.shed,
        preferred_batch_sizes=tuple(rows for rows in config.preferred_batch_sizes if rows <= max(1, max_batch_size)),
        weight=config.weight,
        run_timeout_s=config.run_timeout_s,
        is_fair=config.fair_clients,
        client_weights=dict(config.client_weights),
        max_clients=config.max_clients,
        pad=pad,
    )
