"""What a person is told about a model that was loaded: what it takes, whether it batches and why, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchserve.cli.sample_request import sample_request
from batchserve.config import show_padding
from batchserve.config.units import format_duration, format_rate

if TYPE_CHECKING:
    from batchserve.config import PadConfig
    from batchserve.core.tensors import TensorSpec
    from batchserve.engine.model import Model
    from batchserve.engine.repository import Repository

__all__ = ["describe_failure", "describe_model", "describe_proposal", "report"]

_LABEL = 10
_MOST_POINTS = 5
_SHOWN_FACTS = ("intra_op_threads", "cpu_affinity", "spinning", "staging", "cuda_graphs")


def report(repository: Repository, url: str) -> list[str]:
    """Describe everything that was found once it is loaded, and how to send a first request.

    Args:
        repository: All models loaded, or failed.
        url: Where they are served.
    """
    ready = {(model.name, str(model.version)): model for model in repository.models()}
    lines = [""]
    for entry in repository.index():
        model = ready.get((entry.name, entry.version))
        lines += describe_model(model) if model else describe_failure(entry.name, entry.version, entry.reason)
        lines.append("")
    served, known = len({name for name, _ in ready}), len(repository.names())
    lines.append(f"Serving {served} of {known} {'model' if known == 1 else 'models'} on {url}")
    if why_not := repository.readiness():
        lines.append(f"Not ready: {why_not}")
    if ready:
        first = next(iter(ready.values()))
        newest = repository.get(first.name)
        lines += ["Try it:", "", sample_request(newest, url), ""]
    return lines


def _headline(name: str, version: int | str) -> str:
    return f"{_visible(name)}, version {version}" if version else _visible(name)


def describe_failure(name: str, version: int | str, reason: str) -> list[str]:
    """Say that a model cannot be served, and why."""
    return [_headline(name, version), _line("FAILED", reason)]


def describe_model(model: Model) -> list[str]:
    """Describe a loaded version in a few lines of plain text."""
    lines = [_headline(model.name, model.version)]
    lines += _tensors("inputs", model.signature.inputs)
    lines += _tensors("outputs", model.signature.outputs)
    if done := model.session.facts.get("preprocess"):
        lines.append(_line("prepared", _visible(done)))
    lines.append(_line("batching", _batching(model)))
    if model.signature.pad is not None:
        lines.append(_line("padding", f"to a multiple of {model.signature.pad.multiple}: {_padding_proof(model)}"))
    lines.append(_line("cost", _cost(model)))
    if model.layouts:
        lines.append(_line("instances", _layouts(model)))
    lines.append(_line("limits", _limits(model)))
    lines.append(_line("runs on", _runs_on(model)))
    if model.build is not None:
        lines.append(_line("build", f"{model.build.state}: {model.build.why}"))
    return lines


def _visible(name: str) -> str:
    """Show a name that a file or a model brought along, which may hold line ends and a terminal's commands."""
    return name if name.isprintable() else repr(name)


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"


def _tensors(label: str, tensors: Sequence[TensorSpec]) -> list[str]:
    names = [_visible(tensor.name) for tensor in tensors]
    width = max(map(len, names), default=0)
    return [
        _line("" if index else label, f"{name:<{width}}  {tensor.datatype.name} {list(tensor.shape)}")
        for index, (name, tensor) in enumerate(zip(names, tensors, strict=True))
    ]


def _batching(model: Model) -> str:
    verdict, rows = model.session.batchability, model.signature.max_batch_size
    if rows > 1:
        return f"yes, up to {rows} rows in one run: {verdict.why}"
    if rows == 1:
        return f"no, every row runs alone: max_batch_size is 1 ({verdict.why})"
    if verdict.is_batchable:
        return f"no, every request is one run: max_batch_size is 0 ({verdict.why})"
    return f"no, every request is one run: {verdict.why}"


def _padding_proof(model: Model) -> str:
    return model.session.facts.get("padding", "as proved at load")


def describe_proposal(pad: PadConfig) -> list[str]:
    """Propose a setting under which requests of different lengths would share runs."""
    return [
        _line("padding", "requests of different lengths could share runs, as runs have proved; to do so, set"),
        _line("", f"pad = {show_padding(pad)}"),
    ]


def _cost(model: Model) -> str:
    """Show what a few sizes cost: the smallest, the largest, and some between."""
    if not model.curve:
        return "not measured: warmup_budget is 0"
    last = len(model.curve) - 1
    shown = sorted({round(index * last / (_MOST_POINTS - 1)) for index in range(_MOST_POINTS)})
    points = [model.curve[index] for index in shown]
    unit = "token" if model.signature.pad else "row" if model.signature.max_batch_size else "request"
    costs = ", ".join(f"{rows} {unit}{'s' if rows > 1 else ''} {_time(seconds)}" for rows, seconds in points)
    return f"{costs} (as an earlier run found)" if model.is_known else costs


def _layouts(model: Model) -> str:
    """Show what the choice of instances and threads is founded on."""
    chosen = f"{model.instances} x {model.config.intra_op_threads}"
    tried = ", ".join(
        f"{one.layout} {format_rate(one.rows_per_s)} rows/s, {_time(one.lone_s)} alone" for one in model.layouts
    )
    return f"{chosen} threads, chosen for hint {model.config.hint}: {tried}"


def _time(seconds: float) -> str:
    """Write a measured time with three digits: `8.53 us`, `1.02 ms`, `2.5 s`."""
    unit, per_second = next(
        ((unit, factor) for unit, factor in (("s", 1.0), ("ms", 1e3)) if seconds * factor >= 1), ("us", 1e6)
    )
    return f"{seconds * per_second:.3g} {unit}"


def _limits(model: Model) -> str:
    limits = model.limits
    delay = "auto" if limits.max_queue_delay_s is None else format_duration(limits.max_queue_delay_s)
    target = () if limits.latency_target_s is None else (f"latency_target {format_duration(limits.latency_target_s)}",)
    return ", ".join(
        (
            *target,
            f"max_batch_size {limits.max_batch_size}",
            f"instances {limits.slots}",
            f"max_queue_size {limits.max_queue_size}",
            f"max_queue_delay {delay}",
            f"timeout {format_duration(limits.timeout_s)}",
        )
    )


def _runs_on(model: Model) -> str:
    """Name providers and threads; the model configuration that clients can ask for has all facts."""
    facts = [f"{name} {model.session.facts[name]}" for name in _SHOWN_FACTS if name in model.session.facts]
    return ", ".join((" then ".join(model.session.providers), *facts, f"ready after {model.load_s:.2f} s"))
