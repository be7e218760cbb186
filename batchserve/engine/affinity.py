"""Keeps threads that run a model on the cores that its configuration names (`cpu_affinity`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["pin", "pinned", "share_of"]

logger = logging.getLogger(__name__)


def share_of(cores: Sequence[int], index: int, instances: int) -> Sequence[int]:
    """Return the cores of one instance: neighbours in the list, each core in one share; one each if there are too few.

    Args:
        cores: All of the model's; empty for no choice.
        index: The instance, from 0.
        instances: How many there are.
    """
    if instances >= len(cores):
        return cores[index % len(cores) :][:1] if cores else ()
    return cores[index * len(cores) // instances : (index + 1) * len(cores) // instances]


def pin(cores: Sequence[int]) -> None:
    """Keep the calling thread on cores from now on; does nothing if there are none to choose from.

    The backend has checked at load that this process may use them; if that has changed since, it is logged.
    """
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        logger.warning("a thread stays where it is, for cpu_affinity cannot be had any more: %s", error.strerror)


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread on cores for a while."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    pin(cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
