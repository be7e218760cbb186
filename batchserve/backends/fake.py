"""A backend without a runtime: tests of the engine hold its runs, make them fail, and read what it was given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from batchserve.backends.base import Batchability, Build, Layout, ModelFile
from batchserve.config import ModelConfig, PadConfig
from batchserve.core.padding import PadRule
from batchserve.core.tensors import DATATYPES, Array, TensorSpec
from batchserve.errors import BackendError, ModelLoadError

__all__ = ["FakeBackend", "FakeRun", "FakeSession"]

GATE_TIMEOUT_S = 30.0
"""A gate that nobody opens ends the run with an error, so that a broken test fails instead of hanging."""

INPUTS = (TensorSpec("x", DATATYPES["INT64"], (-1, 4)),)
OUTPUTS = (TensorSpec("y", DATATYPES["INT64"], (-1, 4)),)


@dataclass(frozen=True, slots=True)
class FakeRun:
    """One call of `FakeSession.run`.

    Attributes:
        rows: Size of axis 0 of the first input; 1 for a scalar.
        thread: Identity of the thread it ran on.
        output_mask: As it was given.
        inputs: The arrays as they were given, not copied.
    """

    rows: int
    thread: int
    output_mask: int
    inputs: tuple[Array, ...]


class FakeBackend:
    """Load any file as one and the same model.

    Args:
        inputs: Inputs of the model; one `int64[-1, 4]` named `x` by default.
        outputs: Outputs; one `int64[-1, 4]` named `y` by default.
        batchable: What the sessions say about batching.
        function: Called as `function(inputs, output_mask)` for the answer of a run; by default each output asked for
            is the input at the same place (the last one where there are fewer inputs).
        gate: Each run waits until it is set; None runs at once.
        fails: A run whose inputs make it true raises `failure`.
        failure: The error that such a run raises.
        load_error: If not "", every load raises `ModelLoadError` with this text.
        load_gate: Each load waits until it is set; None loads at once.
        pad: How the sessions say that requests of different lengths are padded.
        may_run_in_place: What the sessions say about it: False, because a gate would hold the event loop.
        layouts: What the sessions say about them; None for the instances configured, 1 by default.

    All arguments are attributes that a test may change at any time. Any thread.
    """

    def __init__(
        self,
        *,
        inputs: Sequence[TensorSpec] = INPUTS,
        outputs: Sequence[TensorSpec] = OUTPUTS,
        batchable: bool = True,
        function: Callable[[Sequence[Array], int], list[Array]] | None = None,
        gate: threading.Event | None = None,
        fails: Callable[[Sequence[Array]], bool] | None = None,
        failure: type[Exception] = BackendError,
        load_error: str = "",
        load_gate: threading.Event | None = None,
        may_run_in_place: bool = False,
        layouts: Sequence[Layout] | None = None,
        pad: PadRule | None = None,
    ) -> None:
        self.pad = pad
        self.may_run_in_place = may_run_in_place
        self.layouts = layouts
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.batchable = batchable
        self.function = function or self._echo
        self.gate = gate
        self.fails = fails
        self.failure = failure
        self.load_error = load_error
        self.load_gate = load_gate
        self.files: list[ModelFile] = []
        self.sessions: list[FakeSession] = []
        self.runs: list[FakeRun] = []
        self.interrupted: list[int] = []
        self._changed = threading.Condition()

    def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
        """Make a session for the file, which need not exist; see `Backend.load`."""
        with self._changed:
            self.files.append(file)
            self._changed.notify_all()
        if not _opens(self.load_gate):
            raise ModelLoadError(f"the load gate stayed shut for {GATE_TIMEOUT_S:g} s")
        if self.load_error:
            raise ModelLoadError(self.load_error)
        return self.open(self.layouts or (Layout(config.instances or 1, config.intra_op_threads or 1),))

    def open(self, layouts: Sequence[Layout]) -> FakeSession:
        """Make a session without the checks of a load."""
        session = FakeSession(self, layouts)
        self.sessions.append(session)
        return session

    def wait_for_runs(self, count: int, timeout_s: float = GATE_TIMEOUT_S) -> bool:
        """Block until `count` runs have begun (held ones included); False if they have not after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.runs) >= count, timeout_s)

    def note(self, run: FakeRun) -> None:
        """Record that a run has begun, and wake those who wait for it."""
        with self._changed:
            self.runs.append(run)
            self._changed.notify_all()

    def _echo(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        asked = [i for i in range(len(self.outputs)) if output_mask >> i & 1]
        return [inputs[min(i, len(inputs) - 1)].copy() for i in asked]


class FakeSession:
    """What `FakeBackend.load` returns; `runs` of the backend holds the runs of all its sessions."""

    def __init__(self, backend: FakeBackend, layouts: Sequence[Layout]) -> None:
        self._backend = backend
        self.layouts = tuple(layouts)
        self.inputs = backend.inputs
        self.outputs = backend.outputs
        self.batchability = Batchability(backend.batchable, "the test says so")
        self.providers: tuple[str, ...] = ("FakeExecutionProvider",)
        self.may_run_in_place = backend.may_run_in_place
        self.pad = backend.pad
        self.facts: Mapping[str, str] = {"runtime": "fake"}
        self.build: Build | None = None
        self.serves = False
        self.closed = False

    def sample(self, rows: int, length: int = 0) -> list[Array]:
        """Make small random inputs; free axes beyond the first are 3 long, or as asked."""
        random = np.random.default_rng(rows)
        rows = rows if self.batchability.is_batchable else 1
        return [_draw(spec, rows, length or 3, random) for spec in self.inputs]

    def propose_pad(self) -> PadConfig | None:
        """Propose nothing."""
        return None

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Record the run, wait at the gate, then fail or answer as the backend is told to."""
        if self.closed:
            raise BackendError("the session is closed")
        rows = len(inputs[0]) if inputs and inputs[0].ndim else 1
        self._backend.note(FakeRun(rows, threading.get_ident(), output_mask, tuple(inputs)))
        if not _opens(self._backend.gate):
            raise BackendError(f"the gate stayed shut for {GATE_TIMEOUT_S:g} s")
        if self._backend.fails is not None and self._backend.fails(inputs):
            raise self._backend.failure("the fake model was told to fail on these inputs")
        return self._backend.function(inputs, output_mask)

    def reopen(self, layout: Layout) -> FakeSession:
        """Make another session of the backend, for one run of the layout's threads."""
        return self._backend.open((replace(layout, instances=1),))

    def interrupt(self, thread: int) -> None:
        """Note it in `interrupted`; a run that is held goes on."""
        self._backend.interrupted.append(thread)

    def profiled(self) -> FakeProfiled:
        """Make a session whose profile says how many runs it had."""
        session = self._backend.open(self.layouts)
        return FakeProfiled(session)

    def serve(self, layout: Layout, max_rows: int) -> None:
        """Note it."""
        self.serves = True

    def close(self) -> None:
        """Note it; a run afterwards raises."""
        self.closed = True


class FakeProfiled:
    """A session that counts its runs; the profile is their number."""

    def __init__(self, session: FakeSession) -> None:
        self._session = session
        self._runs = 0

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Count the run and make it."""
        self._runs += 1
        return self._session.run(inputs, output_mask)

    def end(self) -> bytes:
        """Close it and give the number."""
        self._session.close()
        return str(self._runs).encode()


def _opens(gate: threading.Event | None) -> bool:
    return gate is None or gate.wait(GATE_TIMEOUT_S)


def _draw(spec: TensorSpec, rows: int, length: int, random: np.random.Generator) -> Array:
    shape = [length if size < 0 else size for size in spec.shape]
    if spec.shape and spec.shape[0] < 0:
        shape[0] = rows
    numbers = random.integers(0, 2, shape)
    if spec.datatype.kind == "bytes":
        return np.asarray(numbers, dtype=np.str_).astype(object)
    return np.asarray(numbers, dtype=spec.datatype.dtype)
