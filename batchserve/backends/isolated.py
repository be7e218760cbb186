"""Runs a model in a process of its own, so that a crash of native code costs one batch and not the server.

Tensors go through shared memory (`lanes`). When the worker dies, the batches that ran in it fail; a thread starts the
next worker, after a pause that grows while workers die young, and runs that come meanwhile wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from batchserve.backends.lanes import Closed, Lane, receive, send
from batchserve.errors import BackendError, ModelLoadError, OutOfMemory, WorkerDied

if TYPE_CHECKING:
    from batchserve.backends.base import Backend, Batchability, Build, Layout, ModelFile, Session
    from batchserve.config import ModelConfig, PadConfig
    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array, TensorSpec

__all__ = ["IsolatedSession", "IsolatingBackend", "load_apart"]

YOUNG_S = 10.0
"""A worker that dies sooner after it was ready is followed by a longer pause; the first restart has none."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0

WAIT_FOR_WORKER_S = 60.0
"""A run that comes while there is no worker waits for the next one, at most so long."""

log = logging.getLogger(__name__)


ONNX = "batchserve.backends.onnx:OnnxBackend"


def load_apart(file: ModelFile, config: ModelConfig, factory: str = ONNX) -> None:
    """Load a model in a process of its own and let it go, for what the load leaves on disk. Blocks.

    The process ends with this one, whatever it is at.

    Raises:
        ModelLoadError: It could not be loaded, or the process died.
    """
    _end(_start(factory, file, config))


class IsolatingBackend:
    """Loads models with `isolation = "process"` in workers, and all others through another backend.

    Args:
        inner: Loads those that are not isolated.
        factory: What loads in a worker, as `module:name` of a callable that gives a backend.
    """

    def __init__(self, inner: Backend, factory: str = ONNX) -> None:
        self._inner = inner
        self._factory = factory

    def load(self, file: ModelFile, config: ModelConfig) -> Session:
        """Load a version, in a worker if it is to be isolated. Blocks.

        Raises:
            ModelLoadError: As the backend, or the worker died while it loaded, or a key needs isolation.
        """
        if config.isolation == "process":
            if not hasattr(os, "memfd_create"):
                raise ModelLoadError('isolation = "process" needs anonymous shared memory, which Linux has')
            return IsolatedSession(self._factory, file, config)
        if config.memory_limit_bytes is not None:
            raise ModelLoadError('memory_limit bounds a worker process: set isolation = "process", or leave it out')
        return self._inner.load(file, config)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process that has loaded the model."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    description: Mapping[str, Any]
    ready_s: float


