"""The one table of configuration keys, and the structures they fill.

A field below declares its key: the key is the field's name without its unit (`max_queue_delay` fills
`max_queue_delay_s`), the default is the field's, kind and meaning stand beside it. Reading, checking, `--help`,
`config show` and the reference are all derived from `SERVER_KEYS` and `MODEL_KEYS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from batchserve.config.kinds import (
    Kind,
    choice,
    device,
    duration,
    file_name,
    flag,
    header_name,
    positive_number,
    share,
    size,
    text,
    whole_number,
    with_word,
)
from batchserve.config.list_kinds import core_numbers, names, options, row_counts, version_policy, weights
from batchserve.config.pad import PadConfig, padding
from batchserve.config.preprocess import PreprocessConfig, preprocessing

__all__ = ["MODEL_KEYS", "SERVER_KEYS", "DeclaredTensor", "Key", "ModelConfig", "ServerConfig"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table.

    Attributes:
        name: Its name in files, flags and (in upper case) variables.
        field: The field it fills.
        kind: How its values are read and written.
        default: The field's built-in value.
        meaning: One line for the reference and `--help`.
    """

    name: str
    field: str
    kind: Kind
    default: Any
    meaning: str

    @property
    def shown_default(self) -> str:
        """The default as TOML."""
        return self.kind.show(self.default)


