"""Request JSON seen before: what decoding it comes to, remembered by its bytes.

The same client sends the same JSON before different tensors again and again. If all of a request's tensors are binary
and simply lie in the body, everything but the tensors' contents is a function of the JSON's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchserve.core.request import Request, Scalar

if TYPE_CHECKING:
    from batchserve.core.shapes import ShapeKey
    from batchserve.core.tensors import Array
    from batchserve.frontend.requested import Asked
    from batchserve.frontend.tensor_binary import Buffer

__all__ = ["LONGEST_JSON", "Plan", "Plans"]

LONGEST_JSON = 1024
"""Bytes of the longest JSON that is remembered: longer ones cost more to compare, and are rarely the same twice."""

MOST_PLANS = 1024
"""Remembered at once; when there are more, all are forgotten: a client whose ids differ each time gains nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to read a body that begins with a JSON seen before.

    Attributes:
        json_bytes: Length of the JSON.
        body_bytes: Length of the body.
        views: Shape, dtype and offset in the body of each input, in the signature's order.
        asked: How to answer; shared by all requests of this plan, so nobody may write to it.
    """

    json_bytes: int
    body_bytes: int
    views: tuple[tuple[tuple[int, ...], np.dtype[Any], int], ...]
    rows: int
    key: ShapeKey
    output_mask: int
    timeout_s: float | None
    priority: int
    id: str
    parameters: Mapping[str, Scalar]
    length: int
    asked: Asked

    def apply(self, body: Buffer, arrival_s: float) -> Request:
        """Make the request. Its arrays are views of `body`, in which `views` has their places."""
        views = self.views
        if len(views) == 1:
            shape, dtype, offset = views[0]
            inputs: tuple[Array, ...] = (np.ndarray(shape, dtype, body, offset),)
        else:
            inputs = tuple([np.ndarray(shape, dtype, body, offset) for shape, dtype, offset in views])
        return Request(
            inputs,
            self.rows,
            self.key,
            self.output_mask,
            arrival_s,
            self.timeout_s,
            self.priority,
            self.body_bytes,
            self.id,
            self.parameters,
            self.length,
        )


class Plans:
    """The plans of one model version. Any thread: each step is one operation on a dictionary."""

    __slots__ = ("_plans",)

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan] = {}

    def find(self, header: bytes, body_bytes: int) -> Plan | None:
        """Return the plan for a body of so many bytes that begins with `header`; None if there is none."""
        plan = self._plans.get(header)
        return plan if plan is not None and plan.body_bytes == body_bytes else None

    def learn(self, header: bytes, body: Buffer, request: Request, asked: Asked) -> None:
        """Remember how a request was decoded, if its arrays are nothing but views of its body."""
        if len(header) > LONGEST_JSON or request.size_bytes != len(body):
            return
        start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
        views = []
        for array in request.inputs:
            offset = array.__array_interface__["data"][0] - start
            if not 0 < offset <= len(body) - array.nbytes:
                return
            views.append((array.shape, array.dtype, offset))
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        self._plans[header] = Plan(
            len(header),
            len(body),
            tuple(views),
            request.rows,
            request.key,
            request.output_mask,
            request.timeout_s,
            request.priority,
            request.id,
            request.parameters,
            request.length,
            asked,
        )
