"""Every error that batchserve raises on purpose, in one tree.

    BatchserveError
    ├── ConfigError                     a key, value, file or flag of the configuration
    ├── ModelLoadError                  a model cannot be served; its text is shown to clients
    │   └── ProviderUnavailable         an execution provider is not installed, or cannot be started
    ├── LoadError                       load could not be applied to a server, so there is nothing to report
    ├── ConversionError                 another model cannot be made of a model, or not be compared with it
    ├── BackendError                    a run of a batch went wrong (becomes ExecutionFailed)
    │   ├── BadBackendOutput            the runtime's answer does not have the promised form
    │   ├── OutOfMemory                 there was no memory for a run; a smaller one may have it
    │   └── WorkerDied                  the process that ran it crashed or was killed
    └── RequestError                    ends one request; knows its HTTP status and gRPC code
        ├── InvalidRequest              400  the caller's mistake, found before the queue
        │   ├── BadFraming              400  not HTTP, or HTTP that could be read in two ways
        │   ├── SlowRequest             408  its head or body did not come in time
        │   └── HeadTooLarge            431  its head is over max_header_size
        ├── Forbidden                   403  switched off by configuration
        ├── NotFound                    404  unknown path
        │   ├── ModelNotFound           404  unknown model or version
        │   └── RegionNotFound          404  unknown shared-memory region
        ├── MethodNotAllowed            405  known path, wrong method
        ├── BodyTooLarge                413  declared, received or inflated size over the limit
        ├── UnsupportedEncoding         415  a Content-Encoding we do not read
        ├── Refused                     429  more work than can be done in time; has Retry-After
        │   ├── QueueFull                    max_queue_size rows are waiting
        │   ├── TargetMissed                 it could not be answered within latency_target
        │   ├── StandingQueue                overloaded for long: waiting only adds delay
        │   └── MemoryFull                   max_inflight_bytes of bodies are held
        ├── Unavailable                 503  leave this replica
        │   ├── ModelNotReady                known, but loading, failed or unloading
        │   ├── Draining                     the server or the model is going away
        │   └── ConnectionLimit              max_connections are open
        ├── DeadlineExceeded            504  its deadline passed before its run began
        ├── Cancelled                   499  the client left; never sent
        ├── ExecutionFailed             500  the model failed on this request
        └── InternalError               500  a bug in the server; details in the log only

The text of a `RequestError` goes to the client as it is: it never holds a file path, a traceback or tensor contents.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BadBackendOutput",
    "BadFraming",
    "BatchserveError",
    "BodyTooLarge",
    "Cancelled",
    "ConfigError",
    "ConnectionLimit",
    "ConversionError",
    "DeadlineExceeded",
    "Draining",
    "ExecutionFailed",
    "Forbidden",
    "HeadTooLarge",
    "InternalError",
    "InvalidRequest",
    "LoadError",
    "MemoryFull",
    "MethodNotAllowed",
    "ModelLoadError",
    "ModelNotFound",
    "ModelNotReady",
    "NotFound",
    "OutOfMemory",
    "ProviderUnavailable",
    "QueueFull",
    "Refused",
    "RegionNotFound",
    "RequestError",
    "SlowRequest",
    "StandingQueue",
    "TargetMissed",
    "Unavailable",
    "UnsupportedEncoding",
    "WorkerDied",
]


class BatchserveError(Exception):
    """The root: catch it to catch everything that batchserve raises on purpose."""


class ConfigError(BatchserveError):
    """A configuration cannot be used.

    The text names the source (file, flag or variable), the key path, the value seen, what is allowed, and the nearest
    spelling where a name is unknown.
    """


class ModelLoadError(BatchserveError):
    """A model cannot be served. The text is shown in the repository index, so it holds no file path."""


class ProviderUnavailable(ModelLoadError):
    """An execution provider that was asked for is not in the runtime, or cannot be started."""


class LoadError(BatchserveError):
    """Load could not be applied to a server: it is not there, or does not serve what it is asked for."""


class ConversionError(BatchserveError):
    """Another model cannot be made of a model, or the two cannot be compared. The text is for who gave the command."""


class BackendError(BatchserveError):
    """A run failed. The text is for the log; clients read `ExecutionFailed`."""


class BadBackendOutput(BackendError):
    """An output is missing, or its first axis is not the batch's rows."""


class OutOfMemory(BackendError):
    """The runtime had no memory for a run of so many rows; the session stays usable, and fewer rows may have it."""


