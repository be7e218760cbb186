"""The `parameters` objects of requests, inputs and outputs (protocol.md sections 6, 12 and 13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchserve.errors import InvalidRequest, RegionNotFound
from batchserve.frontend.wording import describe, quoted

if TYPE_CHECKING:
    from batchserve.core.request import Scalar
    from batchserve.frontend.envelope import Scalars

__all__ = ["NO_OPTIONS", "Options", "binary_data_size", "output_is_binary", "refuse_region", "request_options"]

_NOTHING: Mapping[str, Scalar] = {}
_LONGEST_TIMEOUT_US = 1 << 62  # more than a hundred thousand years; keeps the division within a float


@dataclass(frozen=True, slots=True)
class Options:
    """What a request's own parameters ask for.

    Attributes:
        timeout_s: Its limit in seconds, None for the model's.
        priority: 0 for the model's default, else 1 and up, not yet clamped to the model's levels.
        binary_outputs: How outputs come back that do not say so themselves.
        rest: What the server does not interpret.
    """

    timeout_s: float | None = None
    priority: int = 0
    binary_outputs: bool = False
    rest: Mapping[str, Scalar] = field(default_factory=lambda: _NOTHING)


NO_OPTIONS = Options()


def request_options(where: str, parameters: Scalars) -> Options:
    """Read a request's parameters.

    Args:
        where: How messages name the request.
        parameters: As sent; null stands for absent.

    Raises:
        InvalidRequest: A known parameter has another JSON type or is negative, or a name is reserved.
    """
    timeout_s: float | None = None
    priority = 0
    binary_outputs = False
    rest: dict[str, Scalar] = {}
    for name, value in parameters.items():
        if value is None:
            continue
        if name == "binary_data_output":
            binary_outputs = _boolean(where, name, value)
        elif name == "timeout":
            timeout_us = _count(where, name, value, "microseconds, 0 for the model's own")
            timeout_s = min(timeout_us, _LONGEST_TIMEOUT_US) / 1e6 or None
        elif name == "priority":
            priority = _count(where, name, value, "level, 0 for the model's default, 1 for the most urgent")
        elif name == "sequence_id":
            if type(value) not in (int, str):
                raise InvalidRequest(
                    f"{where}: parameter sequence_id is {describe(value)}; expected an integer or a string"
                )
        elif name in ("sequence_start", "sequence_end"):
            _boolean(where, name, value)
        elif name.startswith("triton_"):
            raise InvalidRequest(
                f"{where}: parameter {quoted(name)} is reserved, as are all that start with 'triton_'; use another name"
            )
        else:
            rest[name] = value
    return Options(timeout_s, priority, binary_outputs, rest or _NOTHING)


def binary_data_size(where: str, parameters: Scalars) -> int | None:
    """Read an input's `binary_data_size`, None if absent.

    Raises:
        InvalidRequest: It is not an integer of at least 0.
    """
    size = parameters.get("binary_data_size")
    return None if size is None else _count(where, "binary_data_size", size, "bytes")


def refuse_region(where: str, parameters: Scalars) -> None:
    """Answer for a `shared_memory_region`: no region is ever registered, so each name is an unknown one.

    Raises:
        RegionNotFound: There is a name.
        InvalidRequest: The region's parameters have the wrong types, or its size is missing.
    """
    region = parameters.get("shared_memory_region")
    if region is None:
        return
    if not isinstance(region, str):
        raise InvalidRequest(f"{where}: parameter shared_memory_region is {describe(region)}; expected a string")
    size = parameters.get("shared_memory_byte_size")
    if size is None:
        raise InvalidRequest(f"{where}: shared_memory_region comes without shared_memory_byte_size; both are required")
    _count(where, "shared_memory_byte_size", size, "bytes")
    offset = parameters.get("shared_memory_offset")
    if offset is not None:
        _count(where, "shared_memory_offset", offset, "bytes")
    raise RegionNotFound(
        f"{where}: shared-memory region {quoted(region)} is not registered; this server has no shared memory, so use "
        f"the body"
    )


def output_is_binary(where: str, parameters: Scalars, default: bool) -> bool:
    """Read an output's parameters: is it to come back in binary form?

    Args:
        where: How messages name the output.
        parameters: As sent.
        default: The request's `binary_data_output`.

    Raises:
        InvalidRequest: A known parameter has another JSON type, or classification is asked for.
        RegionNotFound: It is to be written to shared memory.
    """
    asked = parameters.get("binary_data")
    is_binary = default if asked is None else _boolean(where, "binary_data", asked)
    if len(parameters) == 1 and asked is not None:
        return is_binary
    classes = parameters.get("classification")
    if classes is not None and _count(where, "classification", classes, "classes, 0 for none") > 0:
        raise InvalidRequest(f"{where}: classification is not available on this server; ask for the output itself")
    if parameters.get("shared_memory_region") is not None and asked:
        raise InvalidRequest(f"{where}: shared_memory_region and binary_data exclude each other; expected one of them")
    refuse_region(where, parameters)
    return is_binary


def _boolean(where: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where}: parameter {name} is {describe(value)}; expected true or false")
    return value


def _count(where: str, name: str, value: object, unit: str) -> int:
    if type(value) is not int or value < 0:
        raise InvalidRequest(
            f"{where}: parameter {name} is {describe(value)}; expected an integer of at least 0 ({unit})"
        )
    return value
