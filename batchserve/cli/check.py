"""`batchserve check`: load everything as `serve` would, say what was found, serve nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchserve.cli.describe import describe_failure, describe_model, describe_proposal
from batchserve.cli.options import load_settings, model_paths, settings_options
from batchserve.errors import ConfigError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.backends.base import Backend, Session
    from batchserve.config import ModelConfig, Settings
    from batchserve.engine.sources import ModelSource

__all__ = ["check"]

LOOK_EVERY_S = 0.2


@click.command()
@model_paths(required=True)
@settings_options
def check(paths: tuple[Path, ...], config_file: Path | None, sets: tuple[str, ...]) -> None:
    """Check the models under PATH and their configuration without serving them.

    Loads and measures each model as serve does. Exit status: 0 if all can be served, 1 if some cannot, 2 if the
    configuration cannot be used.
    """
    settings = load_settings(config_file, sets)

    from batchserve.backends.onnx import require_runtime
    from batchserve.cli.assemble import cache_folder, model_backend
    from batchserve.engine.sources import find_models
    from batchserve.telemetry.logging import set_up_logging

    runtime = require_runtime()
    sources = find_models(paths)
    settings.check_model_names([source.name for source in sources])
    set_up_logging("warning", settings.server.log_format)
    backend = model_backend(cache_folder(settings.server.cache_dir), runtime.get_available_providers)
    failed = asyncio.run(_check_all(settings, sources, backend))
    good, known = len(sources) - len(failed), len(sources)
    click.echo(f"{good} of {known} {'model' if known == 1 else 'models'} can be served")
    if failed:
        raise click.exceptions.Exit(1)


async def _check_all(settings: Settings, sources: list[ModelSource], backend: Backend) -> set[str]:
    """Print each model's description as soon as it is known.

    Returns:
        The names of those that cannot be served.
    """
    failed: set[str] = set()
    with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
        for source in sources:
            try:
                config = settings.model(source.name, source.folder)
                async for lines, is_good in _check_versions(source, config, backend, executor):
                    click.echo("\n".join((*lines, "")))
                    if not is_good:
                        failed.add(source.name)
            except (ConfigError, ModelLoadError) as error:
                click.echo("\n".join((*describe_failure(source.name, "", str(error)), "")))
                failed.add(source.name)
    return failed


async def _check_versions(
    source: ModelSource, config: ModelConfig, backend: Backend, executor: Executor
) -> AsyncIterator[tuple[list[str], bool]]:
    """Load the versions that would be served, one after the other, and let go of each.

    Raises:
        ModelLoadError: There is no version to serve.
    """
    from batchserve.backends.base import ModelFile
    from batchserve.engine.loading import load_model
    from batchserve.engine.sources import choose_versions

    for number in choose_versions(config.version_policy, list(source.versions)):
        path = source.versions.get(number)
        if path is None:
            reason = f"version_policy names version {number}, which does not exist"
            yield describe_failure(source.name, number, reason), False
            continue
        try:
            model = await load_model(ModelFile(source.name, number, path), config, backend, executor=executor)
        except ModelLoadError as error:
            yield describe_failure(source.name, number, str(error)), False
            continue
        try:
            await asyncio.to_thread(_wait_for_build, model.session)
            lines = describe_model(model)
            if (pad := await asyncio.to_thread(model.session.propose_pad)) is not None:
                lines += describe_proposal(pad)
            yield lines, True
        finally:
            await model.close()


def _wait_for_build(session: Session) -> None:
    """Wait until it is known whether a provider that is built beside the serving is taken; not for requests. Blocks."""
    from batchserve.backends.swapping import SwappingSession

    if isinstance(session, SwappingSession):
        while not session.wait(LOOK_EVERY_S) and not session.is_learning:
            pass
