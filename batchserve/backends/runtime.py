"""ONNX Runtime itself: importing it when needed, opening a model file with our options, its errors in words."""

from __future__ import annotations

import functools
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from batchserve.backends import providers
from batchserve.backends.base import Layout
from batchserve.backends.cores import cores_for, layouts_on_cores
from batchserve.backends.header import Header, header_of, read_header
from batchserve.backends.preprocess import Preprocessed, preprocessed
from batchserve.config import ModelConfig
from batchserve.errors import ConfigError, ModelLoadError, ProviderUnavailable

__all__ = ["Opened", "installed_packages", "is_out_of_memory", "open_session", "plain_text", "require_runtime"]

log = logging.getLogger(__name__)

SPINNING = {
    # Idle workers sleep at once. Spinning burns about 25 ms of CPU after each run and slows the event loop down.
    "off": {"session.intra_op.allow_spinning": "0"},
    "short": {
        "session.intra_op.allow_spinning": "1",
        "session.intra_op.spin_duration_us": "200",
        "session.force_spinning_stop": "1",
    },
    "on": {"session.intra_op.allow_spinning": "1"},
}

LOG_FATAL_ONLY = 4
"""A session's own log level. What it would print to stderr it also raises, and we log or answer that once."""
LOG_ERRORS = 3
"""The runtime's log level: a provider's library that cannot be loaded is told there and nowhere else."""

_PLACES = "session.intra_op_thread_affinities"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where a model that is given as bytes has its weights in other files."""

MAX_TEXT = 600
CREATION = threading.Lock()
"""Sessions are made one at a time: the runtime does not promise that making them is thread-safe."""

_NO_MEMORY = re.compile(
    r"Failed to allocate memory|bad_alloc|bad allocation|out of memory|is smaller than requested bytes"
    r"|CU(?:BLAS|DNN|SOLVER|FFT)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED",
    re.IGNORECASE,
)
"""What the runtime's arenas, the C++ library and CUDA's libraries say when there is no memory."""

_PACKAGE = re.compile(r"onnxruntime(-(gpu|openvino|directml|rocm|migraphx|qnn|silicon|cann|training|azure))?")
_GIT_LFS = b"version https://git-lfs"
_CODE = re.compile(r"^Error in execution: |\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_LOADING = re.compile(r"Load model from .*? failed:", re.DOTALL)
_SOURCE_LINE = re.compile(r"\S+\.(?:cc|cpp|cu|cuh|h|hpp):\d+\s*")
_SIGNATURE = re.compile(
    r"(?:(?:void|bool|auto|\w+::[\w:<>]+)[*&]* )?"  # what the function returns
    r"onnxruntime::[\w:~<>]+\([^()]*\)(?: const)?"
    r"(?:::<lambda\([^()]*\)>(?:\([^()]*\))?)?\s*"
)
_QUOTED_PATH = re.compile(r'"(?:[A-Za-z]:|\.{1,2})?[\\/][^"]*"')
_BARE_PATH = re.compile(r"(?<![^\s:=])(?:/[\w.+@-]+){2,}")


@dataclass(frozen=True, slots=True)
class Opened:
    """A session and how it was made.

    Attributes:
        path: The model's file.
        session: The runtime's InferenceSession.
        header: What the file says about its tensors, None if it could not be read without the runtime.
        cores: Cores this process may use.
        layouts: Ways to run it; the session was made for the first.
        version: The runtime's version.
        before: What was put before the model; None if nothing was.
        device_number: Which of the first provider's devices it runs on.
    """

    path: Path
    session: Any
    header: Header | None
    cores: int
    layouts: tuple[Layout, ...]
    version: str
    before: Preprocessed | None = None
    device_number: int = 0


def installed_packages() -> list[tuple[str, str]]:
    """List the installed ONNX Runtime packages with their versions. Several overwrite each other's files."""
    found = ((str(one.metadata["Name"] or "").lower().replace("_", "-"), one.version) for one in distributions())
    return sorted({(name, version) for name, version in found if _PACKAGE.fullmatch(name)})


