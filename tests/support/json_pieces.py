"""Large JSON in small: sizes at which every border is met with little text, odd spellings, and comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from batchserve.core.tensors import DATATYPES, Array
from batchserve.errors import RequestError
from batchserve.frontend import envelope, number_parsers, number_text, tensor_json_output
from batchserve.frontend.v2 import ModelInfo, decode

JSON_TYPES = [name for name, datatype in DATATYPES.items() if datatype.is_json]
NUMERIC = [name for name in JSON_TYPES if name != "BYTES"]

GOOD = [
    "0",
    "-0",
    "7",
    "-1",
    "200",
    "32767",
    "99999",
    "100000",
    "4294967295",
    "-2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "0.1",
    "-0.0",
    "1e3",
    "1E+2",
    "2.0",
    "1e-05",
    "16777217",
    "0.30000001192092896",
    "1.7976931348623157e308",
    "5e-324",
    "1e39",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "true",
    "false",
]
"""Spellings of elements that are JSON, or tokens that are accepted beside it; not all of them fit every type."""

BAD = [
    "null",
    "",
    "01",
    "-01",
    "00",
    "1.",
    ".5",
    "+1",
    "0x1",
    "1e",
    "1e+",
    "-",
    "--1",
    "1 2",
    "1-",
    "nan",
    "-NaN",
    "inf",
    "1_0",
    "1.5.2",
    "tru",
    "truefalse",
    "1Y",
    "_",
    "1[",
    "]1",
    "[]",
    "[",
    "]",
    "{",
    "}",
    "{}",
    '"1"',
    '"',
    "\\",
    "/",
    "\x00",
    "\xa0",
    "é",
    "\uff11",  # a digit of another script
]
"""What is no element of a number or boolean tensor."""

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


def outcome(model: ModelInfo, body: bytes) -> list[Array] | RequestError:
    """Decode a request: its inputs, or what it is refused with."""
    try:
        return list(decode(model, memoryview(body), None, 0.0)[0].inputs)
    except RequestError as error:
        message = str(error)
        message.encode()
        assert len(message) < 2000
        return error


def assert_same(found: list[Array] | RequestError, expected: list[Array] | RequestError) -> None:
    """Check that two outcomes are the same, but for the words of a refusal."""
    if isinstance(expected, RequestError):
        assert type(found) is type(expected), f"taken, but refused as a whole: {expected}"
        return
    assert not isinstance(found, RequestError), f"taken as a whole, but refused: {found}"
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tolist() == other.tolist() if one.dtype.hasobject else same_bits(one, other)


def same_bits(one: Array, other: Array) -> bool:
    """Compare arrays to the bit."""
    if one.dtype.kind == "f":  # any NaN is as good as another
        one, other = np.where(np.isnan(one), one.dtype.type(np.nan), one), np.where(np.isnan(other), np.nan, other)
    return one.tobytes() == other.astype(one.dtype).tobytes()
