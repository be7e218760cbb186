"""What answers to the same question have in common: everything but the contents of their tensors.

If all outputs of an answer are binary numbers, its JSON is a function of the request's JSON and the outputs' shapes.
Who asks the same again is answered with the same bytes before other tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.tensors import Array
    from batchserve.frontend.requested import Asked

__all__ = ["MOST_BYTES", "Template", "fitting"]

MOST_BYTES = 64 << 10
"""Of the largest answer that a template is made for; a larger one is not joined, so nothing is gained."""


@dataclass(slots=True)
class Template:
    """The constant bytes of some answers.

    Attributes:
        shapes: Of their outputs.
        json: The JSON that comes before the tensors.
        body_bytes: Length of the body, tensors included.
        begin: The HTTP head and the JSON, as of `second`; `replies.plain_reply` writes them.
        second: Seconds since the epoch, which the head shows.
    """

    shapes: tuple[tuple[int, ...], ...]
    json: bytes
    body_bytes: int
    begin: bytes = b""
    second: int = -1


def fitting(asked: Asked, outputs: tuple[Array, ...]) -> Template | None:
    """Return the template for an answer, if the last one to the same question had outputs of the same shapes."""
    template = asked.template
    if template is None:
        return None
    if len(outputs) == 1:
        return template if outputs[0].shape == template.shapes[0] else None
    return template if tuple([array.shape for array in outputs]) == template.shapes else None
