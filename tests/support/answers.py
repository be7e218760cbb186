"""Whether two ways to run a model give the same, to the last bit and in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from batchserve.backends.base import Session
from batchserve.errors import BackendError

__all__ = ["same", "same_error"]


def same(got: list[Any], expected: list[Any]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def same_error(session: Session, plain: Session, wrong: Sequence[Any]) -> None:
    """Both refuse the inputs, in the same words."""
    with pytest.raises(BackendError) as expected:
        plain.run(wrong, 1)
    with pytest.raises(BackendError) as got:
        session.run(wrong, 1)
    assert str(got.value) == str(expected.value)
