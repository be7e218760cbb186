"""The JSON of a v2 inference request, without its tensors (protocol.md sections 1 and 4).

Two parsers read it. The quick one (msgspec, typed) takes what nearly every client sends and leaves `data` unparsed.
What it refuses goes to the tolerant one (the standard library's, then a walk over every member), which either accepts
after all (NaN tokens, a nested `headers` parameter) or says exactly what is wrong. Both give the same result where both
accept.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import msgspec

from batchserve.errors import InvalidRequest
from batchserve.frontend.number_text import MARK, MARK_VALUE, take_out
from batchserve.frontend.wording import describe, json_type, quoted

if TYPE_CHECKING:
    from batchserve.frontend.tensor_binary import Buffer

__all__ = [
    "LARGE_BYTES",
    "MAX_DEPTH",
    "Envelope",
    "InputMember",
    "OutputMember",
    "Scalars",
    "load",
    "parse",
    "parse_tolerantly",
]

MAX_DEPTH = 100
"""How deep `data` may be nested."""

LARGE_BYTES = 64 << 10
"""In longer JSON large arrays of numbers are set aside, to be parsed piece by piece."""

Scalars = dict[str, bool | int | float | str | None]

_EXPECTED = "a JSON object in UTF-8, and with binary tensors its length in Inference-Header-Content-Length"
_LONGEST_INTEGER = 4000  # digits; Python's own limit is 4300, as its conversion is quadratic


class InputMember(msgspec.Struct, gc=False):
    """One object of `inputs`.

    Attributes:
        name: The input's name.
        datatype: Wire name of its datatype.
        shape: Dimensions as sent: integers of any size and sign.
        parameters: Scalars; null values stand for absent ones.
        data: Unparsed JSON of `data` from the quick parser, a list from the tolerant one, a NumberText from either if
            it was set aside, UNSET if there is none.
    """

    name: str
    datatype: str
    shape: list[int]
    parameters: Scalars | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class OutputMember(msgspec.Struct, gc=False):
    """One object of `outputs`."""

    name: str
    parameters: Scalars | None = None


class Envelope(msgspec.Struct, gc=False):
    """A request's JSON: its members are of the right types and its strings valid Unicode; no more is checked."""

    inputs: list[InputMember]
    id: str | None = None
    parameters: Scalars | None = None
    outputs: list[OutputMember] | None = None


_DECODER = msgspec.json.Decoder(Envelope)


def parse(model: str, header: Buffer) -> Envelope:
    """Read the JSON of a request.

    Args:
        model: How messages name the model, such as `model 'addone'`.
        header: The JSON. The result refers to it. Arrays of numbers that were set aside have not been looked at.

    Raises:
        InvalidRequest: It is not UTF-8, not JSON, nested too deeply, not an object, or a member is missing or of the
            wrong type.
    """
    if len(header) > LARGE_BYTES and (envelope := _parse_around_numbers(model, header)) is not None:
        return envelope
    return _parse_whole(model, header if type(header) is bytes else bytes(header))


def _parse_around_numbers(model: str, header: Buffer) -> Envelope | None:
    """Read large JSON without its large arrays of numbers; None if there are none, or it is better read as a whole."""
    taken = take_out(header)
    if taken is None:
        return None
    rest, texts = taken
    try:
        envelope = _parse_whole(model, rest)
    except InvalidRequest:
        return None  # to be said of the whole text, with its positions
    members = [member for member in envelope.inputs if _is_mark(member.data)]
    if len(members) != len(texts):
        return None  # one of them is not the data of an input, but inside something else
    for member, text in zip(members, texts, strict=True):
        member.data = cast("msgspec.Raw", text)
    return envelope


def _is_mark(data: msgspec.Raw | list[Any] | msgspec.UnsetType) -> bool:
    if isinstance(data, msgspec.Raw):
        return len(data) == len(MARK) and bytes(data) == MARK
    return data == [MARK_VALUE]


def _parse_whole(model: str, header: bytes) -> Envelope:
    try:
        envelope = _DECODER.decode(header)
    except (msgspec.DecodeError, ValueError, RecursionError):  # older DecodeErrors are no ValueErrors
        return parse_tolerantly(model, header)
    if not header.isascii():
        _text_of(model, header)  # msgspec does not look into the strings that it skips
    return envelope


