"""Where log lines go, and the two kinds that telemetry writes itself."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest
from support.telemetry_fakes import FakeModel

from batchserve.config import SERVER_KEYS
from batchserve.engine.events import ModelState
from batchserve.errors import ConfigError
from batchserve.telemetry.logging import FORMATS, LEVELS, StateLog, log_access, set_up_logging


@pytest.fixture(autouse=True)
def put_logging_back() -> Iterator[None]:
    root, access = logging.getLogger(), logging.getLogger("batchserve.access")
    handlers, level, access_level = list(root.handlers), root.level, access.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    access.setLevel(access_level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_records_of_any_library_come_out_in_one_form(stream: io.StringIO) -> None:
    set_up_logging("info", "json", stream=stream)
    logging.getLogger("batchserve.engine").info("one")
    logging.getLogger("aiohttp.server").error("two")
    assert [(line["logger"], line["message"]) for line in lines(stream)] == [
        ("batchserve.engine", "one"),
        ("aiohttp.server", "two"),
    ]


def test_text_is_the_default(stream: io.StringIO) -> None:
    set_up_logging(stream=stream)
    logging.getLogger("batchserve").info("hello")
    assert stream.getvalue().endswith("INFO    batchserve: hello\n")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_important_line_shown(stream: io.StringIO, level: str, count: int) -> None:
    set_up_logging(level, "json", stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("batchserve"), name)("x")
    assert len(lines(stream)) == count


def test_setting_up_again_replaces_the_first_set_up(stream: io.StringIO) -> None:
    first = io.StringIO()
    set_up_logging(stream=first)
    set_up_logging("error", "json", stream=stream)
    logging.getLogger("batchserve").error("once")
    logging.getLogger("batchserve").info("hidden")
    assert first.getvalue() == ""
    assert len(lines(stream)) == 1


def test_handlers_of_others_stay() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    set_up_logging(stream=io.StringIO())
    assert other in logging.getLogger().handlers


def test_stderr_is_where_logs_go_when_nothing_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    logging.getLogger("batchserve").info("hello")
    out, err = capsys.readouterr()
    assert (out, err.count("hello")) == ("", 1)


def test_warnings_are_log_lines_too(stream: io.StringIO) -> None:
    set_up_logging("info", "json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)  # again, because catch_warnings has put its own function there
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert [(line["level"], line["logger"]) for line in lines(stream)] == [("warning", "py.warnings")]


@pytest.mark.parametrize(
    ("level", "log_format", "key"), [("loud", "text", "server.log_level"), ("info", "xml", "server.log_format")]
)
def test_an_unknown_level_or_format_is_a_configuration_error(level: str, log_format: str, key: str) -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(ConfigError, match=key):
        set_up_logging(level, log_format)
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize(("key", "known"), [("log_level", LEVELS), ("log_format", FORMATS)])
def test_the_configuration_allows_exactly_what_can_be_set_up(key: str, known: tuple[str, ...]) -> None:
    assert set(re.findall(r"\w+", SERVER_KEYS[key].kind.allowed)) - {"or"} == set(known)


def test_access_lines_show_at_any_level_if_they_are_asked_for(stream: io.StringIO) -> None:
    set_up_logging("error", "json", access=True, stream=stream)
    log_access({"method": "POST", "path": "/v2/models/digits/infer", "status": 200, "duration_s": 0.0012})
    (line,) = lines(stream)
    assert line.pop("ts")
    assert line == {
        "level": "info",
        "logger": "batchserve.access",
        "message": "request",
        "method": "POST",
        "path": "/v2/models/digits/infer",
        "status": 200,
        "duration_s": 0.0012,
    }


def test_an_access_line_in_text_is_one_line_of_words(stream: io.StringIO) -> None:
    set_up_logging(access=True, stream=stream)
    log_access({"remote": "127.0.0.1", "method": "GET", "path": "/a\nb", "status": 404})
    assert stream.getvalue().endswith(
        'INFO    batchserve.access: request remote=127.0.0.1 method=GET path="/a\\nb" status=404\n'
    )


def test_an_access_field_may_be_called_like_an_attribute_of_records(stream: io.StringIO) -> None:
    set_up_logging("info", "json", access=True, stream=stream)
    log_access({"name": "digits", "message": "m", "args": 1})
    (line,) = lines(stream)
    assert (line["name_"], line["message_"], line["args_"], line["message"]) == ("digits", "m", 1, "request")


def test_each_change_of_state_is_one_line(stream: io.StringIO) -> None:
    set_up_logging("info", "json", stream=stream)
    log, model = StateLog(), FakeModel(load_s=0.51234)
    log.model_state("digits", 1, ModelState.LOADING, "", None)
    log.model_state("digits", 1, ModelState.READY, "", model)  # type: ignore[arg-type]
    log.model_state("digits", 1, ModelState.UNAVAILABLE, "unloaded", model)  # type: ignore[arg-type]
    told = [{name: each[name] for name in each if name not in ("ts", "logger", "level")} for each in lines(stream)]
    common = {"model": "digits", "version": "1"}
    assert told == [
        {"message": "model is LOADING", **common, "state": "LOADING"},
        {"message": "model is READY", **common, "state": "READY", "load_s": 0.512},
        {"message": "model is UNAVAILABLE", **common, "state": "UNAVAILABLE", "reason": "unloaded"},
    ]
