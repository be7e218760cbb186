"""Execution providers: the names people write, what is compiled in, what is there, and what is in use after a load."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchserve.backends.base import Layout
from batchserve.config import ModelConfig
from batchserve.config.names import did_you_mean
from batchserve.errors import ModelLoadError, ProviderUnavailable

__all__ = [
    "ACCELERATED",
    "CPU",
    "CUDA",
    "SHORT_NAMES",
    "SLOW_TO_BUILD",
    "TENSORRT",
    "automatic",
    "check_in_use",
    "check_options",
    "cuda_devices",
    "device_for",
    "full_name",
    "layouts",
    "library_remedy",
    "on_device",
    "options",
    "resolve",
    "with_graphs",
]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

SHORT_NAMES = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": TENSORRT,
    "nvtensorrtrtx": "NvTensorRTRTXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "cann": "CANNExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
    "acl": "ACLExecutionProvider",
    "armnn": "ArmNNExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
"""Configuration's short names. `auto` is one more: the best of what is compiled in and has a device."""

OPENVINO, DNNL = SHORT_NAMES["openvino"], SHORT_NAMES["dnnl"]

ACCELERATED = frozenset({CUDA, TENSORRT, "NvTensorRTRTXExecutionProvider"})
"""Providers that need the CUDA libraries."""

NUMBERED = frozenset(
    {CUDA, TENSORRT, "NvTensorRTRTXExecutionProvider", *(SHORT_NAMES[k] for k in ("rocm", "migraphx"))}
)
"""Providers that take the number of their device as the option `device_id`."""

ON_OWN_THREADS = frozenset({CPU, DNNL, SHORT_NAMES["xnnpack"], "AzureExecutionProvider"})
"""Providers whose runs take the threads of the runtime."""

SLOW_TO_BUILD = frozenset(SHORT_NAMES[name] for name in ("tensorrt", "nvtensorrtrtx", "migraphx", "qnn", "vitisai"))
"""Providers that compile a model for seconds to minutes before its first run."""

REMEDIES = {
    CUDA: "install batchserve[gpu] in place of batchserve[cpu]",
    TENSORRT: "install batchserve[gpu] in place of batchserve[cpu]",
}
LIBRARY_REMEDIES = {
    CUDA: "check that the CUDA and cuDNN libraries of this onnxruntime-gpu and the driver are installed",
    TENSORRT: "check that TensorRT (libnvinfer) and the CUDA libraries of this onnxruntime-gpu are installed",
}


def resolve(
    asked: Sequence[str], available: Sequence[str], has_cuda_device: Callable[[], bool] | None = None
) -> tuple[str, ...]:
    """Turn configured names into the runtime's names, most preferred first, without repeats.

    Args:
        asked: Short names, full `...ExecutionProvider` names, or `auto`; `()` means `auto`.
        available: What the installed runtime has compiled in.
        has_cuda_device: Says whether a CUDA device is there; asked only for `auto` with CUDA compiled in.

    Raises:
        ModelLoadError: A name is unknown, or its provider is not compiled in.
    """
    names: list[str] = []
    for word in asked or ("auto",):
        if word == "auto":
            has_device = has_cuda_device or (lambda: cuda_devices() > 0)
            best = [CUDA] if CUDA in available and has_device() else [OPENVINO, DNNL]
            names += [*(name for name in best if name in available), CPU]
            continue
        name = SHORT_NAMES.get(word, word)
        if name not in available:
            unavailable = ProviderUnavailable if name in SHORT_NAMES.values() else ModelLoadError
            raise unavailable(_unavailable(word, name, available))
        names.append(name)
    return tuple(dict.fromkeys(names))


