"""The switches of `/v2/logging`: each kind of line on its own, and no line made that nobody wants."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from batchserve.telemetry.log_control import LogControl
from batchserve.telemetry.logging import log_access, own_handlers, set_up_logging

_log = logging.getLogger("test.log_control")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Logging set up as the server does; afterwards as before."""
    root = logging.getLogger()
    level, access = root.level, logging.getLogger("batchserve.access").level
    stream = io.StringIO()
    set_up_logging("info", "text", stream=stream)
    yield stream
    for handler in own_handlers():
        root.removeHandler(handler)
    root.setLevel(level)
    logging.getLogger("batchserve.access").setLevel(access)
    logging.captureWarnings(capture=False)


def written(stream: io.StringIO) -> list[str]:
    stream.seek(0)
    stream.truncate()
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        _log.log(level, "line")
    return [line.split()[1] for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("info", ["INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("warning", ["WARNING", "ERROR", "CRITICAL"]),
        ("error", ["ERROR", "CRITICAL"]),
    ],
)
def test_begins_as_the_level_says(lines: io.StringIO, level: str, shown: list[str]) -> None:
    control = LogControl(level)
    control.install()
    assert written(lines) == shown
    settings = control.update({})
    assert settings["log_verbose_level"] == (level == "debug")
    assert (settings["log_info"], settings["log_warning"]) == ("INFO" in shown, "WARNING" in shown)


def test_each_kind_has_a_switch_of_its_own(lines: io.StringIO) -> None:
    control = LogControl("info")
    control.install()
    control.update({"log_warning": False})
    assert written(lines) == ["INFO", "ERROR", "CRITICAL"]
    control.update({"log_info": False, "log_verbose_level": 2})
    assert written(lines) == ["DEBUG", "ERROR", "CRITICAL"]
    control.update({"log_error": False, "log_verbose_level": 0})
    assert written(lines) == []
    assert not _log.isEnabledFor(logging.ERROR)


def test_access_lines_are_not_concerned(lines: io.StringIO) -> None:
    set_up_logging("info", "text", access=True, stream=lines)
    control = LogControl("info")
    control.install()
    control.update({"log_info": False})
    log_access({"path": "/v2"})
    assert "path=/v2" in lines.getvalue()


def test_time_is_written_as_asked(lines: io.StringIO) -> None:
    control = LogControl("info")
    control.install()
    assert control.update({})["log_format"] == "ISO8601"
    _log.info("first")
    control.update({"log_format": "default"})
    _log.info("second")
    first, second = lines.getvalue().splitlines()
    assert first[4] == "-"
    assert first.split()[0].endswith("Z")
    assert second.split()[0].isdigit()
    assert second.split()[1].count(":") == 2


def test_installing_again_replaces_what_was_installed(lines: io.StringIO) -> None:
    LogControl("error").install()
    LogControl("info").install()
    assert written(lines) == ["INFO", "WARNING", "ERROR", "CRITICAL"]
    (handler,) = own_handlers()
    assert len(handler.filters) == 1
