"""What the frontend needs of the rest of the server, as plain values and callables."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from batchserve.config import ServerConfig
    from batchserve.core.trace import Trace
    from batchserve.engine.changes import Changes
    from batchserve.engine.model import Model
    from batchserve.engine.repository import Repository

__all__ = ["AccessLog", "LiveNumbers", "Services", "Tracer"]

AccessLog = Callable[[Mapping[str, object]], None]
"""Takes one request: `remote`, `method`, `path` (as sent), `status`, `sent_bytes` (head included), `duration_s`; and
`request_id` and `trace_id` of one that has them."""


class LiveNumbers(Protocol):
    """Numbers of the last seconds, for the console; costs nothing outside `start` and `stop`."""

    def start(self) -> None:
        """Begin to collect."""
        ...

    def stop(self) -> None:
        """Collect no more."""
        ...

    def read(self) -> dict[str, Any]:
        """Return the present numbers, of plain JSON types; called once a second."""
        ...


class Tracer(Protocol):
    """Records the spans of inference requests."""

    def sample(self, trace: Trace | None) -> Trace | None:
        """Decide whether a request is recorded.

        Returns:
            What it is called from now on, with a `span_id` exactly if it is recorded; None if it has no name.
        """
        ...

    def request_ended(self, trace: Trace, model: str, version: str, status: int, start_s: float) -> None:
        """Note the answer to a request with a `span_id`, or 499 for one whose client left.

        Args:
            trace: What `sample` returned.
            model: The model it named.
            version: The version that served it, "" if none did.
            status: HTTP status of the answer.
            start_s: Monotonic time at which it began: when its last byte had been read, or on aiohttp's way its head.
        """
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Handed to the frontend by whoever puts the server together.

    Attributes:
        repository: The models.
        config: The `[server]` table.
        statistics: Gives the statistics entry of one model version (protocol.md section 9), of plain JSON types. Called
            on the event loop.
        render_metrics: Takes an `Accept` header and gives the page and its content type. Called on the event loop. None
            if `server.metrics` is off.
        reload_config: Reads the configuration of the model of that name again, and says what changed; raises
            RequestError. Called on the event loop.
        pool: Small helper threads for large JSON and compression. Its owner shuts it down after the server is closed.
        access_log: Told of each request that was answered; None for no access log.
        live: Numbers for the console; None for no console.
        tracer: Records spans; None for none.
        log_settings: Takes log settings to change, by the names of protocol.md section 14 and of the right types, and
            gives all; None if there are none.
    """

    repository: Repository
    config: ServerConfig
    statistics: Callable[[Model], Mapping[str, object]]
    render_metrics: Callable[[str], tuple[bytes, str]] | None
    reload_config: Callable[[str], Coroutine[Any, Any, Changes]]
    pool: Executor
    access_log: AccessLog | None = None
    live: LiveNumbers | None = None
    tracer: Tracer | None = None
    log_settings: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
