"""A model on several devices: loaded once for each of them, by whatever loads it on one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from batchserve.backends.base import Backend, Build, Layout, ModelFile, Session
from batchserve.backends.sessions import Sessions
from batchserve.errors import ModelLoadError

if TYPE_CHECKING:
    from batchserve.config import ModelConfig
    from batchserve.core.tensors import Array

__all__ = ["SessionPerDevice", "SeveralDevices"]


class SeveralDevices:
    """Loads a model whose `device` is a list once for each of them, and passes everything else on.

    Args:
        inner: What loads on one device.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def load(self, file: ModelFile, config: ModelConfig) -> Session:
        """Load a version. Blocks: as long as the loads on all devices take.

        Raises:
            ModelLoadError: As the inner backend, with the device; or the devices do not serve the same model, or
                `device_slots` is set.
        """
        devices = config.devices
        if len(devices) < 2:
            return self._inner.load(file, config)
        if config.device_slots is not None:
            raise ModelLoadError(
                f"device_slots is what models on one device share, but device names {len(devices)}: leave it out, and "
                "set instances, which are those on each"
            )
        sessions: list[Session] = []
        with ExitStack() as opened:
            for device in devices:
                try:
                    sessions.append(self._inner.load(file, replace(config, device=device)))
                except ModelLoadError as error:
                    raise type(error)(f"on device {device}: {error}") from error
                opened.callback(sessions[-1].close)
                _check_same(sessions[0], sessions[-1], devices[0], device)
            opened.pop_all()
        return SessionPerDevice(devices, sessions)


def _check_same(first: Session, other: Session, name: str, device: str) -> None:
    """Refuse devices between which a batch could not choose."""
    for what, here, there in (
        ("inputs", first.inputs, other.inputs),
        ("outputs", first.outputs, other.outputs),
        ("batching", first.batchability.is_batchable, other.batchability.is_batchable),
        ("padding", first.pad, other.pad),
    ):
        if here != there:
            raise ModelLoadError(
                f"device {device} does not serve the model as {name} does, they differ in their {what} "
                f"({other.batchability.why}): name devices of one kind"
            )


class SessionPerDevice(Sessions):
    """Sessions of one model, each on a device of its own; instances run on `sessions`, everything else asks the first.

    Args:
        devices: Their names.
        sessions: One on each; closed with this one.
    """

    def __init__(self, devices: Sequence[str], sessions: Sequence[Session]) -> None:
        super().__init__(sessions)
        self.devices = tuple(devices)
        self.layouts: tuple[Layout, ...] = sessions[0].layouts

    @property
    def build(self) -> Build | None:
        """The change to another provider on the first device on which it is not over, or was not made."""
        builds = [session.build for session in self.sessions if session.build is not None]
        return next((build for build in builds if build.state != "swapped"), builds[0] if builds else None)

    @property
    def facts(self) -> Mapping[str, str]:
        """Those of `Sessions`, and all devices."""
        return {**super().facts, "devices": ", ".join(self.devices)}

    def in_order(self, order: Sequence[int]) -> SessionPerDevice:
        """Return the same sessions in another order. This one is not to be used any more."""
        return SessionPerDevice([self.devices[at] for at in order], [self.sessions[at] for at in order])

    def reopen(self, layout: Layout) -> SessionPerDevice:
        """Open every session once more; see `Session.reopen`. Devices of another kind keep threads of their own."""
        sessions: list[Session] = []
        with ExitStack() as opened:
            for session in self.sessions:
                own = layout
                if session.providers != self.providers:
                    own = replace(session.layouts[0], instances=layout.instances)
                sessions.append(session.reopen(own))
                opened.callback(sessions[-1].close)
            opened.pop_all()
        return SessionPerDevice(self.devices, sessions)

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Run on the first device; see `Session.run`."""
        return self.sessions[0].run(inputs, output_mask)

    def interrupt(self, thread: int) -> None:
        """See `Session.interrupt`: a session without a run on that thread does nothing."""
        for session in self.sessions:
            session.interrupt(thread)

    def serve(self, layout: Layout, max_rows: int) -> None:
        """See `Session.serve`."""
        for session in self.sessions:
            session.serve(layout, max_rows)
