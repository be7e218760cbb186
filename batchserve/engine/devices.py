"""The devices that models share: which model runs where, and one decision for all of those that want the same slots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from batchserve.core.device import Device

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.config import ModelConfig
    from batchserve.core.policy import Decision, Policy

__all__ = ["DeviceGroup", "Devices", "device_name"]

CPU = "cpu"

_ON_CUDA = ("tensorrt", "nvtensorrtrtx")
"""Providers whose devices are CUDA's."""

LEAST_CPU_SLOTS = 2
"""Batches that may always run at once on a CPU: a model that is quick must not wait for one that is slow."""


class Runner(Protocol):
    """Carries out what was decided for one model."""

    def carry_out(self, decision: Decision, now: float, lag_s: float = 0.0) -> None:
        """Start batches, write answers, set the timer."""
        ...


class DeviceGroup:
    """The models on one device. Event loop only.

    Attributes:
        device: Its slots and rules.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._runners: dict[Policy, Runner] = {}
        self._slots: dict[Policy, tuple[int | None, int]] = {}

    def join(self, policy: Policy, runner: Runner, slots: int | None, natural_slots: int) -> None:
        """Let a model's decisions be taken together with those of the others on the device.

        Args:
            policy: It has joined the device itself.
            runner: Carries out what is decided for it.
            slots: The slots that its configuration gives the device, None for none in particular.
            natural_slots: The slots that the device should have for its sake otherwise.
        """
        self._runners[policy] = runner
        self._slots[policy] = (slots, natural_slots)
        self._resize()

    def leave(self, policy: Policy) -> None:
        """Forget a model, and let the others have its place."""
        del self._runners[policy], self._slots[policy]
        self.device.leave(policy)
        if self._runners:
            self._resize()
            self.decide_all()

    def decide(self, policy: Policy, now: float, lag_s: float) -> None:
        """Decide on one model, and on the others too if they want the same slots.

        Args:
            policy: The model of which something has changed.
            now: The moment.
            lag_s: How long ago the decision was asked for.
        """
        if not self.device.is_contended:
            self._runners[policy].carry_out(policy.decide(now), now, lag_s)
            return
        for member, decision in self.device.decide(now):
            if (runner := self._runners.get(member)) is not None:
                runner.carry_out(decision, now, lag_s)

    def decide_all(self) -> None:
        """Decide on every model, after slots have come or gone."""
        for policy in list(self._runners):
            self.decide(policy, time.monotonic(), 0.0)

    def _resize(self) -> None:
        configured = [slots for slots, _ in self._slots.values() if slots is not None]
        self.device.resize(max(configured, default=max(natural for _, natural in self._slots.values())))


class Devices:
    """All devices of a server, by name. Event loop only."""

    def __init__(self) -> None:
        self._groups: dict[str, DeviceGroup] = {}

    def group(self, name: str) -> DeviceGroup:
        """Return the models on a device; a new group for a device that no model has used yet."""
        return self._groups.setdefault(name, DeviceGroup(Device(1)))


def device_name(session: Session, config: ModelConfig) -> str:
    """Name the device that a model runs on: what its configuration says, else the first one of its provider."""
    if config.device is not None:
        return config.device
    provider = session.providers[0] if session.providers else ""
    kind = provider.removesuffix("ExecutionProvider").lower() or CPU
    kind = "cuda" if kind in _ON_CUDA else kind
    return kind if kind == CPU else f"{kind}:0"


def natural_slots(name: str, session: Session, instances: int) -> int:
    """Say how many batches a device should run at once for a model's sake, if nothing is configured.

    An accelerator is given as many as the model has instances. On a CPU it is the usable cores over the threads of one
    run, at least two.
    """
    if name != CPU:
        return instances
    cores, threads = session.facts.get("cores", ""), session.facts.get("intra_op_threads", "")
    if not (cores.isdecimal() and threads.isdecimal() and int(threads)):
        return max(LEAST_CPU_SLOTS, instances)
    return max(LEAST_CPU_SLOTS, int(cores) // int(threads))
