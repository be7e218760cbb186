"""A fake backend with two providers, of which the second takes time to build, fails, or answers as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from batchserve.backends.base import Layout, ModelFile
from batchserve.backends.fake import FakeBackend, FakeSession
from batchserve.config import ModelConfig
from batchserve.core.tensors import DATATYPES, Array, TensorSpec

__all__ = ["WAIT_S", "Answer", "Provider", "Providers"]

WAIT_S = 20.0
FLOATS = (TensorSpec("x", DATATYPES["FP32"], (-1, 4)),)

Answer = Callable[[Sequence[Array]], list[Array]]


class Provider(FakeSession):
    """A session on one provider, with answers of its own."""

    def __init__(self, backend: Providers, name: str, answer: Answer) -> None:
        super().__init__(backend, (Layout(1, 1),))
        self.providers = (name,)
        self.answer = answer

    def run(self, inputs: Sequence[Array], output_mask: int) -> list[Array]:
        super().run(inputs, output_mask)
        return self.answer(inputs)


class Providers(FakeBackend):
    """Opens `cpu` at once, and any other provider as a build does.

    Args:
        answer: What the built session answers.
        build_gate: The build waits until it is set.
        trouble: Raised by the build.
    """

    def __init__(
        self,
        answer: Answer = lambda inputs: [inputs[0] * 2],
        build_gate: threading.Event | None = None,
        trouble: Exception | None = None,
        **more: object,
    ) -> None:
        super().__init__(inputs=FLOATS, outputs=FLOATS, **more)  # type: ignore[arg-type]
        self.answer, self.build_gate, self.trouble = answer, build_gate, trouble

    def load(self, file: ModelFile, config: ModelConfig) -> FakeSession:
        name = config.providers[0]
        if name in ("cpu", "CPUExecutionProvider"):
            name = "cpu"
            session = Provider(self, name, lambda inputs: [inputs[0] * 2])
        else:
            assert self.build_gate is None or self.build_gate.wait(WAIT_S)
            if self.trouble is not None:
                raise self.trouble
            session = Provider(self, name, self.answer)
        self.sessions.append(session)
        return session