def automatic(
    available: Sequence[str], has_cuda_device: Callable[[], bool], has_tensorrt: Callable[[], bool]
) -> tuple[str, ...]:
    """Say what `auto` tries beside the serving, as a list to configure; `()` if what serves is the best there is.

    These may be slower than what serves, or answer otherwise, so they have to prove themselves.

    Args:
        available: What the installed runtime has compiled in.
        has_cuda_device: Says whether a CUDA device is there.
        has_tensorrt: Says whether TensorRT's library loads.
    """
    if CUDA in available and has_cuda_device():
        return (TENSORRT, "auto") if TENSORRT in available and has_tensorrt() else ()
    return next(((name, CPU) for name in (OPENVINO, DNNL) if name in available), ())


def on_device(asked: Sequence[str], device: str | None) -> tuple[tuple[str, ...], int]:
    """Settle which providers run on a configured device, and which number it has among theirs.

    Args:
        asked: As configured; `auto` alone becomes the device's own provider, since a device that is named must be used.
        device: As configured, such as `cpu` or `cuda:1`; None leaves everything as it is.

    Raises:
        ModelLoadError: No provider has such devices, or the configured ones do not run on it, or there are several.
    """
    if device is None:
        return tuple(asked), 0
    if "," in device:
        raise ModelLoadError(f"device names several, {device}, of which one is needed here: name one")
    kind, _, digits = device.partition(":")
    name, number = SHORT_NAMES.get(kind), int(digits or 0)
    if name is None:
        hint = did_you_mean(kind, SHORT_NAMES)
        raise ModelLoadError(f"device = {device!r} is of no known kind: {hint or 'expected a device such as cuda:1'}")
    if number and name not in NUMBERED:
        raise ModelLoadError(f"device = {device!r} has a number, but devices of that kind have none: write {kind!r}")
    if tuple(asked) in ((), ("auto",)):
        return (kind,), number
    first = SHORT_NAMES.get(asked[0], asked[0])
    if first != name and not {first, name} <= ACCELERATED:
        raise ModelLoadError(
            f"providers = {list(asked)} does not run on device = {device!r}: expected {kind!r} first; "
            "leave one of the two keys out"
        )
    return tuple(asked), number


def device_for(asked: Sequence[str], device: str | None) -> str | None:
    """Return a configured device if these providers run on it, else None."""
    try:
        on_device(asked, device)
    except ModelLoadError:
        return None
    return device


def check_in_use(asked: Sequence[str], wanted: Sequence[str], in_use: Sequence[str]) -> None:
    """Refuse a session in which a provider asked for by name is not in use.

    The runtime logs a provider that it cannot start and goes on without it.

    Args:
        asked: As configured; what only `auto` brought in may be missing.
        wanted: What `resolve` made of it.
        in_use: The session's providers.

    Raises:
        ModelLoadError: One is missing.
    """
    required = {SHORT_NAMES.get(word, word) for word in asked if word != "auto"}
    for name in wanted:
        if name in required and name not in in_use:
            remedy = library_remedy(name)
            raise ProviderUnavailable(
                f"provider {name} could not be started; in use would be only {', '.join(in_use)}: "
                f'{remedy}, or configure providers = ["cpu"]'
            )


def full_name(word: str) -> str:
    """Return the runtime's name of a provider that may have been written short."""
    return SHORT_NAMES.get(word, word)


def library_remedy(name: str) -> str:
    """Say what to look at when a provider that is compiled in does not start."""
    return LIBRARY_REMEDIES.get(name, "the runtime's own lines in the server's log say why")


