"""The `batchserve` command. Nothing heavy is imported before a command runs, so that `--help` is quick."""

from __future__ import annotations

import io
import sys
from typing import Any

import click

import batchserve
from batchserve.cli.bench import bench
from batchserve.cli.check import check
from batchserve.cli.config import config
from batchserve.cli.convert import convert
from batchserve.cli.doctor import doctor
from batchserve.cli.serve import serve
from batchserve.cli.simulate import simulate
from batchserve.cli.tune import tune
from batchserve.errors import ConfigError

__all__ = ["commands", "main"]


class ConfigFailure(click.ClickException):
    """A configuration that cannot be used: one line on stderr, exit status 2, as for a wrong flag."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"batchserve: {self.format_message()}", file=file, err=file is None)


class Commands(click.Group):
    """The group of commands; it turns our configuration errors into click's."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise ConfigFailure(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(batchserve.__version__, prog_name="batchserve")
def commands() -> None:
    """Serve ONNX models over HTTP, with requests batched as they come."""


for command in (serve, check, bench, tune, simulate, convert, config, doctor):
    commands.add_command(command)


def main() -> None:
    """Run the command line of this process."""
    # A file's name need not be UTF-8, and a terminal need not take it: neither may end a server.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    commands(prog_name="batchserve")
