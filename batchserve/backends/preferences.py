"""Which provider is built beside the serving, and what serves meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchserve.backends.inventory import tensorrt_version
from batchserve.backends.providers import (
    CPU,
    CUDA,
    SLOW_TO_BUILD,
    TENSORRT,
    automatic,
    cuda_devices,
    device_for,
    full_name,
    resolve,
)
from batchserve.errors import ProviderUnavailable

if TYPE_CHECKING:
    from batchserve.config import ModelConfig

__all__ = ["Beside", "what_beside"]

Available = Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Beside:
    """What is to be built beside the serving.

    Attributes:
        config: What it is opened by.
        before: What serves until then is opened by.
        is_asked: False if `auto` brought it in.
    """

    config: ModelConfig
    before: ModelConfig
    is_asked: bool


def what_beside(config: ModelConfig, available: Available | None) -> Beside | None:
    """Decide whether a model is to serve on another provider than its first until that is built.

    Args:
        config: The model's.
        available: Gives the providers that the runtime has; None if that is not known.

    Returns:
        None if it is to be opened as it is.

    Raises:
        ProviderUnavailable: The runtime does not have one of the providers, and there is no fallback.
    """
    if found := _automatic(config, available):
        config = replace(config, providers=found)
    elif not _is_built_beside(config) or not _has_all(config, available):
        return None
    first = full_name(config.providers[0])
    if first == TENSORRT and len(config.providers) == 1:  # CUDA also runs the operators that it does not have
        config = replace(config, providers=(*config.providers, CUDA))
    rest = config.providers[1:] or ("cpu",)
    before = replace(
        config,
        providers=rest,
        device=device_for(rest, config.device),
        provider_options=tuple(table for table in config.provider_options if full_name(table[0]) != first),
        # What must be on the first provider's device need not be before.
        staging="auto" if config.staging == "on" else config.staging,
        cuda_graphs=False,
    )
    return Beside(config, before, is_asked=not found)


def _automatic(config: ModelConfig, available: Available | None) -> tuple[str, ...]:
    """Return what is to be tried although nobody asked for it."""
    for_cuda = config.cuda_graphs or config.staging == "on"  # what must be on CUDA leaves no choice
    is_free = config.providers in ((), ("auto",)) and config.device is None and config.build != "wait"
    if available is None or for_cuda or not is_free:
        return ()
    return automatic(available(), lambda: cuda_devices() > 0, lambda: bool(tensorrt_version()))


def _is_built_beside(config: ModelConfig) -> bool:
    first = full_name(config.providers[0]) if config.providers else "auto"
    if config.build == "background":
        return first not in ("auto", CPU)
    return config.build == "auto" and first in SLOW_TO_BUILD


def _has_all(config: ModelConfig, available: Available | None) -> bool:
    """Say whether the runtime has what is asked for; False if it has not, and the CPU may take its place."""
    if available is None:
        return True
    try:
        resolve(config.providers, available())
    except ProviderUnavailable:
        if config.fallback != "cpu":
            raise
        return False
    return True
