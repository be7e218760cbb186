"""What values of one model must be to each other, whichever places they come from (batching.md section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from batchserve.config.layers import Entry

__all__ = ["check_together"]


def check_together(entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """Check a model's values against each other.

    Args:
        entries: Each key's value with its origin.

    Returns:
        What can be but hardly is meant, each a sentence.

    Raises:
        ConfigError: Two values cannot be together.
    """
    target, timeout = entries["latency_target"], entries["timeout"]
    if target.value is not None and target.value > timeout.value:
        raise ConfigError(
            f"{_written(target)} is longer than {_written(timeout)}; expected at most the timeout, after which nothing "
            "is answered; lower latency_target or raise timeout"
        )
    preferred, most = entries["preferred_batch_sizes"], entries["max_batch_size"]
    if preferred.value and most.value is not None and preferred.value[-1] > max(1, most.value):
        raise ConfigError(
            f"{_written(preferred)} has {preferred.value[-1]} in it, more than {_written(most)}; expected sizes that "
            "one run can have; raise max_batch_size or leave the larger sizes out"
        )
    return (*_shed_warning(entries["shed"], target), *_pad_warnings(entries), *_idle(entries))


def _shed_warning(shed: Entry, target: Entry) -> tuple[str, ...]:
    if not shed.value or target.value is not None:
        return ()
    warning = (
        f"{_written(shed)} refuses nothing without a latency_target; expected one that requests could miss; "
        "set latency_target or leave shed out"
    )
    return (warning,)


def _pad_warnings(entries: Mapping[str, Entry]) -> tuple[str, ...]:
    pad, tokens, most = entries["pad"], entries["max_batch_tokens"], entries["max_batch_size"]
    if tokens.value is not None and pad.value is None:
        warning = f"{_written(tokens)} limits nothing without pad; set pad, or leave max_batch_tokens out"
        return (warning,)
    if pad.value is not None and most.value is not None and most.value <= 1:
        warning = (
            f"pad (from {pad.origin}) joins nothing with {_written(most)}; expected at least 2 rows in a run; "
            "raise max_batch_size or leave pad out"
        )
        return (warning,)
    return ()


def _idle(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Give the keys of execution that change nothing beside the values of others."""
    hint, instances, build, first = (entries[name] for name in ("hint", "instances", "build", "providers"))
    if hint.value != "auto" and instances.value is not None:
        yield f"{_written(hint)} chooses nothing beside {_written(instances)}; leave one of them out"
    if build.value == "background":
        expected = "expected a provider that is named first and takes time to build; name it in providers"
        if first.value[0] in ("cpu", "CPUExecutionProvider"):
            yield f"{_written(build)} builds nothing with {_written(first)}; {expected} or leave build out"
        elif first.value[0] == "auto" and (device := entries["device"]).value is not None:
            yield (
                f"{_written(build)} builds nothing beside {_written(device)} while providers is auto, which tries "
                f"others only where the device is free; {expected}"
            )
    graphs, staging = entries["cuda_graphs"], entries["staging"]
    if graphs.value and staging.value != "auto":
        yield f"{_written(staging)} changes nothing beside {_written(graphs)}, which is staged anyway; leave it out"
    if graphs.value and hint.value != "auto" and instances.value is None:
        yield f"{_written(hint)} chooses nothing beside {_written(graphs)}, whose runs are made in turn; leave it out"
    spinning, threads = entries["spinning"], entries["intra_op_threads"]
    if spinning.value != "off" and threads.value == 1:
        yield (
            f"{_written(spinning)} is for threads that help a run, and {_written(threads)} has none; raise "
            "intra_op_threads or leave spinning out"
        )
    retry = entries["retry_crashed"]
    if retry.value and entries["isolation"].value != "process":
        yield (
            f"{_written(retry)} runs nothing again without a process that could crash alone; set "
            'isolation = "process" or leave retry_crashed out'
        )


def _written(entry: Entry) -> str:
    return f"{entry.key.name} = {entry.key.kind.show(entry.value)} (from {entry.origin})"