def options(
    name: str, *, is_dynamic: bool, device_number: int = 0, configured: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """Give the options that a provider is created with.

    Args:
        name: The runtime's name of it.
        is_dynamic: True if the model has free axes. CUDA's default search tries every convolution algorithm again for
            each new shape, which would happen for each new batch size.
        device_number: Which of the provider's devices.
        configured: Options by provider, short name or the runtime's; they have the last word.
    """
    given: dict[str, Any] = {"device_id": str(device_number)} if device_number and name in NUMBERED else {}
    if name == CUDA and is_dynamic:
        given["cudnn_conv_algo_search"] = "HEURISTIC"
    for word, own in (configured or {}).items():
        if SHORT_NAMES.get(word, word) == name:
            given |= own
    return given


def check_options(configured: Mapping[str, Mapping[str, str]], wanted: Sequence[str]) -> None:
    """Refuse options that would reach nobody, or that cannot work with the way runs are made here.

    Args:
        configured: Options by provider.
        wanted: What `resolve` made of the providers.

    Raises:
        ModelLoadError: A table is for a provider that is not used, or names an option that cannot work.
    """
    for word, own in configured.items():
        name = SHORT_NAMES.get(word, word)
        if name not in wanted:
            hint = did_you_mean(word, SHORT_NAMES) if name == word else ""
            raise ModelLoadError(
                f"provider_options has a table {word!r}, but the model runs on {', '.join(wanted)}: "
                f"{hint or 'name the provider in providers, or leave the table out'}"
            )
        if name == CUDA and own.get("enable_cuda_graph", "0") not in ("0", "False", "false"):
            raise ModelLoadError(
                "provider_options.cuda has enable_cuda_graph, which needs fixed shapes and addresses: "
                "set cuda_graphs = true in place of it, which sees to both"
            )


def with_graphs(configured: Mapping[str, Mapping[str, str]], wanted: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """Add to configured options what `cuda_graphs` needs.

    Raises:
        ProviderUnavailable: The model would run on something else than CUDA.
    """
    if wanted[0] != CUDA:
        raise ProviderUnavailable(
            f"cuda_graphs works on CUDA, and the model would run on {wanted[0]}: {REMEDIES[CUDA]}, or leave it out"
        )
    own = next((own for word, own in configured.items() if full_name(word) == CUDA), {})
    return {**configured, CUDA: {**own, "enable_cuda_graph": "1"}}


def layouts(wanted: Sequence[str], config: ModelConfig, cores: int) -> tuple[Layout, ...]:
    """List the ways to run a model that are worth measuring where another provider than the CPU's computes.

    A second run lets copies overlap with the first one's kernels. TensorRT locks a session for a whole run, so there
    it would only wait. On CUDA each is tried through the runtime's own copies and staged.

    Returns:
        Empty where the runtime's own threads compute: then the cores are to be shared.
    """
    if wanted[0] in ON_OWN_THREADS:
        return ()
    threads = config.intra_op_threads or (1 if ACCELERATED.intersection(wanted) else cores)
    if config.cuda_graphs:  # runs are made one after the other, and staged anyway
        return (Layout(config.instances or 1, threads),)
    if config.instances is not None:
        counts = [config.instances]
    else:
        counts = [1] if ACCELERATED.difference((CUDA,)).intersection(wanted) or config.hint == "latency" else [1, 2]
    staged = {"auto": [False, True], "on": [True], "off": [False]}[config.staging] if wanted[0] == CUDA else [False]
    return tuple(Layout(count, threads, is_staged) for is_staged in staged for count in counts)


def cuda_devices() -> int:
    """Ask the NVIDIA driver how many devices this process may use; 0 without a driver. Any thread."""
    names = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
    try:
        driver = ctypes.CDLL(names[sys.platform])
        count = ctypes.c_int(0)
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
    except (KeyError, OSError, AttributeError):
        return 0
    return count.value


def _unavailable(word: str, name: str, available: Sequence[str]) -> str:
    has = ", ".join(available)
    if name not in SHORT_NAMES.values() and not name.endswith("ExecutionProvider"):
        hint = did_you_mean(word, [*SHORT_NAMES, "auto"])
        known = ", ".join(["auto", *SHORT_NAMES])
        hint += " " * bool(hint)
        return f"unknown provider {word!r}: {hint}expected {known} or a full name; available: {has}"
    remedy = REMEDIES.get(name, "install an ONNX Runtime package that has it")
    return (
        f"provider {word!r} is not in the installed ONNX Runtime, which has {has}: "
        f'{remedy}, or configure providers = ["cpu"]'
    )
