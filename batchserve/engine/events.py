"""What the engine tells whoever listens: once per batch, once per change of state, never per request on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from batchserve.backends.base import BUILD_STATES

if TYPE_CHECKING:
    from batchserve.core.request import Request
    from batchserve.core.trace import Trace
    from batchserve.engine.model import Model

__all__ = [
    "BUILD_STATES",
    "ArrivalListener",
    "BatchEnded",
    "Listener",
    "ModelState",
    "NullListener",
    "RequestsEnded",
    "TracedRequest",
]


class ModelState:
    """States of a model version (protocol.md section 11); plain strings, so that they print as they are."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """A request that is recorded, as it went through the batch that completed it.

    Attributes:
        trace: What it is called.
        admitted_s: When it entered the queue (monotonic).
        rows: Its rows.
    """

    trace: Trace
    admitted_s: float
    rows: int


@dataclass(slots=True)  # not frozen: one is made for each batch, in a quarter of the time
class BatchEnded:
    """One execution came back, well or not. Nobody writes to it.

    Attributes:
        rows: Rows it ran.
        requests: Requests (or parts of split ones) that rode in it.
        reason: Why it was cut: `full`, `idle`, `timer`, `deadline`, `shape`, `drain`; `isolate` for a repeated half.
        instance: Index of the instance that ran it.
        ok: True if the runtime answered as promised.
        start_s: The instance's thread took it up (monotonic, as all of these).
        run_start_s: Gathered; the runtime was called.
        run_end_s: The runtime returned.
        done_s: Split, back on the event loop.
        arrivals_s: Arrival of each request that this batch completed (split requests count in their last part's batch).
        admissions_s: When each of those entered the queue; same order and length.
        completed_rows: Rows of those requests altogether.
        late: How many of those were past their deadline when they were done.
        predicted_s: Seconds from cut to return that were expected when it was cut.
        held_s: Seconds for which it was held on purpose before that.
        answered_s: Their answers had been written, or handed to whoever writes them; not before `done_s`.
        trace_ids: W3C trace id of each of those requests, "" for one without; empty if none has one.
        traced: Those of them whose spans are recorded here.
        cut_s: When it was cut.
        padded_share: Part of its elements that are padding, 0 to 1.
        tokens: Rows times length if the model pads, else the rows.
    """

    rows: int
    requests: int
    reason: str
    instance: int
    ok: bool
    start_s: float
    run_start_s: float
    run_end_s: float
    done_s: float
    arrivals_s: Sequence[float]
    admissions_s: Sequence[float]
    completed_rows: int
    late: int
    predicted_s: float = 0.0
    held_s: float = 0.0
    answered_s: float = 0.0
    trace_ids: Sequence[str] = ()
    traced: Sequence[TracedRequest] = ()
    cut_s: float = 0.0
    padded_share: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class RequestsEnded:
    """Requests of one model that ended without an answer from it, all for one reason, at one moment.

    Attributes:
        outcome: `failed`, `expired`, `cancelled` or `refused`.
        arrivals_s: Arrival of each (monotonic seconds).
        ended_s: When they ended.
    """

    outcome: str
    arrivals_s: Sequence[float]
    ended_s: float


class Listener(Protocol):
    """Listens to the engine. Every call comes on the event loop and must return within microseconds."""

    def model_state(self, name: str, version: int, state: str, reason: str, model: Model | None) -> None:
        """Note that a version changed state.

        Args:
            name: The model's name.
            version: Which version.
            state: One of `ModelState`. LOADING comes before anything else about a version.
            reason: Why, for UNAVAILABLE; else "".
            model: The loaded version itself for READY and UNLOADING, and for UNAVAILABLE after it had been loaded;
                None before that. A reload announces READY again, with the object that took over, and no LOADING.
        """
        ...

    def load_ended(self, name: str, version: int, *, ok: bool) -> None:
        """Note that a load ended. A failed reload changes nothing, so nothing else is told of it."""
        ...

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        """Note one execution."""
        ...

    def requests_ended(self, model: Model, event: RequestsEnded) -> None:
        """Note requests that ended without an answer."""
        ...


@runtime_checkable
class ArrivalListener(Protocol):
    """A listener that also wants to hear of every single request; without one nobody tells of them."""

    def arrived(self, model: Model, request: Request) -> None:
        """Note a request that is being submitted; it may be refused at once."""
        ...


class NullListener:
    """Hears nothing; the base for listeners that care about part of it."""

    def model_state(self, name: str, version: int, state: str, reason: str, model: Model | None) -> None:
        """Ignore."""

    def load_ended(self, name: str, version: int, *, ok: bool) -> None:
        """Ignore."""

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        """Ignore."""

    def requests_ended(self, model: Model, event: RequestsEnded) -> None:
        """Ignore."""