def parse_tolerantly(model: str, header: bytes) -> Envelope:
    """Read the JSON of a request with the tolerant parser; as `parse`, at five times the price."""
    if not header:
        raise InvalidRequest(f'request to {model}: the body is empty; expected a JSON object with "inputs"')
    text = _text_of(model, header)
    try:
        document = load(text)
    except RecursionError:
        raise InvalidRequest(
            f"request to {model}: the JSON is nested too deeply; expected at most {MAX_DEPTH} arrays or objects inside "
            f"each other"
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"request to {model}: the body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            f"; expected {_EXPECTED}"
        ) from None
    return _envelope(model, document)


def _text_of(model: str, header: bytes) -> str:
    try:
        return str(header, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"request to {model}: the JSON is not valid UTF-8 at byte {error.start}; expected {_EXPECTED}"
        ) from None


def load(text: str) -> object:
    """Parse JSON of any kind, the tokens NaN, Infinity and -Infinity included.

    Numbers beyond a double become infinite, also integers with more digits than Python converts.

    Raises:
        json.JSONDecodeError: It is not JSON.
        RecursionError: It is nested more deeply than Python's stack allows.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(
            text, parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)
        )


def _envelope(model: str, document: object) -> Envelope:
    if not isinstance(document, dict):
        raise InvalidRequest(f'request to {model}: the JSON is {describe(document)}; expected an object with "inputs"')
    if "inputs" not in document:
        raise InvalidRequest(
            f'request to {model}: there is no "inputs"; expected an array with one object for each input'
        )
    where = f"request to {model}"
    identifier = document.get("id")
    outputs = document.get("outputs")
    return Envelope(
        inputs=[_input(model, i, item) for i, item in enumerate(_array(where, "inputs", document["inputs"]))],
        id=None if identifier is None else _string(where, "id", identifier),
        parameters=_parameters(where, document),
        outputs=None
        if outputs is None
        else [_output(model, i, item) for i, item in enumerate(_array(where, "outputs", outputs))],
    )


def _input(model: str, position: int, item: object) -> InputMember:
    place = f"inputs[{position}] of the request to {model}"
    members = _object(place, item)
    name = _string(place, "name", _required(place, "name", members))
    place = f"input {quoted(name)} of {model}"
    data = members.get("data")
    if data is not None and not isinstance(data, list):
        raise InvalidRequest(
            f"{place}: data is not an array but {json_type(data)}; expected an array, also for one element"
        )
    return InputMember(
        name=name,
        datatype=_string(place, "datatype", _required(place, "datatype", members)),
        shape=_shape(place, _required(place, "shape", members)),
        parameters=_parameters(place, members),
        data=msgspec.UNSET if data is None else cast("msgspec.Raw", data),
    )


def _output(model: str, position: int, item: object) -> OutputMember:
    place = f"outputs[{position}] of the request to {model}"
    members = _object(place, item)
    name = _string(place, "name", _required(place, "name", members))
    return OutputMember(name=name, parameters=_parameters(f"output {quoted(name)} of {model}", members))


def _shape(place: str, value: object) -> list[int]:
    dims = _array(place, "shape", value)
    for i, dim in enumerate(dims):
        if type(dim) is not int:
            raise InvalidRequest(f"{place}: shape[{i}] is {describe(dim)}; expected a positive integer")
    return dims


def _parameters(place: str, members: dict[str, Any]) -> Scalars | None:
    parameters = members.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"{place}: parameters is {describe(parameters)}; expected an object of scalars")
    scalars: Scalars = {}
    for key, value in parameters.items():
        _string(place, "the name of a parameter", key)
        if isinstance(value, dict) and key == "headers":
            continue  # MLServer's types send it
        if isinstance(value, (dict, list)):
            raise InvalidRequest(
                f"{place}: parameter {quoted(key)} is {describe(value)}; expected a string, number or boolean"
            )
        scalars[key] = _string(place, f"parameter {quoted(key)}", value) if isinstance(value, str) else value
    return scalars


def _required(place: str, member: str, members: dict[str, Any]) -> object:
    if member not in members:
        raise InvalidRequest(f'{place}: there is no "{member}"; it is required')
    return members[member]


def _object(place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f'{place} is {describe(value)}; expected an object with a "name"')
    return value


def _array(place: str, member: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{place}: {member} is {describe(value)}; expected an array")
    return value


def _string(place: str, member: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{place}: {member} is {describe(value)}; expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{place}: {member} has half of a surrogate pair at character {error.start}; expected Unicode text"
        ) from None
    return value
