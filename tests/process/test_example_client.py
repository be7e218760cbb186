"""examples/client.py against the real server: it reports the models' real accuracy, or says why it cannot."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import ServeProcess

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of both example models."""
    server = ServeProcess((EXAMPLES / "models", "--port", "0"))
    try:
        yield server.loaded()
    finally:
        server.close()


WITHOUT_SCIKIT_LEARN = (
    "import runpy, sys; sys.argv = sys.argv[1:]; sys.modules['sklearn'] = None; "
    "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def ask(*arguments: str, has_scikit_learn: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the client to its end."""
    start = [] if has_scikit_learn else ["-c", WITHOUT_SCIKIT_LEARN]
    return subprocess.run(
        [sys.executable, *start, str(EXAMPLES / "client.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("form", [[], ["--binary"]], ids=["json", "binary"])
def test_asking_every_held_out_sample_once_gives_the_stated_accuracy(form: list[str], url: str) -> None:
    digits = ask("--url", url, "--models", "digits", "--requests", "359", *form)
    language = ask("--url", url, "--models", "language", "--requests", "150", *form)
    assert (digits.returncode, language.returncode) == (0, 0), digits.stderr + language.stderr
    assert "digits: 359 answered, 0 failed" in digits.stdout
    assert "98.33% (353 of 359)" in digits.stdout
    assert "98.67% (148 of 150)" in language.stdout
    assert re.search(r"p50 [\d.]+ ms  p90 [\d.]+ ms  p99 [\d.]+ ms  max [\d.]+ ms", digits.stdout)


def test_both_models_are_asked_by_default_and_samples_come_round_again(url: str) -> None:
    done = ask("--url", url + "/", "--requests", "400", "--concurrency", "32")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\w+): 400 answered, 0 failed", done.stdout) == ["digits", "language"]


def test_nobody_listening_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = ask("--url", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no server answers at http://127.0.0.1:")
    assert "batchserve serve examples/models" in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_scikit_learn_is_said_in_one_line_that_names_it(url: str) -> None:
    done = ask("--url", url, has_scikit_learn=False)
    assert done.returncode == 2
    assert "pip install scikit-learn" in done.stderr
    assert done.stderr.count("\n") == 1


def test_language_is_asked_without_scikit_learn(url: str) -> None:
    done = ask("--url", url, "--models", "language", "--requests", "5", has_scikit_learn=False)
    assert done.returncode == 0, done.stderr


def test_model_that_is_not_served_is_said_in_one_line() -> None:
    server = ServeProcess((EXAMPLES / "models" / "language", "--port", "0"))
    try:
        done = ask("--url", server.loaded(), "--models", "language", "digits", "--requests", "3")
    finally:
        server.close()
    assert done.returncode == 2
    assert "does not have the model 'digits' ready (404" in done.stderr
    assert done.stderr.count("\n") == 1


def test_failed_requests_are_counted_and_end_with_one() -> None:
    """With a time-out of a microsecond, every request expires before it can run."""
    server = ServeProcess((EXAMPLES / "models", "--port", "0", "--set", "models.language.timeout=1us"))
    try:
        done = ask("--url", server.loaded(), "--models", "language", "--requests", "20")
    finally:
        server.close()
    assert done.returncode == 1, done.stdout
    assert "language: 0 answered, 20 failed" in done.stdout
    assert re.search(r"20 x 504: ", done.stdout)
