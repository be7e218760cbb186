"""ONNX Runtime: load model files and find out what they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchserve.backends.base import ModelFile
from batchserve.backends.cuda import CudaError
from batchserve.backends.graphs import GraphRuns, sizes_of
from batchserve.backends.mismatches import mismatches
from batchserve.backends.onnx_session import OnnxSession
from batchserve.backends.providers import CPU
from batchserve.backends.runtime import Opened, open_session, require_runtime
from batchserve.backends.staging import check_bindable, device_of
from batchserve.backends.tensors import GraphTensor, declare, describe
from batchserve.config import ModelConfig, show_cores
from batchserve.errors import ModelLoadError

log = logging.getLogger(__name__)

__all__ = ["OnnxBackend", "OnnxSession", "require_runtime"]


class OnnxBackend:
    """Loads ONNX model files. Holds nothing itself; ONNX Runtime is imported by the first load."""

    def load(self, file: ModelFile, config: ModelConfig) -> OnnxSession:
        """Open a file, describe its tensors, and find out by runs whether its rows are independent.

        Blocks, on a helper thread: reading takes about 0.1 s per 100 MB, the runs a few dozen executions of one to
        three rows. Safe on several threads at once: sessions are made one at a time.

        Raises:
            ModelLoadError: There is no runtime, the file is missing, not a model or corrupt, a tensor's type cannot be
                served, the configuration declares other tensors or a `pad` that does not fit or changes
                answers, or a provider asked for is not in use.
        """
        began = time.perf_counter()
        opened = open_session(file.path, config)
        opened_at = time.perf_counter()
        session, header = opened.session, opened.header
        overridable = [node.name for node in session.get_overridable_initializers()]
        inputs = describe(session.get_inputs(), "input", header.inputs if header else {})
        outputs = describe(session.get_outputs(), "output", header.outputs if header else {})
        if opened.before is not None:
            inputs = [replace(one, is_image=True) if one.name == opened.before.input else one for one in inputs]
        inputs = declare(inputs, config.inputs, overridable)
        outputs = declare(outputs, config.outputs)
        for mismatch in mismatches(opened, config, (*inputs, *outputs)):
            log.warning("model %s %s", file.name, mismatch)
        facts = _facts(opened, config) | {"session_load_s": f"{opened_at - began:.3f}"}
        # The CPU may have taken the place of what was asked for: what is configured for that does not hold then.
        is_asked_for = config.fallback != "cpu" or session.get_providers()[0] != CPU
        if config.cuda_graphs and is_asked_for:
            return _with_graphs(file.name, opened, config, inputs, outputs, facts)
        made = OnnxSession(opened, config, inputs, outputs, facts)
        if config.staging == "on" and is_asked_for:
            try:
                made.stage()
            except ModelLoadError as error:
                made.close()
                raise ModelLoadError(f'staging = "on" cannot be: {error}') from error
        return made


def _with_graphs(
    name: str,
    opened: Opened,
    config: ModelConfig,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
    facts: Mapping[str, str],
) -> OnnxSession:
    """Make a session that replays graphs.

    Raises:
        ModelLoadError: Shapes are free that must be fixed, or the graphs cannot be captured or answer otherwise.
    """
    sizes = sizes_of(config, inputs)
    device = device_of(opened.session.get_providers(), opened.device_number)
    check_bindable(opened.session, device, inputs, outputs)
    try:
        runs = GraphRuns(name, opened.session, device, {tensor.name: tensor.datatype.dtype for tensor in outputs})
    except CudaError as error:
        raise ModelLoadError(f"cuda_graphs: {error}") from error
    try:
        made = OnnxSession(opened, config, inputs, outputs, facts, runs=runs)
        made.capture(runs, sizes)
    except BaseException:
        runs.close()
        raise
    return made


def _facts(opened: Opened, config: ModelConfig) -> dict[str, str]:
    meta = opened.session.get_modelmeta()
    facts = {
        "runtime": f"onnxruntime {opened.version}",
        "cores": str(opened.cores),
        "intra_op_threads": str(opened.layouts[0].threads),
        "spinning": config.spinning,
    }
    if config.cpu_affinity:
        facts["cpu_affinity"] = show_cores(config.cpu_affinity)
    if meta.producer_name:
        facts["producer"] = meta.producer_name
    if opened.before is not None:
        facts["preprocess"] = opened.before.summary
    return facts
