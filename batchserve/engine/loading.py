"""Loads one version of a model: opens it, proves it, chooses its layout and measures it, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from batchserve.backends.base import PerDevice
from batchserve.engine.affinity import pinned, share_of
from batchserve.engine.calibration import Calibrated, calibrate
from batchserve.engine.devices import Devices
from batchserve.engine.limits import max_rows_of
from batchserve.engine.model import Model
from batchserve.engine.spreading import PROBE_ROWS, compare, quickest_first
from batchserve.engine.warmup import warm_up
from batchserve.engine.warmup_lengths import warm_up_lengths
from batchserve.errors import ModelLoadError

if TYPE_CHECKING:
    from batchserve.backends.base import Backend, ModelFile
    from batchserve.config import ModelConfig
    from batchserve.engine.events import Listener
    from batchserve.engine.profiles import ProfileFile, Profiles
    from batchserve.engine.warmup import WarmUp

__all__ = ["load_model"]

logger = logging.getLogger(__name__)


async def load_model(
    file: ModelFile,
    config: ModelConfig,
    backend: Backend,
    *,
    executor: Executor,
    devices: Devices | None = None,
    profiles: Profiles | None = None,
    listeners: Sequence[Listener] = (),
) -> Model:
    """Load, prove and warm up one version, off the event loop.

    Args:
        file: Which.
        config: The effective configuration.
        backend: What loads it.
        executor: Its one thread loads.
        devices: Where it finds its place beside the other models; None if there are none.
        profiles: Where what is learnt of its costs is kept; None if it is not.
        listeners: Hear of its executions.

    Raises:
        ModelLoadError: It cannot be served; nothing of it is left behind.
    """
    start_s = time.monotonic()
    calibrated, measured, factors, kept = await asyncio.get_running_loop().run_in_executor(
        executor, _prepare, file, config, backend, profiles
    )
    load_s = time.monotonic() - start_s
    return Model(
        file,
        config,
        calibrated,
        measured,
        devices or Devices(),
        load_s=load_s,
        factors=factors,
        kept=kept,
        listeners=listeners,
    )


def _prepare(
    file: ModelFile, config: ModelConfig, backend: Backend, profiles: Profiles | None
) -> tuple[Calibrated, WarmUp, tuple[float, ...], ProfileFile | None]:
    if file.name == "stats":
        raise ModelLoadError("a model cannot be named 'stats', which is a route of the protocol: rename it")
    session = backend.load(file, config)
    try:
        max_rows = max_rows_of(session, config)
        if not session.batchability.is_batchable and config.max_batch_size:
            logger.warning(
                "model %s/%d: max_batch_size = %d is not used: %s",
                file.name,
                file.version,
                config.max_batch_size,
                session.batchability.why,
            )
        end_s = time.monotonic() + config.warmup_budget_s
        cores = config.cpu_affinity
        if isinstance(session, PerDevice) and config.warmup_budget_s:
            session = session.in_order(quickest_first(session, max_rows))
        calibrated = calibrate(file.name, session, config.hint, max_rows, config.warmup_budget_s, cores)
        session = calibrated.session
        # Whatever the comparison took, one row is always run.
        budget_s = max(end_s - time.monotonic(), 1e-9) if config.warmup_budget_s else 0.0
        kept = None if profiles is None else profiles.place(file, config, session)
        profile = None if kept is None else kept.read()
        warm = warm_up if session.pad is None else warm_up_lengths
        with pinned(share_of(cores, 0, calibrated.layout.instances)):
            measured = warm(file.name, session, max(1, max_rows), budget_s, profile)
        factors: tuple[float, ...] = ()
        if isinstance(session, PerDevice) and config.warmup_budget_s:
            largest = round(measured.measured[-1][0]) if session.pad is None else PROBE_ROWS
            factors = compare(file.name, session, min(largest, measured.safe_rows))
    except BaseException:
        session.close()
        raise
    return calibrated, measured, factors, kept