def _key(default: T, kind: Kind, meaning: str, *, name: str = "") -> T:
    """Declare a field and its key; `name` where it is not the field's name without its unit."""
    declared: T = field(default=default, metadata={"kind": kind, "meaning": meaning, "name": name})
    return declared


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """An input or output as a `config.pbtxt` declares it; checked against the model at load.

    Attributes:
        name: The tensor's name.
        data_type: `TYPE_…` as in protocol.md section 3, or "" if not declared.
        dims: Dimensions as declared, -1 where free; without the batch if `leaves_out_batch`. None if not declared, or
            if a `reshape` makes them differ from the model's own.
        leaves_out_batch: True if the file that declares it sets a `max_batch_size` above 0, which is what makes its
            `dims` those of one row. The effective `max_batch_size` may come from elsewhere and says nothing about this.
    """

    name: str
    data_type: str = ""
    dims: tuple[int, ...] | None = None
    leaves_out_batch: bool = False

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The full wire shape as declared, the batch axis included; None if not declared."""
        if self.dims is None:
            return None
        return (-1, *self.dims) if self.leaves_out_batch else self.dims


_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The `[server]` table."""

    host: str = _key(
        "127.0.0.1",
        text(),
        "Address to listen on; `0.0.0.0` is every IPv4 address of the machine, `::` every IPv6 one, `unix:PATH` a Unix "
        "socket.",
    )
    port: int = _key(8000, whole_number(0, 65535), "Port to listen on; `0` takes a free one, which is printed.")
    tls_cert: str = _key("", file_name(), "File with the server's certificate chain in PEM; with it HTTPS is spoken.")
    tls_key: str = _key("", file_name(), "File with the certificate's key in PEM, if it is not in `tls_cert`.")
    tls_client_ca: str = _key(
        "", file_name(), "File with certificates in PEM; only clients whose certificate these have signed are served."
    )
    max_body_size_bytes: int = _key(64 << 20, size(positive=True), "Largest request body, before and after inflation.")
    max_inflight_bytes: int = _key(
        1 << 30,
        size(positive=True),
        "Request bodies held at once; above it requests are refused with 429.",
        name="max_inflight_bytes",
    )
    max_connections: int = _key(10_000, whole_number(1, _MOST), "Connections open at once.")
    max_header_size_bytes: int = _key(16 << 10, size(positive=True), "Largest request head.")
    header_timeout_s: float = _key(10.0, duration(positive=True), "Time for a request's head to arrive.")
    body_timeout_s: float = _key(60.0, duration(positive=True), "Time for a request's body to arrive.")
    idle_timeout_s: float = _key(75.0, duration(positive=True), "Time a connection stays open without a request.")
    compression: bool = _key(True, flag(), "Compress answers for clients that accept it.")
    compression_min_size_bytes: int = _key(4 << 10, size(), "Smallest answer that is compressed.")
    drain_timeout_s: float = _key(
        30.0, duration(), "Time for admitted work on shutdown; no model's `drain_timeout` is longer than this."
    )
    client_header: str = _key(
        "X-Client-Id", header_name(), "Header that names the client of a request, for `fair_clients`."
    )
    admin: bool = _key(False, flag(), "Answer the endpoints that load, unload and reload models.")
    console: bool = _key(True, flag(), "Answer a browser at `/` with a live page; other callers get JSON there.")
    http_fast_path: str = _key(
        "on", choice("on", "off"), "Read inference requests without aiohttp; `off` is for diagnosis."
    )
    server_timing: bool = _key(
        False, flag(), "Say in each answer where its time went; a request may ask with `X-Server-Timing: 1`."
    )
    cache_dir: str | None = _key(
        None,
        text(word="auto"),
        "Folder of what is kept between runs; `auto` is `batchserve` in the user's cache folder.",
    )
    profile_cache: bool = _key(
        True, flag(), "Keep what is learnt of each model's costs in `cache_dir`, so that the next start knows it."
    )
    allow_partial: bool = _key(False, flag(), "Be ready although some model failed to load.")
    metrics: bool = _key(True, flag(), "Answer `/metrics`; `false` measures nothing, answers 404 and shows no console.")
    log_level: str = _key("info", choice("debug", "info", "warning", "error"), "Least important log line written.")
    log_format: str = _key("text", choice("text", "json"), "Form of log lines.")
    tracing: bool = _key(False, flag(), "Record spans of requests and batches; needs the extra `otel`.")
    trace_ratio: float = _key(
        0.01, share(), "Share of the requests without a caller's `traceparent` that are recorded."
    )
    trace_endpoint: str = _key(
        "auto",
        text(),
        "Base URL that spans are sent to (OTLP over HTTP); `auto` asks OpenTelemetry's variables, else takes "
        "`http://localhost:4318`.",
    )
    access_log: bool = _key(False, flag(), "Write one log line for each request.")
    record: str | None = _key(
        None,
        text(word="off"),
        "Folder in which is written down when requests come and what they are like, without what is in them.",
    )
    record_file_size_bytes: int = _key(
        64 << 20, size(positive=True), "Size at which a file of `record` is followed by a new one."
    )
    record_files: int = _key(
        8, whole_number(1, 10_000), "Files in `record` that are kept; the oldest go, those of earlier starts too."
    )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A `[models.NAME]` table (batching.md section 3 and onnxruntime.md).

    `None` means "find out": from the model, or by the default rule of batching.md section 3. `inputs` and `outputs`
    are no keys: only a `config.pbtxt` declares them.
    """

    max_batch_size: int | None = _key(
        None,
        whole_number(0, 1 << 20, auto=True),
        "Most rows in one run. `1` runs every row alone, `0` runs every request whole; `auto` asks the model, and is "
        "`32` where it can batch.",
    )
    latency_target_s: float | None = _key(
        None,
        duration(positive=True, word="none"),
        "Time within which an answer is worth something, from the request's last byte until the answer is ready.",
    )
    shed: bool | None = _key(
        None,
        flag(auto=True),
        "Refuse requests that are predicted to miss `latency_target`; `auto` does so if there is one.",
    )
    timeout_s: float = _key(60.0, duration(), "Longest time from a request's arrival until its run begins.")
    allow_timeout_override: bool = _key(True, flag(), "Let a request ask for a shorter `timeout`.")
    max_queue_delay_s: float | None = _key(
        None,
        duration(word="auto"),
        "How long a batch that could start is held for more rows. `auto` holds where that gains more than it costs, "
        "`0` never; a duration is the classic timer.",
    )
    max_queue_size: int | None = _key(
        None,
        whole_number(1, _MOST, zero_is="a queue of no rows could serve nothing; use auto for the default", auto=True),
        "Most rows waiting. `auto` is the larger of `1024` and 32 times `max_batch_size`.",
    )
    preferred_batch_sizes: tuple[int, ...] = _key(
        (), row_counts(), "Sizes that the model runs best at; a batch is cut to one of them where that delays nothing."
    )
    pad: PadConfig | None = _key(  # noqa: RUF009  # the default is None, which nobody can change
        None,
        padding(),
        "Axes that may be padded, so that requests of different lengths share a run; proved at load.",
    )
    max_batch_tokens: int | None = _key(
        None,
        with_word(whole_number(1, _MOST), "none"),
        "With `pad`: most rows times length of one run of several requests.",
    )
    preprocess: PreprocessConfig | None = _key(  # noqa: RUF009  # as above
        None,
        preprocessing(),
        "What is done to images inside the model, so that clients send bytes; needs the extra `onnx`.",
    )
    hint: str = _key(
        "auto",
        choice("auto", "latency", "throughput"),
        "What `instances = auto` is chosen for: a lone request's time, rows per second, or both.",
    )
    instances: int | None = _key(
        None,
        whole_number(1, 1024, auto=True),
        "Batches of the model that may run at once, on each device. `auto` measures at load which number suits `hint`.",
    )
    device: str | None = _key(
        None,
        device(),
        "Where the model runs: models with the same value share its slots. A list runs it on each of them, from one "
        "queue. `auto` is the first device of the provider in use.",
    )
    device_slots: int | None = _key(
        None,
        whole_number(1, 1024, auto=True),
        "Batches of all models that may run at once on the device. `auto` is the most `instances` of its models on an "
        "accelerator; on a CPU the usable cores divided by the largest `intra_op_threads`, at least `2`.",
    )
    weight: float = _key(
        1.0, positive_number(), "Share of a device that several models want, relative to the others' weights."
    )
    priority_levels: int = _key(1, whole_number(1, 1000), "Levels of importance, from `1`, the most important.")
    fair_clients: bool = _key(
        False, flag(), "Share the model's time evenly among clients, told apart by the header `client_header`."
    )
    client_weights: tuple[tuple[str, float], ...] = _key(
        (), weights(), "Shares of clients that are to have more or less than the others, whose weight is `1`."
    )
    max_clients: int = _key(
        1000, whole_number(1, 1_000_000), "Clients that are told apart at once; those beyond share one share."
    )
    split_large: bool = _key(True, flag(), "Cut a request with more rows than `max_batch_size` into several runs.")
    isolate_failures: bool = _key(True, flag(), "When a batch fails, run its halves to find the guilty requests.")
    drain_timeout_s: float = _key(30.0, duration(), "Time for queued work on unload, reload and shutdown.")
    warmup_budget_s: float = _key(5.0, duration(), "Time for the runs at load that measure the model; `0` makes none.")
    run_timeout_s: float = _key(
        60.0,
        duration(positive=True),
        "A run that takes longer than this, and than ten times what it should, counts as stuck.",
    )
    providers: tuple[str, ...] = _key(
        ("auto",), names(), "Execution providers, most preferred first; `auto` takes the best that works."
    )
    provider_options: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = _key(
        (), options(), "Options handed to ONNX Runtime as they are, in a table for each provider."
    )
    fallback: str = _key(
        "none", choice("none", "cpu"), "What runs the model if a provider named in `providers` is not there."
    )
    isolation: str = _key(
        "none", choice("none", "process"), "Where the model runs: in the server, or in a process of its own."
    )
    retry_crashed: bool = _key(False, flag(), "Run a batch once more if the model's own process died with it.")
    memory_limit_bytes: int | None = _key(
        None, size(positive=True, auto=True), "Memory that the model's own process may allocate; `auto` is no limit."
    )
    build: str = _key(
        "auto",
        choice("auto", "wait", "background"),
        "When the first of `providers` is opened: before the model serves, or while it serves on the next one.",
    )
    staging: str = _key(
        "auto",
        choice("auto", "on", "off"),
        "On CUDA, copy to the device and back through page-locked buffers; `auto` compares that at load and takes it "
        "where it is quicker.",
    )
    cuda_graphs: bool = _key(
        False,
        flag(),
        "On CUDA, capture a run of each of `preferred_batch_sizes` as a graph and replay it for batches that fit into "
        "it.",
    )
    intra_op_threads: int = _key(
        0, whole_number(0, 1024), "Threads that share one run; `0` divides the usable cores among the instances."
    )
    cpu_affinity: tuple[int, ...] = _key(
        (),
        core_numbers(),
        "Cores that the model's runs are kept on; several instances share them out. `none` leaves that to the system.",
    )
    spinning: str = _key("off", choice("off", "short", "on"), "Whether threads of a run wait busily for the next.")
    version_policy: str = _key("latest", version_policy(), "Which versions are served.")
    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that `device` names; none if it is `auto`."""
        return () if self.device is None else tuple(self.device.split(","))


_UNITS = ("_s", "_bytes")


def _keys_of(table: type[ServerConfig | ModelConfig]) -> Mapping[str, Key]:
    keys: dict[str, Key] = {}
    for declared in fields(table):
        if "kind" not in declared.metadata:
            continue
        name = declared.metadata["name"]
        if not name:
            name = declared.name
            for unit in _UNITS:
                name = name.removesuffix(unit)
        keys[name] = Key(name, declared.name, declared.metadata["kind"], declared.default, declared.metadata["meaning"])
    return keys


SERVER_KEYS: Mapping[str, Key] = _keys_of(ServerConfig)
"""The keys of `[server]`, by name."""

MODEL_KEYS: Mapping[str, Key] = _keys_of(ModelConfig)
"""The keys of `[defaults]`, `[models.NAME]` and `model.toml`, by name."""
