"""Which outputs a request asks for, and in which form they go back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchserve.errors import InvalidRequest
from batchserve.frontend.parameters import output_is_binary
from batchserve.frontend.wording import listed, quoted

if TYPE_CHECKING:
    from batchserve.frontend.envelope import OutputMember
    from batchserve.frontend.model_info import ModelInfo
    from batchserve.frontend.templates import Template

__all__ = ["Asked", "requested_outputs"]


@dataclass(slots=True)
class Asked:
    """How one request is to be answered. Requests with the same JSON may share one. Plain data.

    Attributes:
        id: The client's name for the request, "" for none.
        outputs: Index of each output to send, ascending: the model's order, which is also the response's.
        binary: For each of those, True if it goes as binary data.
        template: What the last answer had in common with others like it; the codec writes it.
    """

    id: str
    outputs: tuple[int, ...]
    binary: tuple[bool, ...]
    template: Template | None = field(default=None, compare=False, repr=False)


def requested_outputs(
    model: ModelInfo, members: list[OutputMember] | None, binary: bool
) -> tuple[tuple[int, ...], tuple[bool, ...], int]:
    """Read the `outputs` of a request.

    Args:
        model: The model it is for.
        members: The objects of `outputs`; none means all outputs.
        binary: The request's `binary_data_output`.

    Returns:
        Indices in the model's order, for each whether it goes back in binary form, and the same indices as a mask.
        An output that is named twice counts as it was named first.

    Raises:
        InvalidRequest: An unknown output, a bad parameter, or one without a JSON form that is not asked for as binary.
        RegionNotFound: An output is to be written to shared memory.
    """
    if not members:
        if model.no_json and not binary:
            raise _no_json_form(model, min(model.no_json))
        return model.every_output, (binary,) * len(model.every_output), model.every_bit
    forms: dict[int, bool] = {}
    for member in members:
        index = model.output_index.get(member.name)
        if index is None:
            raise InvalidRequest(
                f"output {quoted(member.name)} of {model.label}: there is no such output; expected one of "
                f"{listed(model.output_index)}"
            )
        parameters = member.parameters
        is_binary = output_is_binary(model.outputs[index].where, parameters, binary) if parameters else binary
        forms.setdefault(index, is_binary)
    mask = 0
    for index, is_binary in forms.items():
        mask |= 1 << index
        if not is_binary and index in model.no_json:
            raise _no_json_form(model, index)
    if len(forms) > 1:
        forms = dict(sorted(forms.items()))
    return tuple(forms), tuple(forms.values()), mask


def _no_json_form(model: ModelInfo, index: int) -> InvalidRequest:
    output = model.outputs[index]
    return InvalidRequest(
        f"{output.where}: {output.datatype.name} cannot be written in JSON; ask for it with the output parameter "
        f'"binary_data": true or the request parameter "binary_data_output": true'
    )
