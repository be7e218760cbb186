"""A request line for a shell that works as printed: real sample values for one model, in JSON, sent by curl."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.tensors import Array, TensorSpec
    from batchserve.engine.model import Model

__all__ = ["MOST_SHOWN_CHARACTERS", "sample_request"]

MOST_SHOWN_CHARACTERS = 4000
"""A longer body is made by Python when the line runs: nobody wants a screen full of digits."""

MOST_SENT_ELEMENTS = 1_000_000
"""Beyond this JSON is the wrong form even for a try."""


def sample_request(model: Model, base_url: str) -> str:
    """Write a shell line that sends one row to a model.

    Args:
        model: A loaded version; the highest ready one of its name answers.
        base_url: Such as `http://127.0.0.1:8000`, or `unix:/run/batchserve.sock`.

    Returns:
        One line: a command, or a comment that says why there is none and what to do.
    """
    tensors = model.signature.inputs
    if binary := [spec for spec in (*tensors, *model.signature.outputs) if not spec.datatype.is_json]:
        spec = binary[0]
        return (
            f"# {spec.name} is {spec.datatype.name}, which has no JSON form: use a client that sends and asks for "
            "binary tensors, such as tritonclient.http"
        )
    try:
        arrays = model.session.sample(1)
    except BackendError as error:
        return f"# no sample is known that {model.name} accepts: {error}"
    if sum(array.size for array in arrays) > MOST_SENT_ELEMENTS:
        return (
            f"# the inputs of {model.name} are large: use a client that sends binary tensors, such as tritonclient.http"
        )
    curl = "curl -s"
    if base_url.startswith("unix:"):
        curl += f" --unix-socket {shlex.quote(base_url.removeprefix('unix:'))}"
        base_url = "http://localhost"
    url = shlex.quote(f"{base_url}/v2/models/{quote(model.name, safe='', errors='surrogateescape')}/infer")
    body = _compact({"inputs": [_input(spec, array) for spec, array in zip(tensors, arrays, strict=True)]})
    if len(body) <= MOST_SHOWN_CHARACTERS:
        return f"{curl} {url} -d {shlex.quote(body)}"
    return f"python3 -c {shlex.quote(_program(tensors, arrays))} | {curl} {url} -d @-"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _input(spec: TensorSpec, array: Array) -> dict[str, Any]:
    return {
        "name": spec.name,
        "shape": list(array.shape),
        "datatype": spec.datatype.name,
        "data": [_plain(value, spec.datatype.kind) for value in array.reshape(-1).tolist()],
    }


def _plain(value: Any, kind: str) -> Any:
    """Shorten a sample: three digits behind the point say as much."""
    return round(value, 3) if kind == "float" else value


def _program(tensors: Sequence[TensorSpec], arrays: Sequence[Array]) -> str:
    """Write a line of Python that prints the body, each input filled with one of its sample values."""
    inputs = []
    for spec, array in zip(tensors, arrays, strict=True):
        value = _plain(array.reshape(-1)[:1].tolist()[0], spec.datatype.kind)
        inputs.append(
            f"dict(name={spec.name!r}, shape={list(array.shape)}, datatype={spec.datatype.name!r}, "
            f"data=[{value!r}] * {array.size})"
        )
    return f"import json; print(json.dumps(dict(inputs=[{', '.join(inputs)}])))"
