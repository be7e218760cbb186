"""Requests whose right answers are known, because ONNX Runtime was asked about each row alone beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from loadtest.wire import infer_request, json_request, outputs

__all__ = ["Questions", "WrongAnswerError"]

Array = npt.NDArray[Any]

# onnxruntime.md: FP32 on a CPU, batched against unbatched.
RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5


class WrongAnswerError(Exception):
    """An answer under load is not the model's; the text says whose."""


class Questions:
    """Distinct rows for one model with one input, and what the model says about each.

    Args:
        name: The model's name, as the server knows it.
        folder: The model's folder in a repository; the highest version is asked.
        input_name: Its input.
        rows: `float32[N, ...]`, one question each.

    Attributes:
        rows: The rows.
        expected: The outputs of each row alone by name, each `dtype[1, ...]`, in the order of the rows.
    """

    def __init__(self, name: str, folder: Path, input_name: str, rows: Array) -> None:
        self.name = name
        self.folder = folder
        self.rows = rows
        self._input_name = input_name
        self.expected = self._run_alone()

    @property
    def model_file(self) -> Path:
        """The file of the highest version."""
        return max(self.folder.glob("*/model.onnx"), key=lambda path: int(path.parent.name))

    def _run_alone(self) -> list[dict[str, Array]]:
        """Ask ONNX Runtime about each row alone."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(self.model_file), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        answers = (session.run(names, {self._input_name: row[None]}) for row in self.rows)
        return [dict(zip(names, answer, strict=True)) for answer in answers]

    def requests(self, count: int, host: str) -> list[bytes]:
        """Write requests in binary, each about another row."""
        return [infer_request(self.name, {self._input_name: row[None]}, host) for row in self.rows[:count]]

    def json_requests(self, count: int, host: str) -> list[bytes]:
        """Write requests in JSON throughout, each about another row."""
        return [json_request(self.name, {self._input_name: row[None]}, host) for row in self.rows[:count]]

    def check(self, answers: Sequence[bytes], read: Callable[[bytes], dict[str, Array]] = outputs) -> None:
        """Compare answers with what each row gives alone.

        Args:
            answers: Head and body of the answers to `requests`, in its order.
            read: Takes the outputs out of one answer.

        Raises:
            WrongAnswerError: One is wrong.
            WireError: One is no answer with outputs.
        """
        for index, answer in enumerate(answers):
            self.check_one(index, answer, read)

    def check_one(self, index: int, answer: bytes, read: Callable[[bytes], dict[str, Array]] = outputs) -> None:
        """Compare the answer to one request with what its row gives alone.

        Args:
            index: Which of `requests` it answers.
            answer: Head and body.
            read: Takes the outputs out of it.

        Raises:
            WrongAnswerError: It differs by more than the tolerance, or holds other outputs.
            WireError: It is no answer with outputs.
        """
        given, expected = read(answer), self.expected[index]
        if given.keys() != expected.keys():
            raise WrongAnswerError(
                f"{self.name}, connection {index}: outputs {sorted(given)}, expected {sorted(expected)}"
            )
        for name, right in expected.items():
            spread = float(np.abs(right).max()) * ABSOLUTE_TOLERANCE
            if given[name].shape != right.shape or not np.allclose(given[name], right, RELATIVE_TOLERANCE, spread):
                raise WrongAnswerError(f"{self.name}, connection {index}: {name!r} is not what its row gives alone")
