"""What the engine needs of a runtime: load a model file, say what it takes and whether rows are independent, run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from batchserve.config import ModelConfig, PadConfig
from batchserve.core.padding import PadRule
from batchserve.core.tensors import Array, TensorSpec

__all__ = [
    "BUILD_STATES",
    "Backend",
    "Batchability",
    "Build",
    "Layout",
    "ModelFile",
    "PerDevice",
    "Profiled",
    "Session",
]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One version of a model on disk.

    Attributes:
        name: The model's name on the wire.
        version: Its version, from the folder it lies in; 1 for a plain file.
        path: The file to load. For logs on this machine only: never shown to a client.
    """

    name: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class Batchability:
    """Whether rows of different requests may share a run.

    Attributes:
        is_batchable: True if the graph has a free batch axis everywhere and runs proved the rows independent.
        why: One sentence that a person can act on, for the log and the model's configuration; holds no file path.
    """

    is_batchable: bool
    why: str


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to share a processor among the runs of a model.

    Attributes:
        instances: Batches that run at once.
        threads: Threads that compute one of them.
        is_staged: True if runs copy to the device and back through memory of their own; see `backends.staging`.
    """

    instances: int
    threads: int
    is_staged: bool = False

    def __str__(self) -> str:
        return f"{self.instances} x {self.threads}{' staged' * self.is_staged}"


BUILD_STATES = ("waiting", "building", "swapped", "refused", "failed", "declined")
"""States of a `Build`: until the model serves, under way, in use, built and not taken, not built, and one of the latter
two where nobody had asked for it by name."""


@dataclass(frozen=True, slots=True)
class Build:
    """How far a session is with changing to a provider that takes long to build.

    Attributes:
        state: One of `BUILD_STATES`.
        why: A few words for people, without file paths.
        seconds: How long the build took; 0 until it ended.
        swaps: How often another session took the place of the one that served.
    """

    state: str
    why: str
    seconds: float = 0.0
    swaps: int = 0


class Profiled(Protocol):
    """A second session of a model, whose runs the runtime writes down."""

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """See `Session.run`."""
        ...

    def end(self) -> bytes:
        """Close it and return what was written: JSON in the form of Chrome's traces. Blocks."""
        ...


class Session(Protocol):
    """A model held by a runtime, ready to run.

    Attributes:
        inputs: Required inputs in the model's order, full wire shapes (-1 where free).
        outputs: Outputs in the model's order, full wire shapes.
        batchability: The verdict and its reason.
        providers: Execution providers in use, most preferred first, as the runtime names them.
        may_run_in_place: True if a run takes about as long as measured before, so that a short one may be done on the
            event loop's thread; False if it may have to wait for something else.
        layouts: Ways to run it that are worth comparing, never empty. The first is the one it was opened for; it is the
            only one where the configuration leaves no choice.
        pad: How requests of different lengths are padded, proved; None if they are not.
        build: The change to another provider that is under way or over; None if none is due.
        facts: Short words about how it runs (threads, spinning, runtime version) for logs and configuration answers.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """See the class."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """See the class."""
        ...

    @property
    def batchability(self) -> Batchability:
        """See the class."""
        ...

    @property
    def providers(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def may_run_in_place(self) -> bool:
        """See the class."""
        ...

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """See the class."""
        ...

    @property
    def pad(self) -> PadRule | None:
        """See the class."""
        ...

    @property
    def build(self) -> Build | None:
        """See the class."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """See the class."""
        ...

    def sample(self, rows: int, length: int = 0) -> list[Array]:
        """Make inputs the model accepts, for warm-up and proofs.

        Args:
            rows: Rows on axis 0 if the model is batchable; otherwise 1, and the model's own shape with free axes short.
            length: Size of every free axis but the batch; it is not known whether the model accepts it. 0 for one that
                it does.

        Returns:
            One array per input. Random, the same for the same `rows` and `length`.
        """
        ...

    def reopen(self, layout: Layout) -> Session:
        """Open the same model once more, for another layout. Blocks; weights are held twice where its threads differ.

        Nothing is proved again. Both sessions are to be closed.

        Raises:
            ModelLoadError: The runtime refused, or there is no memory for it.
        """
        ...

    def propose_pad(self) -> PadConfig | None:
        """Find a setting for `pad` that the model's own names make plain and that runs prove. Blocks.

        Returns:
            None if there is none, or if padding is in use already.
        """
        ...

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Run the model once. Any thread, several at a time; blocks.

        Args:
            inputs: One C-contiguous array of the input's dtype per input, in order. They are only read.
            output_mask: Bit i set to compute output i; at least one.

        Returns:
            One array for each bit set, in the model's order, owned by the caller.

        Raises:
            OutOfMemory: There was no memory for so many rows.
            BackendError: The runtime refused or failed; the session stays usable.
        """
        ...

    def interrupt(self, thread: int) -> None:
        """Ask the run on another thread to end with an error as soon as it can. Any thread; returns at once.

        What cannot be interrupted goes on.

        Args:
            thread: Identity of the thread, as `threading.get_ident` gives it. No other run may begin on it before the
                present one is over.
        """
        ...

    def profiled(self) -> Profiled:
        """Open the same model once more, watched by the runtime. Blocks; weights are held twice.

        Raises:
            ModelLoadError: The runtime refused, or this kind of session cannot be watched.
        """
        ...

    def serve(self, layout: Layout, max_rows: int) -> None:
        """Take note that the model serves from now on: what must not delay that may begin. Returns at once.

        Args:
            layout: How it runs.
            max_rows: Rows of one run; 0 if rows of different requests do not share one.
        """
        ...

    def close(self) -> None:
        """Give the runtime's memory back. Nothing may be running, and nothing runs afterwards."""
        ...


@runtime_checkable
class PerDevice(Protocol):
    """What a session has that stands for one on each of several devices; asked itself, it answers for the first.

    Attributes:
        devices: Their names.
        sessions: The model on each of them.
    """

    @property
    def devices(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def sessions(self) -> tuple[Session, ...]:
        """See the class."""
        ...

    def in_order(self, order: Sequence[int]) -> Session:
        """Return the same sessions in another order, in the place of this one."""
        ...


class Backend(Protocol):
    """A runtime."""

    def load(self, file: ModelFile, config: ModelConfig) -> Session:
        """Load one version of a model and find out what it is. Blocks, on a helper thread; one load at a time.

        Raises:
            ModelLoadError: The file is missing, not a model, corrupt or cannot be served, with the reason.
        """
        ...
