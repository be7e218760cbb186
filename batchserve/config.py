"""The effective configuration: typed, validated once, trusted by everything after."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DeclaredTensor", "ModelConfig", "ServerConfig"]


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """An input or output as a `config.pbtxt` declares it; checked against the model at load.

    Attributes:
        name: The tensor's name.
        data_type: `TYPE_…` as in protocol.md section 3, or "" if not declared.
        dims: Dimensions as declared, -1 where free; without the batch if `max_batch_size` > 0. None if not declared.
    """

    name: str
    data_type: str = ""
    dims: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The `[server]` table."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_body_size_bytes: int = 64 << 20
    max_inflight_bytes: int = 1 << 30
    max_connections: int = 10_000
    max_header_size_bytes: int = 16 << 10
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    compression: bool = True
    compression_min_size_bytes: int = 4 << 10
    drain_timeout_s: float = 30.0
    admin: bool = False
    allow_partial: bool = False
    log_level: str = "info"
    log_format: str = "text"
    access_log: bool = False


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A `[models.NAME]` table (batching.md section 3 and onnxruntime.md).

    `None` means "find out": from the model, or by the default rule of batching.md section 3.
    """

    max_batch_size: int | None = None
    timeout_s: float = 60.0
    allow_timeout_override: bool = True
    max_queue_delay_s: float | None = None
    max_queue_size: int | None = None
    instances: int = 1
    priority_levels: int = 1
    split_large: bool = True
    isolate_failures: bool = True
    drain_timeout_s: float = 30.0
    warmup_budget_s: float = 5.0
    providers: tuple[str, ...] = ("auto",)
    intra_op_threads: int = 0
    spinning: str = "off"
    version_policy: str = "latest"
    inputs: tuple[DeclaredTensor, ...] = field(default=())
    outputs: tuple[DeclaredTensor, ...] = field(default=())