@functools.cache
def _warn_of_several() -> None:
    if len(installed := installed_packages()) > 1:
        log.warning(
            "%s overwrite each other's files, and which one runs is chance: uninstall all of them, then install one",
            " and ".join(name for name, _ in installed),
        )


def require_runtime() -> Any:
    """Import ONNX Runtime and return its module.

    Raises:
        ConfigError: It is not installed, or its libraries cannot be loaded; one line that says what to install.
    """
    remedy = "install batchserve[cpu], or batchserve[gpu] on a machine with an NVIDIA GPU"
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise ConfigError(f"ONNX Runtime needs {error.name}, which is not installed: {remedy}") from error
        raise ConfigError(f"ONNX Runtime is not installed: {remedy}") from error
    except ImportError as error:
        text = plain_text(error)
        raise ConfigError(
            f"ONNX Runtime is installed but cannot be loaded ({text}): {remedy}, only one of them"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # what removing one of two runtimes leaves behind
        raise ConfigError(
            f"the installed ONNX Runtime is incomplete: remove onnxruntime and onnxruntime-gpu, then {remedy}"
        )
    _warn_of_several()
    onnxruntime.set_default_logger_severity(LOG_ERRORS)
    return onnxruntime


def open_session(path: Path, config: ModelConfig, profile_prefix: str = "") -> Opened:
    """Make a session of a model file with the options of onnxruntime.md. Blocks; other creations wait for this one.

    Where the configuration allows a fallback, the CPU takes the place of a provider that is not there.

    Args:
        path: The model's file.
        config: Its configuration.
        profile_prefix: Path that the name of a profile begins with; "" to write none.

    Raises:
        ProviderUnavailable: A provider asked for is not in the runtime, or cannot be started.
        ModelLoadError: There is no runtime, no such file, or it is no model.
    """
    try:
        return _open_session(path, config, profile_prefix)
    except ProviderUnavailable as error:
        if config.fallback != "cpu":
            raise
        log.warning("%s runs on the CPU, as fallback allows: %s", path, error)
    plain = replace(config, providers=("cpu",), device=None, provider_options=(), cuda_graphs=False)
    return _open_session(path, plain, profile_prefix)


def _open_session(path: Path, config: ModelConfig, profile_prefix: str) -> Opened:
    try:
        runtime = require_runtime()
    except ConfigError as error:
        raise ModelLoadError(str(error)) from error
    _check_file(path)
    asked, number = providers.on_device(config.providers, config.device)
    wanted = providers.resolve(asked, runtime.get_available_providers())
    configured: Mapping[str, Mapping[str, str]] = {name: dict(own) for name, own in config.provider_options}
    providers.check_options(configured, wanted)
    if config.cuda_graphs:
        configured = providers.with_graphs(configured, wanted)
    before = None if config.preprocess is None else preprocessed(path, config.preprocess)
    header = read_header(path) if before is None else header_of(before.content)
    is_dynamic = header is None or header.is_dynamic
    cores = cores_for(config)
    on_gpu = bool(providers.ACCELERATED.intersection(wanted))
    layouts = providers.layouts(wanted, config, cores) or layouts_on_cores(cores, config)
    session_options = _session_options(runtime, config.spinning, layouts[0].threads, is_dynamic=is_dynamic)
    if config.cpu_affinity and layouts[0].threads > 1:
        # For the threads that the session starts; the one that calls `run` is the caller's to place. Numbers from 1.
        place = ",".join(str(core + 1) for core in config.cpu_affinity)
        session_options.add_session_config_entry(_PLACES, ";".join([place] * (layouts[0].threads - 1)))
    if before is not None:
        session_options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent.resolve()))
    if profile_prefix:
        session_options.enable_profiling = True
        session_options.profile_file_prefix = profile_prefix
    with CREATION:
        if on_gpu and hasattr(runtime, "preload_dlls"):
            runtime.preload_dlls(directory="")
        try:
            session = runtime.InferenceSession(
                str(path) if before is None else before.content,
                session_options,
                providers=list(wanted),
                provider_options=[
                    providers.options(name, is_dynamic=is_dynamic, device_number=number, configured=configured)
                    for name in wanted
                ],
                enable_fallback=0,
            )
        except Exception as error:  # the runtime's errors share no other base class
            is_provider = type(error).__name__ == "EPFail"
            raise (ProviderUnavailable if is_provider else ModelLoadError)(_why_not_loaded(error, path)) from error
    in_use = session.get_providers()
    providers.check_in_use(asked, wanted, in_use)
    if missing := [name for name in wanted if name not in in_use]:  # auto brought it in
        log.warning("%s is installed but could not be started: %s runs on the CPU", missing[0], path)
        # Again, with threads for the CPU.
        return _open_session(path, replace(config, providers=("cpu",)), profile_prefix)
    if before is not None:
        session._model_bytes = None  # noqa: SLF001  # the wrapper would hold the file's content for good
        before = replace(before, content=b"")
    return Opened(path, session, header, cores, layouts, str(runtime.__version__), before, number)


