"""`batchserve serve`: find the models, serve them, say what was found, end well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchserve.cli.describe import report
from batchserve.cli.options import load_settings, model_paths, server_flags, settings_options
from batchserve.cli.stopping import StopSignals
from batchserve.config.units import format_duration

if TYPE_CHECKING:
    from batchserve.cli.assemble import Assembly

__all__ = ["serve"]


@click.command(
    epilog="Every key can also be set by a variable: BATCHSERVE_SERVER__PORT, BATCHSERVE_DEFAULTS__TIMEOUT, "
    "BATCHSERVE_MODELS__NAME__MAX_BATCH_SIZE. docs/configuration.md lists all keys."
)
@model_paths(required=True)
@settings_options
@server_flags
def serve(paths: tuple[Path, ...], config_file: Path | None, sets: tuple[str, ...], **flags: object) -> None:
    """Serve the models under PATH.

    A PATH is a .onnx file, a folder of .onnx files, a repository of models (MODEL/VERSION/model.onnx), or the folder of
    one model of such a repository. SIGHUP reads the configuration again, SIGTERM and SIGINT stop the server.
    """
    settings = load_settings(config_file, sets, flags)

    from batchserve.cli.assemble import Assembly, new_event_loop
    from batchserve.engine.sources import find_models
    from batchserve.telemetry.logging import set_up_logging

    sources = find_models(paths)
    settings.check_model_names([source.name for source in sources])
    set_up_logging(settings.server.log_level, settings.server.log_format, access=settings.server.access_log)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        is_loading = runner.run(_serve(lambda: Assembly(settings, sources), settings.server.drain_timeout_s))
    if is_loading:
        logging.shutdown()
        os._exit(0)


def say(*lines: str) -> None:
    """Print lines for a person, at once; that nobody reads them any more does not matter to the server."""
    try:
        click.echo("\n".join(lines))
    except OSError:
        with contextlib.suppress(OSError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


async def _serve(assemble: Callable[[], Assembly], drain_timeout_s: float) -> bool:
    """Serve until a signal says stop, then drain.

    Returns:
        True if a model was still being loaded then: its thread cannot be interrupted.

    Raises:
        ConfigError: There is no runtime, or the address cannot be listened on.
    """
    stop = StopSignals(say, format_duration(drain_timeout_s))
    loop = asyncio.get_running_loop()
    stop.install(loop)
    assembly = assemble()
    stop.install_reload(loop, assembly.reload)
    try:
        await assembly.start()
        say(f"Listening on {assembly.server.url}; loading models")
        stopped, loading = asyncio.create_task(stop.wait()), asyncio.create_task(assembly.load())
        await asyncio.wait((stopped, loading), return_when=asyncio.FIRST_COMPLETED)
        is_loaded = loading.done()
        if is_loaded:
            loading.result()
            say(*report(assembly.repository, assembly.server.url))
            await stopped
        else:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await assembly.drain()
    finally:
        await assembly.close()
    say("Stopped")
    return not is_loaded
