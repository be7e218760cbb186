"""Requests for tests of the core and the engine: integer-coded rows, so that every row is known again."""

from __future__ import annotations

import numpy as np

from batchserve.core.request import Request
from batchserve.core.shapes import shape_key


def make_request(
    rows: int = 1,
    *,
    value: int = 0,
    width: int = 4,
    arrival_s: float = 0.0,
    timeout_s: float | None = None,
    priority: int = 0,
    output_mask: int = 1,
    is_batching: bool = True,
) -> Request:
    """Make a request of `int64[rows, width]` whose every element is `value`."""
    array = np.full((rows, width), value, np.int64)
    return Request(
        inputs=(array,),
        rows=rows if is_batching else 1,
        key=shape_key((array,), is_batching=is_batching),
        output_mask=output_mask,
        arrival_s=arrival_s,
        timeout_s=timeout_s,
        priority=priority,
        size_bytes=array.nbytes,
    )
