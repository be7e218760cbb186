"""A model file opened by ONNX Runtime: runs batches on it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np

from batchserve.backends.agreement import elsewhere
from batchserve.backends.base import Batchability, Build, Layout
from batchserve.backends.batchability import Findings, investigate
from batchserve.backends.graphs import WHOLE, GraphRuns
from batchserve.backends.padding import guess, mask_of, resolve
from batchserve.backends.padding_proof import prove_padding
from batchserve.backends.providers import CPU, CUDA
from batchserve.backends.runtime import Opened, is_out_of_memory, open_session, plain_text, require_runtime
from batchserve.backends.samples import draw
from batchserve.backends.staging import device_of, stage
from batchserve.backends.staging_proof import TRIAL_ROWS, prove_staged, trials
from batchserve.backends.tensors import GraphTensor
from batchserve.config import ModelConfig, PadConfig
from batchserve.core.padding import PadRule
from batchserve.core.tensors import Array, TensorSpec
from batchserve.errors import BackendError, ModelLoadError, OutOfMemory

__all__ = ["OnnxSession"]

OUTSIZED = 2.0
"""A run is outsized if its inputs have more than so many times the bytes of the largest of late."""
FORGETTING = 0.999
"""What becomes of that largest size with each run: half of it is left after some 700."""

ARENAS = {CPU: "cpu:0", CUDA: "cpu:0;gpu:{device}"}
"""The arenas to shrink, as the runtime names them, by the first provider. It fails a run that names one it has not."""


class OnnxSession:
    """A loaded model. `run` from any thread, several at once on the one session; the rest on one thread at a time.

    Args:
        opened: The runtime's session.
        config: What it was opened by.
        inputs: The model's inputs, as declared.
        outputs: The model's outputs, as declared.
        facts: What is known about how it runs.
        findings: What runs of the same model showed before; None to find out now.
        runs: What takes the place of the runtime's session for `run`; None for nothing.

    Raises:
        ModelLoadError: `pad` does not fit the model or changes answers, or the model does not batch.
    """

    def __init__(
        self,
        opened: Opened,
        config: ModelConfig,
        inputs: Sequence[GraphTensor],
        outputs: Sequence[GraphTensor],
        facts: Mapping[str, str],
        findings: Findings | None = None,
        runs: GraphRuns | None = None,
    ) -> None:
        self._opened: Opened | None = opened
        self._session: Any = runs or opened.session  # or what takes its place for `run`
        self._path = opened.path
        self._config = config
        self._graph_inputs = inputs
        self._graph_outputs = outputs
        self.layouts: tuple[Layout, ...] = opened.layouts
        self.build: Build | None = None
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]
        self._names_by_mask: dict[int, list[str]] = {}
        self._make_options: Callable[[], Any] = require_runtime().RunOptions
        self._options: dict[int, Any] = {}  # by thread: made once, for they cost a quarter of a microsecond
        self._usual_bytes = 0.0
        self.providers: tuple[str, ...] = tuple(opened.session.get_providers())
        # A captured graph goes on using memory that the arena holds to be free.
        arenas = ARENAS.get(self.providers[0], "") if runs is None else ""
        self._arenas = arenas.format(device=opened.device_number)
        # A run on an accelerator waits for whoever else uses the device, and the event loop has no cores of its own.
        self.may_run_in_place = self.providers == (CPU,) and not config.cpu_affinity
        began = time.perf_counter()
        self.pad = _padding(config, inputs, outputs)
        self._findings = findings or investigate(
            self._run_whole,
            inputs,
            outputs,
            elsewhere(self.providers),
            is_switched_off=config.max_batch_size == 0,
            mask=None if self.pad is None else mask_of(self.pad, inputs),
        )
        padding = {"padding": self._prove(self.pad)} if self.pad is not None and findings is None else {}
        self.inputs = _specs(inputs)
        self.outputs = _specs(_with_ranks(outputs, self._findings.ranks))
        self.facts: Mapping[str, str] = {
            "proof_s": f"{time.perf_counter() - began:.3f}",
            **padding,
            **facts,
            "sample": str(self._findings.settings or f"none found: {self._findings.error}"),
        }

    @property
    def batchability(self) -> Batchability:
        """The verdict of the runs at load, and its reason."""
        return self._findings.batchability

    def _run_whole(self, inputs: Sequence[Array]) -> list[Array]:
        """Run and give every output."""
        return self.run(inputs, (1 << len(self._output_names)) - 1)

    def propose_pad(self) -> PadConfig | None:
        """Find a `pad` that the names of the inputs make plain and that runs prove; see `Session.propose_pad`."""
        settings = self._findings.settings
        if self.pad is not None or settings is None or not self.batchability.is_batchable:
            return None
        proposed = guess(self._run_whole, self._graph_inputs, self._graph_outputs, settings)
        if proposed is None:
            return None
        try:
            self._prove(resolve(proposed, None, self._graph_inputs, self._graph_outputs))
        except ModelLoadError:
            return None
        return proposed

    def _prove(self, pad: PadRule) -> str:
        settings = self._findings.settings
        if settings is None or not self.batchability.is_batchable:
            raise ModelLoadError(f"pad joins requests, but this model cannot be batched: {self.batchability.why}")
        return prove_padding(
            self._run_whole,
            pad,
            self._graph_inputs,
            self._output_names,
            settings,
            elsewhere(self.providers),
        )

    def sample(self, rows: int, length: int = 0) -> list[Array]:
        """Make random inputs with the settings that worked at load; see `Session.sample`.

        Raises:
            BackendError: The model accepted none of the inputs tried at load, so none are known.
        """
        settings = self._findings.settings
        if settings is None:
            raise BackendError(f"no inputs are known that the model accepts: {self._findings.error}")
        return draw(
            self._graph_inputs,
            replace(settings, length=length) if length else settings,
            rows if self.batchability.is_batchable else 1,
            np.random.default_rng(rows),
        )

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Run the model once; see `Session.run`. Does not copy inputs; releases the GIL while it computes."""
        session = self._session
        if session is None:
            raise BackendError("the session is closed")
        names = self._names_by_mask.get(output_mask)
        if names is None:
            names = [name for i, name in enumerate(self._output_names) if output_mask >> i & 1]
            self._names_by_mask[output_mask] = names
        thread = get_ident()
        options = self._options.get(thread)
        if options is None:
            options = self._options[thread] = self._make_options()
        is_outsized = self._is_outsized(inputs)
        if is_outsized:  # a setting stays set, so these options are for this run alone
            options = self._options[thread] = self._make_options()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._arenas)
        try:
            # Names cost nothing; None would make the runtime list the outputs, half a microsecond a call.
            outputs: list[Array] = session.run(names, dict(zip(self._input_names, inputs, strict=True)), options)
        except Exception as error:  # the runtime's errors share no other base class
            kind = OutOfMemory if is_out_of_memory(error) else BackendError
            raise kind(plain_text(error, self._path)) from error
        finally:
            if is_outsized:
                self._options.pop(thread, None)
        return outputs

    def interrupt(self, thread: int) -> None:
        """Ask the run on a thread to end at its next node; see `Session.interrupt`. Kernels of a GPU go on."""
        # A flag that is set stays set, so these options are never used again.
        options = self._options.pop(thread, None)
        if options is not None:
            options.terminate = True

    def _is_outsized(self, inputs: Sequence[Array]) -> bool:
        """Say whether a run's inputs are far larger than those of late: the arena would keep what it takes.

        Threads may race for the usual size, which does no harm.
        """
        size_bytes = 0
        for array in inputs:
            size_bytes += array.nbytes
        usual_bytes = self._usual_bytes
        self._usual_bytes = max(size_bytes, usual_bytes * FORGETTING)
        return size_bytes > usual_bytes * OUTSIZED and bool(usual_bytes and self._arenas)

    def reopen(self, layout: Layout) -> OnnxSession:
        """Open the same file for another layout; see `Session.reopen`. A staged one shares the runtime's session."""
        if layout.is_staged:
            return self._staged(layout)
        config = replace(self._config, instances=1, intra_op_threads=layout.threads, staging="off", cuda_graphs=False)
        if self.providers == (CPU,):  # be it by fallback: what is configured for others would be refused
            config = replace(config, providers=("cpu",), device=None, provider_options=())
        opened = open_session(self._path, config)
        facts = {**self.facts, "intra_op_threads": str(layout.threads)}
        return OnnxSession(opened, config, self._graph_inputs, self._graph_outputs, facts, self._findings)

    def _staged(self, layout: Layout) -> OnnxSession:
        assert self._opened is not None, "it is open"
        if layout.threads != self.layouts[0].threads:
            raise ModelLoadError("staged layouts have the threads of the session that they share")
        opened = replace(self._opened, layouts=(replace(layout, instances=1),))
        made = OnnxSession(opened, self._config, self._graph_inputs, self._graph_outputs, self.facts, self._findings)
        try:
            made.stage()
        except ModelLoadError as error:
            self.facts = {**self.facts, "staging": f"not used: {error}"}
            raise
        self.facts = {**self.facts, "staging": "not used: it answers the same, but was not chosen"}
        return made

    def stage(self) -> None:
        """Run through buffers of its own from now on, if that answers the same; before anything else runs. Blocks.

        Raises:
            ModelLoadError: It cannot be done, or other answers came; runs go on as before.
        """
        assert self._opened is not None, "it is open"
        if self._findings.settings is None:
            raise ModelLoadError(f"no inputs are known to compare answers with: {self._findings.error}")
        plain, is_batching = self._opened.session, self.batchability.is_batchable
        device = device_of(self.providers, self._opened.device_number)
        staged = stage(plain, device, self._graph_inputs, self._graph_outputs)
        questions = [self._feeds(one) for one in trials(self.sample, TRIAL_ROWS if is_batching else ())]
        prove_staged(plain.run, staged.run, self._output_names, questions, elsewhere(self.providers))
        self._session = staged
        self.facts = {**self.facts, "staging": "used"}

    def capture(self, runs: GraphRuns, sizes: Sequence[int]) -> None:
        """Capture graphs of some sizes, if they answer the same; before anything else runs. Blocks.

        Args:
            runs: What the session was made with.
            sizes: Rows, or `WHOLE` alone.

        Raises:
            ModelLoadError: It cannot be done, or other answers came.
        """
        if self._findings.settings is None:
            raise ModelLoadError(f"cuda_graphs: no inputs are known to capture with: {self._findings.error}")
        is_batching = tuple(sizes) != (WHOLE,)
        if is_batching and not self.batchability.is_batchable:
            raise ModelLoadError(f"cuda_graphs fills batches up, but this model has none: {self.batchability.why}")
        for size in sizes:
            runs.capture(size, self._feeds(self.sample(max(1, size))))
        # One less in each size, and one more than the largest, too.
        rows = sorted({n for size in sizes for n in (size - 1, size)} - {0} | {sizes[-1] + 1}) if is_batching else ()
        runs.prove([self._feeds(one) for one in trials(self.sample, rows)], elsewhere(self.providers))
        self.facts = {**self.facts, "cuda_graphs": ", ".join(map(str, sizes)) if is_batching else "of the whole run"}

    def _feeds(self, inputs: Sequence[Array]) -> dict[str, Array]:
        return dict(zip(self._input_names, inputs, strict=True))

    def profiled(self) -> _ProfiledSession:
        """Open the same file as it is, watched by the runtime; see `Session.profiled`."""
        folder = Path(tempfile.mkdtemp(prefix="batchserve-profile-"))
        try:
            opened = open_session(self._path, replace(self._config, cuda_graphs=False), str(folder / "profile"))
            facts = {**self.facts, "profiled": "true"}
            return _ProfiledSession(
                OnnxSession(opened, self._config, self._graph_inputs, self._graph_outputs, facts, self._findings),
                folder,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def end_profile(self) -> Path:
        """Let the runtime write its profile, and return the file."""
        return Path(self._session.end_profiling())

    def serve(self, layout: Layout, max_rows: int) -> None:
        """Do nothing: everything was done at load."""

    def close(self) -> None:
        """Let go of the runtime's session, which frees its memory once no run holds it."""
        if isinstance(self._session, GraphRuns):
            self._session.close()
        self._session = self._opened = None


def _padding(config: ModelConfig, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> PadRule | None:
    if config.pad is None or config.max_batch_size == 0:
        return None
    return resolve(config.pad, config.max_batch_tokens, inputs, outputs)


class _ProfiledSession:
    """A session whose runs are written to a folder of its own, which goes with it."""

    def __init__(self, session: OnnxSession, folder: Path) -> None:
        self._session = session
        self._folder = folder
        self.run = session.run

    def end(self) -> bytes:
        """See `Profiled.end`."""
        try:
            return self._session.end_profile().read_bytes()
        finally:
            self._session.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _specs(tensors: Sequence[GraphTensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


def _with_ranks(outputs: Sequence[GraphTensor], ranks: Sequence[int]) -> list[GraphTensor]:
    """Give outputs of unknown rank the rank that a run showed."""
    if not ranks:
        return list(outputs)
    return [tensor.with_rank(rank) for tensor, rank in zip(outputs, ranks, strict=True)]
