"""From the inputs of a v2 request to arrays that fit the model."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from batchserve.core.tensors import DATATYPES
from batchserve.errors import InvalidRequest
from batchserve.frontend.parameters import binary_data_size, refuse_region
from batchserve.frontend.tensor_binary import Buffer, read_binary
from batchserve.frontend.tensor_shape import count_elements
from batchserve.frontend.wording import count_of, listed, number, quoted, shape_text

if TYPE_CHECKING:
    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array
    from batchserve.frontend.envelope import InputMember
    from batchserve.frontend.model_info import InputInfo, ModelInfo
    from batchserve.frontend.number_text import NumberText

__all__ = ["own_bytes", "own_length", "raw_input", "read_inputs"]


def read_inputs(model: ModelInfo, members: list[InputMember], body: Buffer, start: int) -> tuple[list[Array], int, int]:
    """Read every input of a request.

    Args:
        model: The model it is for.
        members: The objects of `inputs`.
        body: The whole body.
        start: Where binary data begins in it; its end if there is none.

    Returns:
        One array per input of the signature, in its order; the rows of the request (1 if the model does not batch);
        the bytes that the arrays keep alive, the body among them if one of the arrays is a view of it.

    Raises:
        InvalidRequest: Anything about them is wrong.
        RegionNotFound: An input is said to lie in shared memory.
    """
    infos = model.inputs
    arrays: list[Any] = [None] * len(infos)
    is_batching = model.signature.max_batch_size > 0
    rows = held_bytes = body_bytes = 0
    at = start
    for member in members:
        info = infos.get(member.name)
        if info is None or arrays[info.index] is not None or member.datatype != info.datatype_name:
            raise _bad_member(model, info, member)
        shape = member.shape
        count = count_elements(info.where, shape, info.shape)
        if is_batching and shape[0] != rows:
            if rows or shape[0] > model.row_limit:
                raise _bad_rows(model, info, shape[0], rows)
            rows = shape[0]
        size = _binary_size(info, member)
        if 0 < size == count * info.view_itemsize and size <= len(body) - at:
            arrays[info.index] = np.ndarray(shape, info.dtype, body, at)
            body_bytes = len(body)
            at += size
        else:
            array = arrays[info.index] = _read_copy(info, member, count, body, at, size)
            held_bytes += own_bytes(array)
            at += max(size, 0)
    if at != len(body) or len(members) != len(infos):
        raise _bad_whole(model, members, len(body) - at)
    return arrays, rows or 1, held_bytes + body_bytes


def own_bytes(array: Array) -> int:
    """Count the memory of an array that is not a view, the strings of a BYTES tensor included."""
    return array.nbytes + (sum(map(sys.getsizeof, array.reshape(-1))) if array.dtype.hasobject else 0)


def own_length(model: ModelInfo, pad: PadRule, arrays: list[Array]) -> int:
    """Return what all padded axes of a request have.

    Raises:
        InvalidRequest: They have different lengths, which no padding could bring together.
    """
    length = pad.length_of(arrays)
    odd = pad.odd_one(arrays)
    if odd is not None:
        infos = list(model.inputs.values())
        info, axis = infos[odd[0]], odd[1]
        raise InvalidRequest(
            f"{info.where}: {number(arrays[odd[0]].shape[axis])} on axis {axis}, but input "
            f"{quoted(infos[pad.where[0]].name)} has {number(length)} on axis {pad.where[1]}; expected one length, as "
            f"the model pads them together"
        )
    return length


def _read_copy(info: InputInfo, member: InputMember, count: int, body: Buffer, at: int, size: int) -> Array:
    """Read an input that is not simply there in the body: JSON, BYTES, BOOL, or binary data of a wrong size."""
    if size < 0:
        data = cast("msgspec.Raw | list[Any] | NumberText", member.data)  # _binary_size has seen that there is some
        return info.json.read(data, member.shape, count).reshape(member.shape)
    if size > len(body) - at:
        raise InvalidRequest(
            f"{info.where}: binary_data_size is {number(size)}, but {count_of(len(body) - at, 'byte')} of the body are "
            f"left after the JSON and the inputs before; expected all binary data after the JSON, whose length "
            f"Inference-Header-Content-Length gives"
        )
    return read_binary(info.where, info.datatype, member.shape, count, body, at, size)


def raw_input(model: ModelInfo, body: Buffer) -> tuple[Array, int]:
    """Read a body that is nothing but one tensor (protocol.md section 5, raw binary request).

    Returns:
        The input, one row of it if the model batches, and the bytes that it keeps alive.

    Raises:
        InvalidRequest: The model has several inputs or too many free dimensions, or the byte count does not fit.
    """
    refusal = f"request to {model.label}: Inference-Header-Content-Length is 0, so the body is one tensor, but"
    if len(model.inputs) != 1:
        raise InvalidRequest(f"{refusal} the model has {len(model.inputs)} inputs; send a JSON header that names them")
    (info,) = model.inputs.values()
    expected = list(info.shape)
    if model.signature.max_batch_size > 0:
        expected[0] = 1
    shape = _raw_shape(refusal, info, expected, len(body))
    array = read_binary(
        info.where, info.datatype, shape, count_elements(info.where, shape, expected), body, 0, len(body)
    )
    return array, len(body) if info.view_itemsize else own_bytes(array)


def _raw_shape(refusal: str, info: InputInfo, expected: list[int], size: int) -> list[int]:
    """Work out the shape of a tensor from its bytes: at most one dimension is free."""
    free = [axis for axis, dim in enumerate(expected) if dim == -1]
    if len(free) > 1:
        raise InvalidRequest(
            f"{refusal} the input's shape {shape_text(info.shape)} has {len(free)} free dimensions besides the batch, "
            f"of which only one can follow from the size; send a JSON header with the shape"
        )
    shape = [1 if dim == -1 else dim for dim in expected]
    step = math.prod(shape)
    if info.datatype.itemsize == 0:
        if step != 1:
            raise InvalidRequest(
                f"{refusal} the input is BYTES of {step} elements and only a single one can be sent so; send JSON too"
            )
        return shape
    step *= info.datatype.itemsize
    if 0 in (size, step) or size % step or (size != step and not free):
        raise InvalidRequest(
            f"{refusal} it has {count_of(size, 'byte')}; expected {'a multiple of ' if free else ''}{step} for shape "
            f"{shape_text(expected)} of {info.datatype.name}"
        )
    if free:
        shape[free[0]] = size // step
    return shape


def _binary_size(info: InputInfo, member: InputMember) -> int:
    """Find where an input's content is: bytes of binary data, or -1 for JSON. Exactly one source may be named."""
    parameters = member.parameters
    data = member.data
    has_data = data is not msgspec.UNSET and not (len(data) == 4 and _is_null(data))
    if not parameters:
        if has_data:
            return -1
        raise _no_content(info)
    size = binary_data_size(info.where, parameters)
    if parameters.get("shared_memory_region") is not None:
        if has_data or size is not None:
            other = "data" if has_data else "binary_data_size"
            raise InvalidRequest(
                f"{info.where}: {other} and shared_memory_region exclude each other; expected one of them"
            )
        refuse_region(info.where, parameters)
    if size is None:
        if has_data:
            return -1
        raise _no_content(info)
    if has_data:
        raise InvalidRequest(f"{info.where}: data and binary_data_size exclude each other; expected one of them")
    return size


