"""Serves a model at once on what is quick to open, and changes to what it should run on when that is built and proved.

Some providers build an engine for minutes. A model that prefers one is opened on the providers after it; once it
serves, a thread of its own opens the preferred one, holds its answers and its speed against those of the session that
serves, and puts it in its place between two runs. On any trouble everything stays as it was, and says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchserve.backends.base import Backend, Batchability, Build, Layout, ModelFile, Profiled, Session
from batchserve.backends.engine_backend import keep_profile, plan
from batchserve.backends.engines import is_inside
from batchserve.backends.objections import objection
from batchserve.backends.preferences import what_beside
from batchserve.backends.providers import full_name
from batchserve.backends.recent_runs import SHAPES, RecentRuns
from batchserve.errors import BackendError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.backends.engines import Bounds
    from batchserve.config import ModelConfig, PadConfig
    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array, TensorSpec

__all__ = ["SwappingBackend", "SwappingSession"]

ProfileFile = Callable[[ModelFile, "ModelConfig", int], Path | None]

log = logging.getLogger(__name__)


class SwappingBackend:
    """Loads through another backend, and leaves slow builds for later.

    Args:
        inner: What loads.
        available: Gives the providers that the runtime has; what it does not have is no build to wait for.
        profile_file: Says where lengths that were learnt are kept, for a model and its most rows in one run.
    """

    def __init__(
        self,
        inner: Backend,
        available: Callable[[], Sequence[str]] | None = None,
        profile_file: ProfileFile | None = None,
    ) -> None:
        self._inner = inner
        self._available = available
        self._profile_file = profile_file

    def load(self, file: ModelFile, config: ModelConfig) -> Session:
        """Load a version; if its first provider is to be built beside the serving, on the providers after it.

        Raises:
            ProviderUnavailable: The runtime does not have one of the providers, and there is no fallback.
            ModelLoadError: As the inner backend.
        """
        beside = what_beside(config, self._available)
        if beside is None:
            return self._inner.load(file, config)
        session = self._inner.load(file, beside.before)
        return SwappingSession(
            session, self._inner, file, beside.config, is_asked=beside.is_asked, profile_file=self._profile_file
        )


class _LeftError(Exception):
    """The model leaves: nothing is to be built for it any more."""


class _Held:
    """A session and the threads that run in it. Invariant: closed exactly once, when it was left and none is in it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.threads: set[int] = set()
        self.is_left = False


