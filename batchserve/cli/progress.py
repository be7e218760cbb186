"""Says how far a long command is: a bar where a terminal and rich are there, a line now and then otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Reporter"]

LINE_EVERY_S = 5.0


class Reporter:
    """Shows one task after the other on stderr; a context manager.

    Args:
        is_quiet: True to say nothing.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet
        self._rich: RichProgress | None = None if is_quiet or not sys.stderr.isatty() else _rich_progress()
        self._task: Any = None
        self._label = ""
        self._said_s = 0.0

    def __enter__(self) -> Self:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def begin(self, label: str) -> None:
        """Begin a task."""
        self._label, self._said_s = label, time.monotonic()
        if self._rich is not None:
            if self._task is not None:
                self._rich.remove_task(self._task)
            self._task = self._rich.add_task(label, total=1.0, text="")

    def update(self, share: float, text: str) -> None:
        """Say how far the task is, from 0 to 1, and something about it."""
        if self._rich is not None:
            self._rich.update(self._task, completed=min(share, 1.0), text=text)
        elif not self._is_quiet and time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            click.echo(f"{self._label}: {min(share, 1.0):.0%}, {text}", err=True)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._rich is not None:
            self._rich.console.print(line, highlight=False, markup=False)
        elif not self._is_quiet:
            click.echo(line, err=True)


def _rich_progress() -> RichProgress | None:
    """Make rich's bar on stderr, None without rich (extra `bench`)."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
        transient=True,
    )