def is_out_of_memory(error: Exception) -> bool:
    """Say whether the runtime's error means that there was no memory for the run."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def plain_text(error: Exception, path: Path | None = None) -> str:
    """Say what the runtime said, in one line without file paths, codes and places in its source.

    Args:
        error: The runtime's exception.
        path: The model's file, whose own path is taken out wherever it stands.
    """
    text = _LOADING.sub("", _CODE.sub("", str(error)))
    if path is not None:
        for known in (path, path.absolute(), path.resolve()):
            text = text.replace(str(known), "the model file")
            if known.parent.is_absolute() and known.parent.name:
                text = text.replace(str(known.parent), "the model's folder")
    text = _SIGNATURE.sub("", _SOURCE_LINE.sub("", text))
    text = _QUOTED_PATH.sub(lambda found: '"' + re.split(r"[\\/]", found[0][:-1])[-1] + '"', text)
    text = _BARE_PATH.sub(lambda found: found[0].rsplit("/", 1)[-1], text)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _session_options(runtime: Any, spinning: str, threads: int, *, is_dynamic: bool) -> Any:
    if spinning not in SPINNING:
        raise ModelLoadError(f"spinning is {spinning!r}: expected {', '.join(SPINNING)}")
    made = runtime.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    made.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    made.enable_cpu_mem_arena = True
    # A pattern is kept for every shape seen: with random batch sizes that costs memory and gains nothing.
    made.enable_mem_pattern = not is_dynamic
    made.log_severity_level = LOG_FATAL_ONLY
    for key, value in SPINNING[spinning].items():
        made.add_session_config_entry(key, value)
    return made


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_GIT_LFS))
    except FileNotFoundError:
        raise ModelLoadError("the model file is missing: put it back, or remove the model") from None
    except IsADirectoryError:
        raise ModelLoadError("the model file is a folder: expected an ONNX file") from None
    except OSError as error:
        raise ModelLoadError(f"the model file cannot be read: {error.strerror}") from error
    if not start:
        raise ModelLoadError("the model file is empty: expected an ONNX model; copy it again")
    if start == _GIT_LFS:
        raise ModelLoadError("the model file is a Git LFS pointer, not the model: run `git lfs pull`")


def _why_not_loaded(error: Exception, path: Path) -> str:
    text = plain_text(error, path)
    if type(error).__name__ == "InvalidProtobuf" or "No graph was found" in text:
        size = path.stat().st_size if path.exists() else 0
        return f"the model file ({size} bytes) is not an ONNX model, or is cut short: export or copy it again"
    if "IR version" in text or "opset" in text:
        return f"ONNX Runtime cannot load the model: {text} Upgrade ONNX Runtime, or export with an older opset"
    return f"ONNX Runtime cannot load the model: {text}"
