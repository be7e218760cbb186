"""Loads models on TensorRT: with a profile and a cache for their engines, built apart, a session for each instance."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import get_ident
from typing import TYPE_CHECKING

from batchserve.backends import engines, inventory
from batchserve.backends.base import Backend, Build, Layout, ModelFile, Session
from batchserve.backends.header import Header, header_of, read_header
from batchserve.backends.isolated import load_apart
from batchserve.backends.preprocess import preprocessed
from batchserve.backends.providers import TENSORRT, full_name
from batchserve.backends.sessions import Sessions
from batchserve.core.limits import DEFAULT_MAX_BATCH_SIZE
from batchserve.errors import ModelLoadError

if TYPE_CHECKING:
    from batchserve.config import ModelConfig
    from batchserve.core.tensors import Array

__all__ = ["EngineBackend", "SessionEach", "keep_profile", "plan"]

PADDED_LENGTHS = (1, 64)
"""Lengths that the proof of `pad` runs, from the shortest to the longest one rounded up."""

log = logging.getLogger(__name__)

Options = Mapping[str, str]


class EngineBackend:
    """Prepares what runs on TensorRT first, and passes everything else on.

    Args:
        inner: What loads.
        root: Folder of the engines; need not exist.
        machine: Says what engines depend on besides model and options, for the number of a device.
        apart: Loads a model in a process of its own and lets it go again. An engine that is not kept yet is built
            there: a build takes minutes, in which this process could make no other session.
    """

    def __init__(
        self,
        inner: Backend,
        root: Path,
        machine: Callable[[int], Mapping[str, str]] = inventory.engine_machine,
        apart: Callable[[ModelFile, ModelConfig], None] = load_apart,
    ) -> None:
        self._inner = inner
        self._root = root
        self._machine = machine
        self._apart = apart

    def load(self, file: ModelFile, config: ModelConfig) -> Session:
        """Load a version. Blocks: for minutes if its engine is not kept.

        Raises:
            ModelLoadError: As the inner backend; or lengths are free and unknown, or the profile does not fit.
        """
        if not config.providers or full_name(config.providers[0]) != TENSORRT:
            return self._inner.load(file, config)
        config = self._prepared(file, config)
        options = _options_of(config)
        built = Path(options["trt_engine_cache_path"]) / "built"
        if config.isolation != "process" and options["trt_engine_cache_enable"] == "True" and not built.exists():
            start_s = time.monotonic()
            self._apart(file, config)
            with contextlib.suppress(OSError):  # it may be deleted at any time, and only costs a build
                built.touch()
            log.info("model %s: its engines for TensorRT were built in %.1f s", file.name, time.monotonic() - start_s)
        first = self._inner.load(file, config)
        instances = config.instances or 1
        if instances == 1 or first.providers[0] != TENSORRT:
            return first
        sessions = [first]
        with contextlib.ExitStack() as opened:
            opened.callback(first.close)
            while len(sessions) < instances:
                sessions.append(first.reopen(Layout(1, first.layouts[0].threads)))
                opened.callback(sessions[-1].close)
            opened.pop_all()
        return SessionEach(sessions)

    def profile_file(self, file: ModelFile, config: ModelConfig, max_rows: int) -> Path | None:
        """Say where the lengths that were learnt for a model are kept; None if its file cannot be read. Blocks."""
        if full_name(config.providers[0]) != TENSORRT:
            return None
        rows = {"rows": str(max_rows), "usual": str(max(config.preferred_batch_sizes, default=0))}
        try:
            digest = engines.model_digest(file.path, repr(config.preprocess))
        except (OSError, ValueError):
            return None
        return self._folders(config).of(digest, _options_of(config) | rows).with_suffix(".json")

    def _folders(self, config: ModelConfig) -> engines.EngineFolders:
        _, _, number = (config.device or "").partition(":")
        return engines.EngineFolders(self._root, self._machine(int(number or 0)))

    def _prepared(self, file: ModelFile, config: ModelConfig) -> ModelConfig:
        options = _options_of(config)
        header = _header(file, config)
        if header is not None and None not in header.inputs.values():
            inputs = {name: _shape(axes) for name, axes in header.inputs.items() if axes is not None}
            inputs |= {one.name: one.shape for one in config.inputs if one.shape is not None and one.name in inputs}
            if any(option in options for option in engines.PROFILE_OPTIONS):
                engines.profile_bounds(options, inputs)
            else:
                rows = DEFAULT_MAX_BATCH_SIZE if config.max_batch_size is None else config.max_batch_size
                options |= engines.profile(inputs, rows, max(config.preferred_batch_sizes, default=0))
        try:
            digest = engines.model_digest(file.path, repr(config.preprocess))
            options = engines.cache_options(self._folders(config), digest, options)
            for option in ("trt_engine_cache_path", "trt_timing_cache_path"):
                Path(options[option]).mkdir(parents=True, exist_ok=True)
        except ValueError:
            raise ModelLoadError("the model file is empty: expected an ONNX model; copy it again") from None
        except OSError as error:
            raise ModelLoadError(
                f"its engines cannot be kept: {error.strerror}; set server.cache_dir to a folder that can be written"
            ) from error
        return _with_options(config, options)


def plan(
    config: ModelConfig,
    session: Session,
    max_rows: int,
    shapes: Callable[[], Sequence[Sequence[engines.Shape]]],
    kept: Path | None = None,
) -> tuple[ModelConfig, engines.Bounds | None]:
    """Say what a model that serves on another provider is to be built for.

    Args:
        config: Its configuration, which prefers the provider that is to be built.
        session: What serves.
        max_rows: Rows of one run; 0 if rows of different requests do not share one.
        shapes: Gives the shapes of runs in service; called, and waited for, only where they must be known.
        kept: Where an earlier process may have kept what it learnt of them.

    Returns:
        The configuration to load with, and the shapes that it will take; None if it takes all that come.

    Raises:
        ModelLoadError: A configured profile does not fit the model.
    """
    if full_name(config.providers[0]) != TENSORRT:
        return config, None
    inputs = {spec.name: spec.shape for spec in session.inputs}
    options = _options_of(config)
    is_open = engines.has_unknown_lengths(inputs, max_rows)
    if not any(option in options for option in engines.PROFILE_OPTIONS):
        found = _kept_profile(kept, inputs) if is_open and kept is not None else None
        if found is None:
            seen, also = (shapes(), _possible(session)) if is_open else ((), ())
            found = engines.profile(inputs, max_rows, max(config.preferred_batch_sizes, default=0), seen, also)
        config = _with_options(config, options | found)
    return config, engines.profile_bounds(_options_of(config), inputs) if is_open else None


def keep_profile(config: ModelConfig, kept: Path) -> None:
    """Keep which lengths a model was built for, so that the next start neither waits nor builds. Logs a failure."""
    options = _options_of(config)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        whole = kept.with_suffix(".new")
        whole.write_text(json.dumps({name: options[name] for name in engines.PROFILE_OPTIONS}), "utf-8")
        whole.replace(kept)
    except OSError as error:
        log.warning("the lengths that were learnt cannot be kept: %s", error)


def _kept_profile(kept: Path, inputs: Mapping[str, engines.Shape]) -> dict[str, str] | None:
    """Read what `keep_profile` has written; None if there is nothing, or nothing that fits."""
    try:
        found = json.loads(kept.read_text("utf-8"))
        options = {name: str(found[name]) for name in engines.PROFILE_OPTIONS}
        engines.profile_bounds(options, inputs)
    except (OSError, ValueError, KeyError, TypeError, ModelLoadError):
        return None
    return options


def _possible(session: Session) -> list[list[engines.Shape]]:
    """Give shapes of the runs that will hold the engine against what serves."""
    samples = [session.sample(engines.LEAST_ROWS)]
    if session.pad is not None:
        samples += [session.sample(1, length) for length in PADDED_LENGTHS]
    return [[one.shape for one in sample] for sample in samples]


def _options_of(config: ModelConfig) -> dict[str, str]:
    """Return what is configured for TensorRT."""
    return {key: value for name, own in config.provider_options if full_name(name) == TENSORRT for key, value in own}


def _with_options(config: ModelConfig, options: Options) -> ModelConfig:
    """Put options for TensorRT in the place of those that are configured."""
    others = tuple(table for table in config.provider_options if full_name(table[0]) != TENSORRT)
    return replace(config, provider_options=(*others, ("tensorrt", tuple(sorted(options.items())))))


def _header(file: ModelFile, config: ModelConfig) -> Header | None:
    if config.preprocess is None:
        return read_header(file.path)
    return header_of(preprocessed(file.path, config.preprocess).content)


def _shape(axes: Sequence[int | str | None]) -> engines.Shape:
    return tuple(axis if isinstance(axis, int) else -1 for axis in axes)


class SessionEach(Sessions):
    """Several sessions of one model, each of which runs one batch at a time. `run` from any thread.

    TensorRT's provider locks a session for a whole run, so instances that shared one would wait for each other.

    Args:
        sessions: At least one; closed with this one. All are the same but for the memory they use.
    """

    build: Build | None = None

    def __init__(self, sessions: Sequence[Session]) -> None:
        super().__init__(sessions)
        self.layouts: tuple[Layout, ...] = (Layout(len(sessions), sessions[0].layouts[0].threads),)
        self._free: SimpleQueue[Session] = SimpleQueue()
        self._by_thread: dict[int, Session] = {}
        for session in sessions:
            self._free.put(session)

    @property
    def facts(self) -> Mapping[str, str]:
        """Those of `Sessions`, and how many there are."""
        return {**super().facts, "sessions": str(len(self.sessions))}

    def reopen(self, layout: Layout) -> Session:
        """Open one session more; see `Session.reopen`."""
        return self.sessions[0].reopen(layout)

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Run on a session that is free, or wait for one; see `Session.run`."""
        session = self._by_thread[get_ident()] = self._free.get()
        try:
            return session.run(inputs, output_mask)
        finally:
            del self._by_thread[get_ident()]
            self._free.put(session)

    def interrupt(self, thread: int) -> None:
        """Interrupt the session that the thread's run is in; see `Session.interrupt`. The others go on."""
        session = self._by_thread.get(thread)
        if session is not None:
            session.interrupt(thread)

    def serve(self, layout: Layout, max_rows: int) -> None:
        """Do nothing: everything was done at load."""
