"""A stand-in for ONNX Runtime with TensorRT and CUDA: the real one on the CPU, behind the checks of the provider.

It refuses what the provider's Python binding refuses, fails runs outside of the profile, and keeps an engine's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
FLAGS = ("trt_engine_cache_enable", "trt_timing_cache_enable", "trt_fp16_enable", "trt_int8_enable", "trt_bf16_enable")
PROFILE = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


class TensorRTRuntime(SimpleNamespace):
    """The module, as far as backends use it.

    Attributes:
        opened: Providers and options of the sessions that were made.
        built: Folders in which an engine was built because none was there.
    """

    def __init__(self) -> None:
        super().__init__(**{name: getattr(onnxruntime, name) for name in ("SessionOptions", "RunOptions")})
        self.ExecutionMode = onnxruntime.ExecutionMode
        self.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
        self.__version__ = "1.31.0"
        self.opened: list[tuple[list[str], dict[str, str]]] = []
        self.built: list[Path] = []

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, CPU]

    def InferenceSession(self, model: Any, options: Any, **given: Any) -> Any:  # the runtime's name
        providers: Sequence[str] = given["providers"]
        provider_options: Sequence[Mapping[str, str]] = given["provider_options"]
        first = dict(provider_options[0])
        if providers[0] == TENSORRT:
            self._build(first)
        self.opened.append((list(providers), first))
        return _Session(onnxruntime.InferenceSession(model, options, providers=[CPU]), providers, first)

    def _build(self, options: dict[str, str]) -> None:
        for flag in FLAGS:
            if options.get(flag, "False") not in ("True", "False", "true", "false"):
                raise ValueError(f"[ERROR] [TensorRT] The value for the key '{flag}' should be 'True' or 'False'.")
        if len(present := [name for name in PROFILE if options.get(name)]) not in (0, 3):
            raise ValueError(f"[TensorRT EP] only {present} of the profile")
        if options.get("trt_engine_cache_enable") == "True":
            folder = Path(options["trt_engine_cache_path"])
            if not (folder / "graph.engine").exists():
                (folder / "graph.engine").touch()
                self.built.append(folder)


class _Session:
    def __init__(self, real: Any, providers: Sequence[str], options: Mapping[str, str]) -> None:
        self._real, self._providers = real, [*dict.fromkeys([*providers, CPU])]
        self._ranges = {}
        if providers[0] == TENSORRT and options.get(PROFILE[0]):
            least, most = (_shapes(options[name]) for name in (PROFILE[0], PROFILE[2]))
            self._ranges = {name: (least[name], most[name]) for name in least}

    def get_providers(self) -> list[str]:
        return self._providers

    def run(self, names: Any, feed: Mapping[str, Any], options: Any = None) -> Any:
        for name, (least, most) in self._ranges.items():
            if not all(low <= size <= high for low, size, high in zip(least, feed[name].shape, most, strict=True)):
                raise RuntimeError(f"TensorRT EP cannot set the dynamic dimensions of a binding: {feed[name].shape}")
        return self._real.run(names, feed)  # options may speak of the GPU's memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _shapes(text: str) -> dict[str, tuple[int, ...]]:
    parts = [part.rpartition(":") for part in text.split(",")]
    return {name: tuple(map(int, sizes.split("x"))) for name, _, sizes in parts}