class SwappingSession:
    """A session whose place another one may take. `run` from any thread.

    Attributes:
        build: How far the other is.
        is_learning: True while the build waits for requests to show which lengths there are.

    Args:
        session: Serves until then, and for good if the build fails.
        backend: Opens the other.
        file: The model.
        config: What the other is opened by.
        is_asked: False if `auto` brought the other in: then it is no fault that it is not taken.
        profile_file: See `SwappingBackend`.
    """

    def __init__(
        self,
        session: Session,
        backend: Backend,
        file: ModelFile,
        config: ModelConfig,
        *,
        is_asked: bool = True,
        profile_file: ProfileFile | None = None,
    ) -> None:
        self._held = _Held(session)
        self._before: _Held | None = None
        self._backend = backend
        self._file = file
        self._config = config
        self._is_asked = is_asked
        self._profile_file = profile_file
        self._lock = threading.Lock()
        self._is_closed = False
        self._layout, self._max_rows = session.layouts[0], 0
        self._runs: RecentRuns | None = None
        self.is_learning = False
        self._bounds: Bounds | None = None
        self._thread: threading.Thread | None = None
        self.build = Build("waiting", f"{config.providers[0]} is built once the model serves")
        # What takes its place may have to wait for a device.
        self.may_run_in_place = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Those of the session that serves; the other has the same."""
        return self._held.session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Those of the session that serves; the other has the same."""
        return self._held.session.outputs

    @property
    def batchability(self) -> Batchability:
        """That of the session that serves; the other's is the same."""
        return self._held.session.batchability

    @property
    def pad(self) -> PadRule | None:
        """That of the session that serves; the other's is the same."""
        return self._held.session.pad

    @property
    def providers(self) -> tuple[str, ...]:
        """Those of the session that serves now."""
        return self._held.session.providers

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Those of the session that serves now."""
        return self._held.session.layouts

    @property
    def facts(self) -> Mapping[str, str]:
        """Those of the session that serves now, and the state of the build."""
        return {**self._held.session.facts, "build": f"{self.build.state}: {self.build.why}"}

    def sample(self, rows: int, length: int = 0) -> list[Array]:
        """See `Session.sample`."""
        return self._held.session.sample(rows, length)

    def propose_pad(self) -> PadConfig | None:
        """See `Session.propose_pad`."""
        return self._held.session.propose_pad()

    def reopen(self, layout: Layout) -> SwappingSession:
        """Open the serving session again; the same build is due for it."""
        config = replace(self._config, intra_op_threads=layout.threads, instances=1)
        return SwappingSession(
            self._held.session.reopen(layout),
            self._backend,
            self._file,
            config,
            is_asked=self._is_asked,
            profile_file=self._profile_file,
        )

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        """Run on the session that serves at this moment; see `Session.run`."""
        runs = self._runs
        if runs is not None:
            runs.note(inputs, output_mask)
        held = self._enter(inputs)
        try:
            return held.session.run(inputs, output_mask)
        finally:
            self._leave(held)

    def interrupt(self, thread: int) -> None:
        """Interrupt the run on a thread, on the session that it is in: that may be the one before."""
        for held in (self._held, self._before):
            if held is not None and thread in held.threads:
                held.session.interrupt(thread)

    def profiled(self) -> Profiled:
        """Open what serves now once more; see `Session.profiled`."""
        return self._held.session.profiled()

    def serve(self, layout: Layout, max_rows: int) -> None:
        """Begin the build, on a thread of its own. Called once, when the model serves."""
        self._layout, self._max_rows = layout, max_rows
        self._runs = RecentRuns()
        self._thread = threading.Thread(target=self._build, name=f"build {self._file.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close what serves; a build that is still going on is closed when it ends."""
        with self._lock:
            self._is_closed = True
            runs = self._runs
            leaving = [held for held in (self._held, self._before) if held is not None and not held.is_left]
            for held in leaving:
                held.is_left = True
            empty = [held for held in leaving if not held.threads]
        if runs is not None:
            runs.stop()
        for held in empty:
            held.session.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the build; False if it has not come in that time. For commands and tests."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    # --- runs and their sessions ----------------------------------------------------------------------------------

    def _enter(self, inputs: Sequence[Array]) -> _Held:
        with self._lock:
            if self._is_closed:
                raise BackendError("the session is closed")
            held = self._held
            if self._bounds is not None and self._before is not None and not is_inside(inputs, self._bounds):
                held = self._before
            held.threads.add(threading.get_ident())
            return held

    def _leave(self, held: _Held) -> None:
        with self._lock:
            held.threads.discard(threading.get_ident())
            is_over = held.is_left and not held.threads
        if is_over:
            held.session.close()

    def _swap(self, session: Session, bounds: Bounds | None) -> bool:
        """Let the runs that begin from now on use another session; False if there is nobody left to serve.

        Args:
            session: The other.
            bounds: Shapes that it takes, None for all; the one before stays for the rest.
        """
        with self._lock:
            if self._is_closed:
                return False
            before, self._held = self._held, _Held(session)
            self._before, self._bounds = before, bounds
            before.is_left = bounds is None
            is_empty = before.is_left and not before.threads
        if is_empty:
            before.session.close()
        return True

    # --- the build, on its own thread -----------------------------------------------------------------------------

    def _build(self) -> None:
        name, wanted, before = self._file.name, self._config.providers[0], self.providers[0]
        start_s = time.monotonic()
        ended: Build | None = None
        session: Session | None = None
        try:
            config = replace(self._config, instances=self._layout.instances)
            kept = self._profile_file and self._profile_file(self._file, config, self._max_rows)
            config, bounds = plan(config, self, self._max_rows, self._shapes, kept)
            start_s = time.monotonic()
            self.build = Build("building", f"{wanted} is being built")
            session = self._backend.load(self._file, config)
            seconds = time.monotonic() - start_s
            if problem := self._objection_to(session, bounds):
                ended = Build("refused", f"{wanted} is not used: {problem}", seconds)
            elif self._swap(session, bounds):
                session = None
                if bounds and kept:
                    keep_profile(config, kept)
                rest = f"; lengths that it was not built for stay on {before}" if bounds else ""
                ended = Build("swapped", f"runs on {wanted} since it was built{rest}", seconds, swaps=1)
        except _LeftError:
            pass
        except (ModelLoadError, BackendError) as error:
            ended = Build("failed", f"{wanted} could not be built: {error}", time.monotonic() - start_s)
        except Exception:  # the build's thread ends with it; serving goes on
            log.exception("the build of model %s ended with a bug", name)
            ended = Build("failed", "a bug in the server; its log has details", time.monotonic() - start_s)
        finally:
            self._runs = None
            if session is not None:
                session.close()
        if ended is None or self._is_closed:
            return  # the model leaves
        if ended.state != "swapped" and not self._is_asked:
            ended = replace(ended, state="declined")
        self.build = ended
        if ended.state in ("swapped", "declined"):
            log.info("model %s: %s, after %.1f s", name, ended.why, ended.seconds)
        else:
            log.warning("model %s stays on %s: %s", name, before, ended.why)

    def _objection_to(self, session: Session, bounds: Bounds | None) -> str:
        wanted = full_name(self._config.providers[0])
        if wanted not in map(full_name, session.providers):
            return f"it could not be started, and {session.providers[0]} took its place"
        recorded = [] if self._runs is None else self._runs.inputs
        return objection(session, self, [one for one in recorded if bounds is None or is_inside(one[0], bounds)])

    def _shapes(self) -> Sequence[Sequence[tuple[int, ...]]]:
        """Wait until requests have shown which lengths there are.

        Raises:
            _LeftError: The model leaves.
        """
        runs = self._runs
        assert runs is not None, "runs are watched until the build is over"
        wanted = self._config.providers[0]
        self.build = Build("waiting", f"{wanted} is built once {SHAPES} runs have shown which lengths there are")
        self.is_learning = True
        runs.wait()
        self.is_learning = False
        if self._is_closed:
            raise _LeftError
        return list(runs.shapes)
