"""What a model and its configuration can be but hardly are meant to be, found once the model is open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from batchserve.backends import providers
from batchserve.config import show_cores

if TYPE_CHECKING:
    from batchserve.backends.runtime import Opened
    from batchserve.backends.tensors import GraphTensor
    from batchserve.config import ModelConfig

__all__ = ["mismatches"]


def mismatches(opened: Opened, config: ModelConfig, tensors: Sequence[GraphTensor]) -> Iterator[str]:
    """Give each as words to be read after the model's name.

    Args:
        opened: The model.
        config: What it was opened by.
        tensors: Its inputs and outputs.
    """
    in_use = opened.session.get_providers()
    if in_use == [providers.CPU]:
        yield from _half_precision(opened, tensors)
    if in_use[0] in providers.ON_OWN_THREADS:
        yield from _crowding(opened, config)
    elif config.cpu_affinity and in_use[0] not in providers.ACCELERATED:
        yield (
            f"has cpu_affinity = {show_cores(config.cpu_affinity)}, which {in_use[0]} does not heed: it computes on "
            "threads of its own; leave it out, or keep the whole process on cores (taskset)"
        )


def _half_precision(opened: Opened, tensors: Sequence[GraphTensor]) -> Iterator[str]:
    if any(tensor.datatype.name == "FP16" for tensor in tensors):
        yield "takes or gives FP16, which a CPU computes no faster than FP32: serve it in FP32"
    elif opened.header is not None and opened.header.has_half_weights:
        yield "keeps weights in 16 bits, with which a CPU computes no faster than FP32: serve it in FP32 or int8"


def _crowding(opened: Opened, config: ModelConfig) -> Iterator[str]:
    """Compare the threads that the configuration asks for with the cores; what was left to the server fits them."""
    asked = (config.instances or 1) * (config.intra_op_threads or 1)
    if asked > opened.cores:
        where = "cores of cpu_affinity" if config.cpu_affinity else "usable cores"
        yield (
            f"runs {config.instances or 1} x {config.intra_op_threads or 1} threads on {opened.cores} {where}, where "
            "they keep each other waiting: lower instances or intra_op_threads"
        )
