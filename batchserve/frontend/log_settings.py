"""`/v2/logging` (protocol.md section 14): which kinds of log lines are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batchserve.errors import Forbidden, InvalidRequest, NotFound
from batchserve.frontend.wording import describe

if TYPE_CHECKING:
    from batchserve.frontend.services import Services

__all__ = ["LogSettings"]

_SWITCHES = ("log_info", "log_warning", "log_error")
_FORMATS = ("default", "ISO8601")
_MOST_VERBOSE = 2**31 - 1


class LogSettings:
    """Reads and changes the log settings. Event loop only.

    Args:
        services: Where they are, and whether they may be changed.
    """

    def __init__(self, services: Services) -> None:
        self._settings = services.log_settings
        self._is_allowed = services.config.admin

    def check_allowed(self) -> None:
        """Refuse changes that are switched off, before the body is read.

        Raises:
            Forbidden: `server.admin` is false.
        """
        if not self._is_allowed:
            raise Forbidden("changing log settings is switched off; set server.admin = true to allow it")

    def read(self) -> Mapping[str, Any]:
        """Return all settings.

        Raises:
            NotFound: There are none.
        """
        return self._apply({})

    def change(self, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change what the members name, all or nothing, and return all settings. Unknown names are ignored.

        Raises:
            InvalidRequest: A value is of the wrong type, or names another `log_file`.
            NotFound: There are no settings.
        """
        changes: dict[str, Any] = {}
        for name, value in members.items():
            if value is None:
                continue
            if name in _SWITCHES:
                if not isinstance(value, bool):
                    raise _wrong(name, value, "true or false")
                changes[name] = value
            elif name == "log_verbose_level":
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_VERBOSE:
                    raise _wrong(name, value, "a whole number from 0")
                changes[name] = value
            elif name == "log_format":
                if value not in _FORMATS:
                    raise _wrong(name, value, " or ".join(_FORMATS))
                changes[name] = value
            elif name == "log_file":
                self._check_file(value)
        return self._apply(changes)

    def _check_file(self, value: object) -> None:
        if not isinstance(value, str):
            raise _wrong("log_file", value, "a string")
        if value != self._apply({})["log_file"]:
            raise InvalidRequest(
                "log setting 'log_file' cannot be changed while the server runs: lines go to its standard error; "
                "redirect that when you start it"
            )

    def _apply(self, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._settings is None:
            raise NotFound("there are no log settings here")
        return self._settings(changes)


def _wrong(name: str, value: object, expected: str) -> InvalidRequest:
    return InvalidRequest(f"log setting '{name}' is {describe(value)}; expected {expected}")