class IsolatedSession:
    """A model in a worker process; `run` from any thread, each in a lane of its own.

    Args:
        factory: What loads in the worker.
        file: The model.
        config: Its configuration.

    Raises:
        ModelLoadError: The worker could not load it.
    """

    def __init__(self, factory: str, file: ModelFile, config: ModelConfig) -> None:
        self._factory, self._file, self._config = factory, file, config
        self._changed = threading.Condition()
        self._worker: _Worker | None = _start(factory, file, config)
        self._lanes: list[tuple[_Worker, Lane]] = []
        self._is_closed = False
        self.restarts = 0
        found = self._worker.description
        self.inputs: tuple[TensorSpec, ...] = found["inputs"]
        self.outputs: tuple[TensorSpec, ...] = found["outputs"]
        self.batchability: Batchability = found["batchability"]
        self.pad: PadRule | None = found["pad"]
        self.providers: tuple[str, ...] = found["providers"]
        self.layouts: tuple[Layout, ...] = found["layouts"]
        self.may_run_in_place = False
        self.build: Build | None = None
        threading.Thread(target=self._watch, name=f"watch {file.name}", daemon=True).start()

    @property
    def facts(self) -> Mapping[str, str]:
        """What the worker said about itself, and how often it was started anew."""
        worker = self._worker
        found = {} if worker is None else dict(worker.description["facts"])
        return {**found, "isolation": "process", "restarts": str(self.restarts)}

    @property
    def worker_pid(self) -> int:
        """The process that runs the model; 0 while there is none."""
        worker = self._worker
        return 0 if worker is None else worker.process.pid

    def sample(self, rows: int, length: int = 0) -> list[Array]:
        """See `Session.sample`."""
        return self._ask("sample", (), (rows, length))

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Run in the worker; see `Session.run`. Inputs and outputs are copied once each.

        Raises:
            WorkerDied: The worker died with this run in it, and again if `retry_crashed` is set.
            BackendError: The run failed in the worker, or there is no worker.
        """
        try:
            return self._ask("run", inputs, output_mask)
        except WorkerDied:
            if not self._config.retry_crashed:
                raise
        return self._ask("run", inputs, output_mask)

    def propose_pad(self) -> PadConfig | None:
        """Propose nothing: `batchserve check` without isolation does."""
        return None

    def reopen(self, layout: Layout) -> IsolatedSession:
        """Open the model in another worker; see `Session.reopen`."""
        staging = "on" if layout.is_staged else "off"
        config = replace(self._config, instances=1, intra_op_threads=layout.threads, staging=staging)
        return IsolatedSession(self._factory, self._file, config)

    def interrupt(self, thread: int) -> None:
        """Kill the worker: a run that is stuck in it cannot be reached otherwise, and ends with it."""
        worker = self._worker
        if worker is not None:
            log.warning("model %s: its worker is killed, because a run in it is stuck", self._file.name)
            worker.process.kill()

    def profiled(self) -> NoReturn:
        """Refuse: the runtime that would write the profile is in another process."""
        raise ModelLoadError('a model with isolation = "process" cannot be profiled: load it without for that')

    def serve(self, layout: Layout, max_rows: int) -> None:
        """Do nothing: everything was done at load."""

    def close(self) -> None:
        """End the worker."""
        with self._changed:
            self._is_closed = True
            worker, self._worker = self._worker, None
            lanes, self._lanes = self._lanes, []
            self._changed.notify_all()
        for _, lane in lanes:
            lane.close()
        if worker is not None:
            _end(worker)

    # --- runs -----------------------------------------------------------------------------------------------------

    def _ask(self, what: str, arrays: Sequence[Array], detail: object) -> list[Array]:
        worker, lane = self._send(what, arrays, detail)
        try:
            answer, outputs, problem = lane.receive()
        except Closed:
            lane.close()
            raise WorkerDied(f"the model's worker process died during a run ({_death(worker.process)})") from None
        if answer == "done":
            outputs = [output.copy() for output in outputs]
        with self._changed:
            is_good = worker is self._worker
            if is_good:
                self._lanes.append((worker, lane))
        if not is_good:
            lane.close()
        if answer != "done":
            raise (OutOfMemory if answer == "no memory" else BackendError)(str(problem))
        return outputs

    def _send(self, what: str, arrays: Sequence[Array], detail: object) -> tuple[_Worker, Lane]:
        """Hand a run to the worker that is there, or to the next one: one that is gone already has not begun it."""
        while True:
            worker, lane = self._lane()
            try:
                if lane is None:
                    lane = _open_lane(worker)
                lane.send(what, arrays, detail)
            except Closed:
                if lane is not None:
                    lane.close()
                with self._changed:  # its watcher sees it at once
                    self._changed.wait_for(lambda: self._worker is not worker, WAIT_FOR_WORKER_S)  # noqa: B023
                continue
            return worker, lane

    def _lane(self) -> tuple[_Worker, Lane | None]:
        """Wait for a worker; return it with a lane that is free, None if there is none.

        Raises:
            BackendError: The session is closed, or the worker is not back for long.
        """
        with self._changed:
            there = self._changed.wait_for(lambda: self._worker is not None or self._is_closed, WAIT_FOR_WORKER_S)
            worker = self._worker
            if worker is None:
                raise BackendError("the session is closed" if there else "the model's worker process is not back yet")
            while self._lanes:
                owner, lane = self._lanes.pop()
                if owner is worker:
                    return owner, lane
                lane.close()
            return worker, None

    # --- the worker's life ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start a worker after each one that dies. On a thread of its own until the session is closed."""
        pause_s = 0.0
        while (worker := self._worker) is not None:
            worker.process.wait()
            with self._changed:
                if self._is_closed:
                    return
                self._worker = None
            worker.control.close()
            pause_s = _longer(pause_s) if time.monotonic() - worker.ready_s < YOUNG_S and self.restarts else 0.0
            log.error("model %s: its worker died (%s)", self._file.name, _death(worker.process))
            self._restart(pause_s)

    def _restart(self, pause_s: float) -> None:
        """Try until there is a worker again, or the session is closed."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._is_closed, pause_s):
                    return
            try:
                worker = _start(self._factory, self._file, self._config)
            except ModelLoadError as error:
                pause_s = _longer(pause_s)
                log.error(  # noqa: TRY400  # the reason is the message
                    "model %s: its worker could not be started, next try in %g s: %s", self._file.name, pause_s, error
                )
                continue
            with self._changed:
                if not self._is_closed:
                    self._worker = worker
                    self.restarts += 1
                    self._changed.notify_all()
                    log.warning("model %s: its worker runs again", self._file.name)
                    return
            _end(worker)
            return


def _longer(pause_s: float) -> float:
    return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pause_s))


def _start(factory: str, file: ModelFile, config: ModelConfig) -> _Worker:
    """Start a worker and wait until it has loaded the model.

    Raises:
        ModelLoadError: It could not.
    """
    here, there = socket.socketpair()
    with there:
        command = [sys.executable, "-m", "batchserve.backends.worker", str(there.fileno())]
        # A session of its own: a signal for the server's process group is not for its workers.
        process = subprocess.Popen(command, pass_fds=[there.fileno()], start_new_session=True)  # noqa: S603  # our own
    try:
        send(here, (factory, file, config))
        state, found = receive(here)
    except Closed:
        here.close()
        process.wait()
        raise ModelLoadError(f"the model's worker process died while it loaded ({_death(process)})") from None
    except BaseException:
        here.close()
        process.kill()
        process.wait()
        raise
    if state != "loaded":
        here.close()
        process.wait()
        raise ModelLoadError(str(found))
    return _Worker(process, here, found, time.monotonic())


def _open_lane(worker: _Worker) -> Lane:
    """Make a lane to a worker.

    Raises:
        Closed: It is gone.
    """
    lane, theirs = Lane.pair()
    try:
        socket.send_fds(worker.control, [b"l"], theirs)
    except OSError as error:
        lane.close()
        raise Closed from error
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    return lane


def _end(worker: _Worker) -> None:
    """Stop a worker and wait for its end."""
    worker.control.close()
    worker.process.kill()  # it has nothing to save, and a run in it would hold it
    worker.process.wait()


def _death(process: subprocess.Popen[bytes]) -> str:
    """Say how a process ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)  # its sockets close a moment before it is gone
    code = process.returncode
    if code is None:
        return "it closed its connection"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"
