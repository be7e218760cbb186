"""A backend for worker processes whose runs do what their first value says: answer, fail, crash, or want memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import numpy as np

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend, FakeSession
from batchserve.config import ModelConfig
from batchserve.core.tensors import Array
from batchserve.errors import BackendError, ModelLoadError

LOADING = b"loading"
"""What a model named `slow` tells its parent, out of turn, before it loads for a minute."""

FAIL, SEGV, KILL, MEMORY, SLOW, EXIT = 101, 102, 103, 104, 105, 106


class CrashingBackend(FakeBackend):
    """The model `y = x + 1000`, with the values above as triggers in any row."""

    def __init__(self) -> None:
        super().__init__(function=_answer)

    def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
        if file.name == "bad":
            raise ModelLoadError("it cannot be loaded")
        if file.name == "fatal":
            ctypes.string_at(0)
        if file.name == "slow":
            os.write(int(sys.argv[1]), LOADING)
            time.sleep(60)  # until it is ended
        if file.name == "large":
            np.ones(1 << 27)
        return super().load(file, config)


def _answer(inputs: Sequence[Array], output_mask: int) -> list[Array]:
    values = set(np.asarray(inputs[0]).ravel().tolist())
    if FAIL in values:
        raise BackendError("the model was told to fail")
    if SEGV in values:
        ctypes.string_at(0)
    if KILL in values:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal may reach another thread first
    if EXIT in values:
        os._exit(3)
    if MEMORY in values:
        np.ones(1 << 27)  # a gigabyte
    if SLOW in values:
        time.sleep(60)  # until it is killed
    return [inputs[0] + 1000]
