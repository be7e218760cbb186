"""CUDA graphs: what a run gives the device is captured once for each size of batch, and replayed as a whole.

A captured graph reads and writes the addresses it was captured with, so each size has tensors of its own on the device.
A batch is put into the smallest size that holds it; in the rows left over stands what stood there before, and what
becomes of them is not copied back. Batches larger than every size run as ever.

The runtime keeps captured graphs for the thread that captured them, and neither locks them nor compares shapes, so one
thread of its own makes all runs of the session. Copies are those of `staging`.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from batchserve.backends.agreement import Tolerance
from batchserve.backends.runtime import CREATION, plain_text, require_runtime
from batchserve.backends.staging import Copier, Device, Host, Memory, fetch
from batchserve.backends.staging_proof import prove_staged
from batchserve.backends.tensors import GraphTensor
from batchserve.config import ModelConfig
from batchserve.core.tensors import Array
from batchserve.errors import ModelLoadError

__all__ = ["WHOLE", "GraphRuns", "sizes_of"]

WHOLE = -1
"""The one size of a model without a free axis: its runs all have one shape."""

NO_GRAPH = "-1"
"""In place of a graph's number: the runtime neither captures nor replays."""
RUNS_TO_CAPTURE = 3
"""The runtime captures at the first run or after two plain ones, by its version."""


def sizes_of(config: ModelConfig, inputs: Sequence[GraphTensor]) -> tuple[int, ...]:
    """List the rows to capture graphs for, ascending; `(WHOLE,)` for a model that takes one shape only.

    Raises:
        ModelLoadError: The model takes more shapes than can be captured.
    """
    for tensor in inputs:
        if tensor.axes is None or -1 in tensor.shape[1:]:
            raise ModelLoadError(
                f"cuda_graphs needs fixed shapes, and input {tensor.name!r} has {list(tensor.shape)}, with a free axis "
                "besides the batch: export it with a fixed size, declare its dims in a config.pbtxt, or leave "
                "cuda_graphs out"
            )
    if not any(-1 in tensor.shape for tensor in inputs):
        return (WHOLE,)
    if not config.preferred_batch_sizes:
        raise ModelLoadError(
            "cuda_graphs needs to know which sizes to capture: set preferred_batch_sizes, as in [1, 8, 32], or leave "
            "cuda_graphs out"
        )
    return config.preferred_batch_sizes


class _Job:
    """A call that the session's thread makes for another one."""

    def __init__(self, call: Callable[[], list[Array]]) -> None:
        self.call = call
        self.outputs: list[Array] = []
        self.error: BaseException | None = None
        self.is_done = threading.Event()


