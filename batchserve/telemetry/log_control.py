"""Which lines are written, changeable while the server runs: the settings of `/v2/logging` (protocol.md section 14)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from batchserve.telemetry.logging import TextFormatter, own_handlers

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LogControl"]


class LogControl(logging.Filter):
    """The log settings of the process. Event loop only; filtering on any thread.

    Triton's settings are switches for each kind of line, not one level: infos can be off while warnings are on, and the
    other way round. The access log has a switch of its own (`server.access_log`) and is not concerned.

    Args:
        level: `server.log_level`, from which the switches start.
    """

    def __init__(self, level: str) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {
            "log_file": "",
            "log_info": level in ("debug", "info"),
            "log_warning": level != "error",
            "log_error": True,
            "log_verbose_level": int(level == "debug"),
            "log_format": "ISO8601",
        }

    def install(self) -> None:
        """Take effect on what `set_up_logging` has set up, in place of an earlier one."""
        for handler in own_handlers():
            for old in [each for each in handler.filters if isinstance(each, LogControl)]:
                handler.removeFilter(old)
            handler.addFilter(self)
        self._apply()

    def update(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change some settings and return all.

        Args:
            changes: New values by name, of the right types; `log_file` is not among them.
        """
        if changes:
            self._settings |= changes
            self._apply()
        return dict(self._settings)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line is written."""
        if record.name == "batchserve.access":
            return True
        settings = self._settings
        if record.levelno >= logging.ERROR:
            return bool(settings["log_error"])
        if record.levelno >= logging.WARNING:
            return bool(settings["log_warning"])
        if record.levelno >= logging.INFO:
            return bool(settings["log_info"])
        return bool(settings["log_verbose_level"] > 0)

    def _apply(self) -> None:
        """Let lines that nobody wants not even be made."""
        settings = self._settings
        wanted = (
            (logging.DEBUG, settings["log_verbose_level"] > 0),
            (logging.INFO, settings["log_info"]),
            (logging.WARNING, settings["log_warning"]),
            (logging.ERROR, settings["log_error"]),
        )
        lowest = next((level for level, is_wanted in wanted if is_wanted), logging.CRITICAL + 1)
        logging.getLogger().setLevel(lowest)
        for handler in own_handlers():
            if isinstance(handler.formatter, TextFormatter):
                handler.formatter.has_iso_time = settings["log_format"] == "ISO8601"
