"""Small sizes for the code that reads and writes large JSON, so that every border is met with little text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from batchserve.frontend import envelope, number_parsers, number_text, tensor_json_output

SIMD = pytest.param(
    True,
    id="pysimdjson",
    marks=pytest.mark.skipif(number_parsers.simdjson is None, reason="pysimdjson is not installed (extra json)"),
)
PARSERS = (pytest.param(False, id="built-in"), SIMD)
"""Whether pysimdjson is used."""


@contextmanager
def sizes(
    *, piece: int = 16, small: int = 8, window: int = 8, least: int = 1, large: int = 0, simd: bool = False
) -> Iterator[None]:
    """Set the sizes in bytes; without pysimdjson unless it is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(number_text, "PIECE_BYTES", piece)
        patch.setattr(number_text, "SMALL_BYTES", small)
        patch.setattr(number_text, "WINDOW_BYTES", window)
        patch.setattr(number_text, "LEAST_BYTES", least)
        patch.setattr(envelope, "LARGE_BYTES", large)
        patch.setattr(tensor_json_output, "PIECE_ELEMENTS", piece)
        if not simd:
            patch.setattr(number_parsers, "simdjson", None)
        yield


@contextmanager
def whole() -> Iterator[None]:
    """Have every request read as a whole, however large it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "LARGE_BYTES", 1 << 60)
        yield
