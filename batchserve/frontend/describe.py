"""What the server says about itself and its models (protocol.md sections 2, 10, 11, 17): plain data for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from batchserve import __version__

if TYPE_CHECKING:
    from batchserve.core.tensors import ModelSignature, TensorSpec
    from batchserve.engine.model import Model
    from batchserve.engine.states import IndexEntry

__all__ = [
    "EXTENSIONS",
    "build_state",
    "console_model",
    "device_states",
    "index_entries",
    "model_config",
    "model_metadata",
    "server_metadata",
]

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "statistics",
    "parameters",
    "model_repository",
    "schedule_policy",
)
"""What works, by the names of protocol.md section 17; clients branch on them."""

_PLATFORM = "onnx_onnxv1"
_CONFIG_PLATFORM = "onnxruntime_onnx"
_BACKEND = "onnxruntime"

_GPU_PROVIDERS = ("CUDA", "Tensorrt", "NvTensorRTRTX", "ROCM", "MIGraphX", "DML")


def server_metadata(*, has_log_settings: bool = True) -> dict[str, object]:
    """Describe the server."""
    extensions = [*EXTENSIONS, "logging"] if has_log_settings else list(EXTENSIONS)
    return {"name": "batchserve", "version": __version__, "extensions": extensions}


def model_metadata(model: Model, versions: Sequence[int]) -> dict[str, object]:
    """Describe a model's tensors with their full wire shapes, -1 where free.

    Args:
        model: The version that is described.
        versions: The versions of that name that serve, ascending.
    """
    return {
        "name": model.name,
        "versions": [str(version) for version in versions],
        "platform": _PLATFORM,
        "inputs": [_tensor_metadata(spec) for spec in model.signature.inputs],
        "outputs": [_tensor_metadata(spec) for spec in model.signature.outputs],
    }


def console_model(model: Model) -> dict[str, object]:
    """Describe a version that serves, for the console."""
    limits, batchability = model.limits, model.session.batchability
    return {
        "inputs": [_tensor_metadata(spec) for spec in model.signature.inputs],
        "outputs": [_tensor_metadata(spec) for spec in model.signature.outputs],
        "is_batching": model.signature.is_batching,
        "why": batchability.why,
        "providers": list(model.session.providers),
        "build": build_state(model),
        "facts": {key: str(value) for key, value in model.session.facts.items()},
        "is_json": all(spec.datatype.is_json for spec in (*model.signature.inputs, *model.signature.outputs)),
        "load_s": round(model.load_s, 3),
        "limits": {
            "max_batch_size": limits.max_batch_size,
            "instances": limits.slots,
            "max_queue_size": limits.max_queue_size,
            "max_queue_delay_ms": None if limits.max_queue_delay_s is None else limits.max_queue_delay_s * 1e3,
            "timeout_ms": limits.timeout_s * 1e3,
            "latency_target_ms": None if limits.latency_target_s is None else limits.latency_target_s * 1e3,
        },
    }


def build_state(model: Model) -> dict[str, object] | None:
    """Say how far a model is with a provider that is built beside the serving; None if none is due.

    `provider` is what it runs on meanwhile, or for good if the build is not taken; `why` says that for people.
    """
    build = model.build
    if build is None:
        return None
    return {"state": build.state, "why": build.why, "seconds": round(build.seconds, 3), "provider": model.provider}


def device_states(model: Model) -> list[dict[str, object]] | None:
    """Say how a model's slots lie on several devices; None if it runs on one.

    `time_ratio` is what a run takes there, as a multiple of what it takes on the device that was quickest at load.
    """
    if len(model.devices) == 1:
        return None
    places = model.places
    return [
        {
            "device": device,
            "slots": [slot for slot, place in enumerate(places) if place[0] == device],
            "time_ratio": round(dict(places)[device], 3),
        }
        for device in model.devices
    ]


def _tensor_metadata(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}


def model_config(model: Model) -> dict[str, object]:
    """Write a model's configuration as Triton does, so that its tools can read it.

    `dynamic_batching` is there exactly if rows of different requests may share a run: perf_analyzer takes it as the
    sign of the scheduler. What Triton has no field for stands in `parameters`, in Triton's form for them.
    """
    signature = model.signature
    config: dict[str, object] = {
        "name": model.name,
        "platform": _CONFIG_PLATFORM,
        "backend": _BACKEND,
        "version_policy": _version_policy(model.config.version_policy),
        "max_batch_size": signature.max_batch_size,
        "input": [_tensor_config(spec, signature) for spec in signature.inputs],
        "output": [_tensor_config(spec, signature) for spec in signature.outputs],
        "instance_group": [_instance_group(model)],
        "parameters": {key: {"string_value": value} for key, value in _parameters(model).items()},
    }
    if signature.max_batch_size > 1:
        config["dynamic_batching"] = {
            **({"preferred_batch_size": list(preferred)} if (preferred := model.limits.preferred_batch_sizes) else {}),
            "max_queue_delay_microseconds": round((model.max_queue_delay_s or 0.0) * 1e6),
        }
    return config


def _tensor_config(spec: TensorSpec, signature: ModelSignature) -> dict[str, object]:
    dims = spec.shape[1:] if signature.is_batching else spec.shape
    return {"name": spec.name, "data_type": spec.datatype.config, "dims": list(dims)}


def _version_policy(policy: str) -> dict[str, object]:
    """Write the canonical words of the configuration (`latest`, `latest:2`, `all`, `1,3`) as Triton's object."""
    if policy == "all":
        return {"all": {}}
    if policy.startswith("latest"):
        return {"latest": {"num_versions": int(policy.partition(":")[2] or 1)}}
    return {"specific": {"versions": [int(version) for version in policy.split(",")]}}


def _instance_group(model: Model) -> dict[str, object]:
    on_gpu = bool(model.session.providers) and model.session.providers[0].startswith(_GPU_PROVIDERS)
    return {
        "name": f"{model.name}_0",
        "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
        "count": model.instances,
        "gpus": [0] if on_gpu else [],
    }


def _parameters(model: Model) -> dict[str, str]:
    batchability = model.session.batchability
    return {
        **{f"runtime.{key}": str(value) for key, value in model.session.facts.items()},
        "batches": "true" if model.signature.is_batching else "false",
        "batches.why": batchability.why,
        "providers": ",".join(model.session.providers),
        "max_queue_size": str(model.max_queue_size),
    }


def index_entries(entries: Iterable[IndexEntry], *, only_ready: bool) -> list[dict[str, str]]:
    """Write the repository's index; `reason` is always there, since MLServer's types require it."""
    return [
        {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
        for entry in entries
        if not only_ready or entry.state == "READY"
    ]