class GraphRuns:
    """Takes the place of the runtime's session for `run`. Any thread; runs are made one after the other.

    Args:
        name: The model's, for the thread.
        session: The runtime's session, opened for graphs.
        device: Where its tensors lie.
        dtypes: Element types of its outputs by name, all of them.
    """

    def __init__(self, name: str, session: Any, device: Device, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        hosts = defaultdict[str, Host](partial(Host, device))
        self._shared = _Shared(session, device, device.copier(), dtypes, hosts, Host(device))
        self._graphs: dict[int, _Graph] = {}
        self._sizes: list[int] = []
        self._inbox: SimpleQueue[_Job | None] = SimpleQueue()
        self._is_busy = False
        self._thread = threading.Thread(target=self._work, name=f"graphs {name}", daemon=True)
        self._thread.start()

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        """Run as the runtime's session does, with its errors; the arrays returned are the caller's own."""
        return self._ask(partial(self._run, names, feeds, options))

    def run_eagerly(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        """Run without a graph, as the session would without this class."""
        return self._ask(partial(self._run_eagerly, names, feeds, options))

    def capture(self, size: int, feeds: Mapping[str, Array]) -> None:
        """Capture the graph of a size. Before others run; blocks.

        Args:
            size: Rows, or `WHOLE`.
            feeds: Inputs of so many rows.

        Raises:
            ModelLoadError: It cannot be captured.
        """
        try:
            self._ask(partial(self._capture, size, feeds))
        except Exception as error:  # the runtime's errors share no other base class
            what = f"the graph of {size} rows" if size != WHOLE else "the graph"
            raise ModelLoadError(f"{what} cannot be captured: {plain_text(error)}") from error

    def prove(self, questions: Sequence[Mapping[str, Array]], tolerance: Tolerance) -> None:
        """Hold replays against runs without graphs; see `prove_staged`.

        Raises:
            ModelLoadError: An answer is another, or a run failed.
        """
        prove_staged(self.run_eagerly, self.run, list(self._shared.dtypes), questions, tolerance)

    def close(self) -> None:
        """End the thread and let go of the graphs. A run that is stuck is left to itself: they go when it ends."""
        self._inbox.put(None)
        if not self._is_busy:
            self._thread.join()

    # --- on the session's thread ----------------------------------------------------------------------------------

    def _ask(self, call: Callable[[], list[Array]]) -> list[Array]:
        job = _Job(call)
        self._inbox.put(job)
        job.is_done.wait()
        if job.error is not None:
            raise job.error
        return job.outputs

    def _work(self) -> None:
        while (job := self._inbox.get()) is not None:
            self._is_busy = True
            try:
                job.outputs = job.call()
            except BaseException as error:  # noqa: BLE001  # it is raised where the job came from
                job.error = error
            self._is_busy = False
            job.is_done.set()
            del job  # its arrays must not outlive it while the thread waits for the next
        self._graphs.clear()
        self._shared.session = None

    def _run(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        rows = WHOLE if WHOLE in self._graphs else len(next(iter(feeds.values())))
        place = bisect_left(self._sizes, rows)
        if place == len(self._sizes):
            return self._run_eagerly(names, feeds, options)
        return self._graphs[self._sizes[place]].run(names, feeds, options, rows)

    def _run_eagerly(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        outputs: list[Array] = self._shared.session.run(names, feeds, _options(NO_GRAPH, options))
        return outputs

    def _capture(self, size: int, feeds: Mapping[str, Array]) -> list[Array]:
        # A capture is spoilt by whoever allocates on the device meanwhile, and spoils that: no session is made now.
        with CREATION:
            # Numbers from 1: 0 is that of runs that name none.
            graph = _Graph(self._shared, len(self._graphs) + 1, feeds)
            for _ in range(RUNS_TO_CAPTURE):
                graph.run([], feeds, None, size)
        self._graphs[size] = graph
        self._sizes = sorted(self._graphs)
        return []


@dataclass(slots=True)
class _Shared:
    """What the graphs of a session share; on its thread only once the first is captured.

    Attributes:
        session: The runtime's.
        device: Where its tensors lie.
        copier: Carries all copies.
        dtypes: Element types of all outputs by name.
        inputs: Memory of the host by input, large enough for the largest size.
        answers: The same for all outputs together.
    """

    session: Any
    device: Device
    copier: Copier
    dtypes: Mapping[str, np.dtype[Any]]
    inputs: defaultdict[str, Host]
    answers: Host

    def put(self, feeds: Mapping[str, Array], places: Mapping[str, Memory]) -> None:
        """Copy arrays to the device, each to its place."""
        for name, array in feeds.items():
            if array.nbytes:
                host = self.inputs[name]
                host.need(array.nbytes)
                np.copyto(host.view(array.shape, array.dtype), array)
                self.copier.start(places[name].address, host.address, array.nbytes)
        self.copier.finish()


class _Graph:
    """The tensors and the binding of one size, which never change.

    Args:
        shared: What it has in common with others.
        number: The runtime's name for it.
        feeds: Inputs of the size; the run that finds out the outputs' shapes is made on them.
    """

    def __init__(self, shared: _Shared, number: int, feeds: Mapping[str, Array]) -> None:
        self._shared = shared
        self._number = str(number)
        self._binding = shared.session.io_binding()
        device, binding = shared.device, self._binding
        place = (device.name, device.number)
        self._inputs = {name: device.memory(max(1, array.nbytes)) for name, array in feeds.items()}
        for name, array in feeds.items():
            binding.bind_input(name, *place, array.dtype, array.shape, self._inputs[name].address)
        for name in shared.dtypes:
            binding.bind_output(name, *place)
        shared.put(feeds, self._inputs)
        shared.session.run_with_iobinding(binding, _options(NO_GRAPH))
        shapes = [tuple(value.shape()) for value in binding.get_outputs()]
        self._outputs: dict[str, tuple[Memory, tuple[int, ...]]] = {}
        for (name, dtype), shape in zip(shared.dtypes.items(), shapes, strict=True):
            memory = device.memory(max(1, math.prod(shape) * dtype.itemsize))
            self._outputs[name] = memory, shape
            binding.bind_output(name, *place, dtype, shape, memory.address)

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any, rows: int) -> list[Array]:
        """Replay it, or run and capture it where that has not been done; give the outputs' first rows, or `WHOLE`."""
        shared = self._shared
        shared.put(feeds, self._inputs)
        shared.session.run_with_iobinding(self._binding, _options(self._number, options))
        found = []
        for name in names:
            memory, shape = self._outputs[name]
            if rows != WHOLE:
                shape = (rows, *shape[1:])
            found.append((memory.address, shape, shared.dtypes[name]))
        return fetch(shared.answers, shared.copier, found)


def _options(graph: str, options: Any = None) -> Any:
    """Name the graph of a run in its options."""
    options = options or require_runtime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
