"""Values to try a model with: what its own warm-up found that it accepts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from batchserve.errors import BackendError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from batchserve.engine.model import Model

__all__ = ["MOST_ELEMENTS", "Samples"]

MOST_ELEMENTS = 2048
"""Of a larger tensor only the shape is sent; the page fills it."""


class Samples:
    """One sample for each model version, made once on a helper thread. Event loop only.

    Args:
        pool: The helper threads.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._known: WeakKeyDictionary[Model, list[dict[str, Any]] | None] = WeakKeyDictionary()

    async def of(self, model: Model) -> list[dict[str, Any]] | None:
        """Return shape and values for each input, values None where they are many; None if no sample is known."""
        if model not in self._known:
            self._known[model] = await asyncio.get_running_loop().run_in_executor(self._pool, _sample, model)
        return self._known[model]


def _sample(model: Model) -> list[dict[str, Any]] | None:
    try:
        arrays = model.session.sample(1)
    except BackendError:
        return None
    sample = []
    for spec, array in zip(model.signature.inputs, arrays, strict=True):
        values = None
        if array.size <= MOST_ELEMENTS and spec.datatype.is_json:
            values = array.reshape(-1).tolist()
            if spec.datatype.kind == "float":
                values = [round(value, 3) for value in values]
        sample.append({"shape": list(array.shape), "data": values})
    return sample
