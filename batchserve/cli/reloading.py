"""Reading the configuration again while the server runs: all of it or nothing, and a word on every changed key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from batchserve.config import SERVER_KEYS
from batchserve.engine.changes import Changes
from batchserve.engine.sources import CONFIG_FILES
from batchserve.errors import ConfigError, InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from batchserve.config import ModelConfig, Settings
    from batchserve.engine.repository import Repository
    from batchserve.engine.sources import ModelSource

__all__ = ["Reloading"]

NEEDS_RESTART = "takes effect when the server is started again"

logger = logging.getLogger(__name__)


class Reloading:
    """Holds the settings in force, and puts others in their place. Event loop only, but for `config_of`.

    Invariant: nothing of a configuration is put in force unless all of it can be read.

    Args:
        settings: What the server started with.
    """

    def __init__(self, settings: Settings) -> None:
        self._started_with = settings.server
        self._settings = settings
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def config_of(self, source: ModelSource) -> ModelConfig:
        """Read what is in force for a model that is being loaded. Any thread.

        Raises:
            ConfigError: It cannot be used.
        """
        return self._settings.model(source.name, source.folder)

    def start(self, repository: Repository) -> None:
        """Read everything again in the background, as SIGHUP asks for; what comes of it is in the log."""
        task = asyncio.get_running_loop().create_task(self._reload_all(repository))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Give up what `start` began: the server is going."""
        for task in self._tasks:
            task.cancel()

    async def reload_model(self, repository: Repository, name: str) -> Changes:
        """Read the configuration file and one model's own files again.

        Raises:
            ModelNotFound: No such model.
            InvalidRequest: The configuration cannot be used; nothing has changed. The text names files without folders.
        """
        sources = [source for source in repository.sources() if source.name == name]
        if not sources:
            raise ModelNotFound(f"model '{name}' is not known; POST /v2/repository/index lists what is")
        try:
            changes, server = await self._reload(repository, sources)
        except ConfigError as error:
            logger.error("model %s: its configuration is not reloaded: %s", name, error)  # noqa: TRY400  # its message
            text = self._without_folders(str(error), sources)
            raise InvalidRequest(f"the configuration of model '{name}' is as it was: {text}") from error
        return Changes(changes[name].applied, {**changes[name].not_applied, **server.not_applied})

    async def _reload_all(self, repository: Repository) -> None:
        try:
            changes, server = await self._reload(repository, repository.sources())
        except ConfigError as error:
            logger.error("the configuration is as it was: %s", error)  # noqa: TRY400  # the reason is the message
            return
        if not any(each.applied or each.not_applied for each in (*changes.values(), server)):
            logger.info("the configuration was read again: nothing has changed")

    async def _reload(
        self, repository: Repository, sources: Sequence[ModelSource]
    ) -> tuple[dict[str, Changes], Changes]:
        """Read, then apply.

        Returns:
            The changes by model, and those of `[server]`.

        Raises:
            ConfigError: Something cannot be used; nothing has changed.
        """
        async with self._lock:
            settings, configs = await asyncio.to_thread(self._read, repository.names(), sources)
            self._settings = settings
            done = await asyncio.gather(*(repository.reconfigure(name, config) for name, config in configs.items()))
        changes = dict(zip(configs, done, strict=True))
        for name, change in changes.items():
            _tell(f"model {name}", change)
        server = Changes(not_applied=self._changed_server_keys(settings))
        _tell("the server", server)
        return changes, server

    def _read(self, names: Sequence[str], sources: Sequence[ModelSource]) -> tuple[Settings, Mapping[str, ModelConfig]]:
        settings = self._settings.reread()
        settings.check_model_names(names)
        return settings, {source.name: settings.model(source.name, source.folder) for source in sources}

    def _changed_server_keys(self, settings: Settings) -> dict[str, str]:
        return {
            f"server.{key.name}": NEEDS_RESTART
            for key in SERVER_KEYS.values()
            if getattr(settings.server, key.field) != getattr(self._started_with, key.field)
        }

    def _without_folders(self, text: str, sources: Sequence[ModelSource]) -> str:
        paths = [source.folder / name for source in sources if source.folder for name in CONFIG_FILES]
        if self._settings.config_file is not None:
            paths.append(self._settings.config_file)
        for path in paths:
            text = text.replace(str(path), path.name)
        return text


def _tell(whose: str, changes: Changes) -> None:
    if changes.applied:
        logger.info("%s: changed from now on: %s", whose, ", ".join(changes.applied))
    for name, needed in changes.not_applied.items():
        logger.warning("%s: %s has changed and %s", whose, name, needed)