def _is_null(data: msgspec.Raw | list[Any]) -> bool:
    return isinstance(data, msgspec.Raw) and bytes(data) == b"null"


def _no_content(info: InputInfo) -> InvalidRequest:
    return InvalidRequest(
        f"{info.where}: it has no content; expected one of data and the parameters binary_data_size and "
        f"shared_memory_region"
    )


def _bad_member(model: ModelInfo, info: InputInfo | None, member: InputMember) -> InvalidRequest:
    if info is None:
        return InvalidRequest(
            f"input {quoted(member.name)} of {model.label}: there is no such input; expected {listed(model.inputs)}"
        )
    if member.datatype == info.datatype_name:
        return InvalidRequest(f"{info.where}: given twice; expected each input once")
    if member.datatype in DATATYPES or member.datatype == "BF16":
        return InvalidRequest(
            f"{info.where}: datatype {member.datatype} does not match the model's; expected {info.datatype_name}"
        )
    return InvalidRequest(
        f"{info.where}: there is no datatype {quoted(member.datatype)}; expected {info.datatype_name}"
    )


def _bad_rows(model: ModelInfo, info: InputInfo, rows: int, others: int) -> InvalidRequest:
    if others:
        return InvalidRequest(
            f"{info.where}: {count_of(rows, 'row')}, but the input before has {others}; expected the same first "
            f"dimension in all inputs of a request to {model.label}"
        )
    limit = f"max_batch_size = {model.signature.max_batch_size}"
    if not model.split_large:
        limit += ", as split_large is off"
    elif model.row_limit > model.signature.max_batch_size:
        limit = f"max_queue_size = {model.max_queue_size}, the rows that its queue can hold"
    else:
        limit += f", and the queue holds {model.max_queue_size}"
    return InvalidRequest(
        f"{info.where}: {number(rows)} rows are more than {limit}; send at most {model.row_limit} in one request"
    )


def _bad_whole(model: ModelInfo, members: list[InputMember], surplus: int) -> InvalidRequest:
    if len(members) == len(model.inputs):
        return InvalidRequest(
            f"request to {model.label}: {count_of(surplus, 'byte')} of the body are left over after the JSON and its "
            f"binary inputs; expected the sizes in binary_data_size to add up to the rest of the body"
        )
    given = {member.name for member in members}
    missing = listed(name for name in model.inputs if name not in given)
    found = listed(sorted(given)) if given else "none"
    return InvalidRequest(
        f"request to {model.label}: inputs lacks {missing}; expected {listed(model.inputs)}, found {found}"
    )