class WorkerDied(BackendError):
    """The process that ran a batch is gone, and the batch with it."""


class RequestError(BatchserveError):
    """Ends one request.

    Attributes:
        status: HTTP status.
        grpc_code: Name of the gRPC status.
        reason: Short word for metric labels and logs.
        retry_after_s: Seconds for a `Retry-After` header, or None for no such header.
        closes_connection: True if the request's body may not have been read to its end.
    """

    status: int = 500
    grpc_code: str = "INTERNAL"
    reason: str = "internal"
    retry_after_s: int | None = None
    closes_connection: bool = False


class InvalidRequest(RequestError):
    """The caller's mistake. Found before the request is queued, so it costs no neighbour anything."""

    status = 400
    grpc_code = "INVALID_ARGUMENT"
    reason = "invalid"


class SlowRequest(InvalidRequest):
    """The head or the body did not arrive in its time; the rest of it may still come."""

    status = 408
    reason = "slow"
    closes_connection = True


class HeadTooLarge(InvalidRequest):
    """The request line and headers are over `server.max_header_size`."""

    status = 431
    reason = "head_too_large"
    closes_connection = True


class BadFraming(InvalidRequest):
    """What was sent is not HTTP, so where the next request begins is unknown."""

    reason = "framing"
    closes_connection = True


class Forbidden(RequestError):
    """Switched off by configuration; the text names the key that switches it on."""

    status = 403
    grpc_code = "PERMISSION_DENIED"
    reason = "forbidden"


class NotFound(RequestError):
    """No such path."""

    status = 404
    grpc_code = "UNIMPLEMENTED"
    reason = "not_found"


class ModelNotFound(NotFound):
    """No such model, or no such version of it."""

    grpc_code = "NOT_FOUND"


class RegionNotFound(NotFound):
    """No such shared-memory region."""

    grpc_code = "NOT_FOUND"


class MethodNotAllowed(RequestError):
    """A known path asked with a method it does not have.

    Args:
        message: Text for the client.
        allow: Methods the path has, for the `Allow` header.
    """

    status = 405
    grpc_code = "UNIMPLEMENTED"
    reason = "method"

    def __init__(self, message: str, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTooLarge(RequestError):
    """The body's declared, received or inflated size is over `server.max_body_size`."""

    status = 413
    grpc_code = "RESOURCE_EXHAUSTED"
    reason = "too_large"
    closes_connection = True


class UnsupportedEncoding(RequestError):
    """The body has a `Content-Encoding` that is not gzip, deflate or identity."""

    status = 415
    grpc_code = "INVALID_ARGUMENT"
    reason = "encoding"


class Refused(RequestError):
    """Turned away at the door: the server has more work than it can do in time. Retrying later helps."""

    status = 429
    grpc_code = "RESOURCE_EXHAUSTED"
    reason = "queue"
    retry_after_s = 1


class QueueFull(Refused):
    """`max_queue_size` rows of the model are waiting."""


class TargetMissed(Refused):
    """It is predicted that the request could not be answered within the model's `latency_target`."""

    reason = "target"


class StandingQueue(Refused):
    """More has arrived than the model can answer for so long that a longer queue would only add delay."""

    reason = "standing"


class MemoryFull(Refused):
    """`server.max_inflight_bytes` of request bodies are held; found before this body is read."""

    reason = "memory"
    closes_connection = True


class Unavailable(RequestError):
    """This replica cannot serve the request; another one may."""

    status = 503
    grpc_code = "UNAVAILABLE"
    reason = "unavailable"


class ModelNotReady(Unavailable):
    """The model is known but loading, failed or unloading."""

    reason = "not_ready"


class Draining(Unavailable):
    """The server or the model stops taking work; what was admitted is finished."""

    reason = "drain"
    retry_after_s = 1


class ConnectionLimit(Unavailable):
    """`server.max_connections` connections are open."""

    reason = "connections"
    retry_after_s = 1
    closes_connection = True


class DeadlineExceeded(RequestError):
    """The request's deadline passed before its run began; it was not executed."""

    status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    reason = "expired"


class Cancelled(RequestError):
    """The client left. Never sent: the reply it would travel on is gone."""

    status = 499
    grpc_code = "CANCELLED"
    reason = "cancelled"


class ExecutionFailed(RequestError):
    """The model failed at run time on this request alone or, with `isolate_failures` off, on its batch."""

    reason = "failed"


class InternalError(RequestError):
    """A bug in the server. The text is generic; details are in the log."""
