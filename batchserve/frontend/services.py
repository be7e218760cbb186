"""What the frontend needs of the rest of the server, as plain values and callables."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from batchserve.config import ServerConfig
    from batchserve.engine.changes import Changes
    from batchserve.engine.model import Model
    from batchserve.engine.repository import Repository

__all__ = ["AccessLog", "LiveNumbers", "Services"]

AccessLog = Callable[[Mapping[str, object]], None]
"""Takes one request: `remote`, `method`, `path` (as sent), `status`, `sent_bytes` (head included), `duration_s`."""


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


@dataclass(frozen=True, slots=True)
class Services:
    """Handed to the frontend by whoever puts the server together.

    Attributes:
        repository: The models.
        config: The `[server]` table.
        statistics: Gives the statistics entry of one model version (protocol.md section 9), of plain JSON types. Called
            on the event loop.
        render_metrics: Takes an `Accept` header and gives the page and its content type. Called on the event loop.
        reload_config: Reads the configuration of the model of that name again, and says what changed; raises
            RequestError. Called on the event loop.
        pool: Small helper threads for large JSON and compression. Its owner shuts it down after the server is closed.
        access_log: Told of each request that was answered; None for no access log.
        live: Numbers for the console; None for no console.
    """

    repository: Repository
    config: ServerConfig
    statistics: Callable[[Model], Mapping[str, object]]
    render_metrics: Callable[[str], tuple[bytes, str]]
    reload_config: Callable[[str], Coroutine[Any, Any, Changes]]
    pool: Executor
    access_log: AccessLog | None = None
    live: LiveNumbers | None = None
