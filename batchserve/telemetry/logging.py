"""Logs: text or JSON on stderr, an access line where it is asked for, a line for each change of a model's state."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO

from batchserve.engine.events import ModelState, NullListener
from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from batchserve.engine.model import Model

__all__ = [
    "FORMATS",
    "LEVELS",
    "JsonFormatter",
    "StateLog",
    "TextFormatter",
    "log_access",
    "own_handlers",
    "set_up_logging",
]

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

MAX_DEPTH = 4
MAX_TEXT = 4096
"""Characters of one extra field; longer ones are cut, so that a stray tensor cannot fill the disk."""

MAX_ITEMS = 64
"""Members of one list or object in an extra field."""

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FIXED = ("ts", "level", "logger", "message", "exception", "stack")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN_WORD = re.compile(r"[^\s\"=]+")

_access = logging.getLogger("batchserve.access")
_models = logging.getLogger("batchserve.models")


def set_up_logging(
    level: str = "info", log_format: str = "text", *, access: bool = False, stream: TextIO | None = None
) -> None:
    """Send the logs of the whole process, warnings included, to one place. May be called again: the last call counts.

    Writing blocks: whoever reads stderr must go on reading.

    Args:
        level: One of `LEVELS`; `server.log_level`.
        log_format: `text` for people, `json` for one JSON object per line; `server.log_format`.
        access: Show the lines of `log_access` whatever the level is; `server.access_log`.
        stream: Where to; stderr by default.

    Raises:
        ConfigError: An unknown level or format.
    """
    if level not in LEVELS:
        raise ConfigError(f"server.log_level: {level!r} is not a level; use one of {', '.join(LEVELS)}")
    if log_format not in FORMATS:
        raise ConfigError(f"server.log_format: {log_format!r} is not a format; use one of {', '.join(FORMATS)}")
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in own_handlers():
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    _access.setLevel(logging.INFO if access else logging.NOTSET)
    logging.captureWarnings(capture=True)


def own_handlers() -> list[logging.Handler]:
    """Return what `set_up_logging` has set up: one handler, or none before it was called."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second set-up finds it."""


class JsonFormatter(logging.Formatter):
    """One JSON object per record, on one line: `ts`, `level`, `logger`, `message`, extra fields, `exception`, `stack`.

    Never fails, whatever a record holds: what JSON cannot say becomes text. An extra field that is called like one of
    the fixed members gets a `_` behind its name.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, in ASCII."""
        fields = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in _extras(record).items():
            fields[f"{name}_" if name in _FIXED else name] = _plain(value)
        if record.exc_info or record.exc_text:
            fields["exception"] = _exception(self, record)
        if record.stack_info:
            fields["stack"] = record.stack_info
        return json.dumps({name: _utf8(value) for name, value in fields.items()}, allow_nan=False)


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: message key=value …`, a traceback indented on the lines below. Never fails.

    Control characters are written as escapes: a name that a client sent cannot start a line or colour a terminal.

    Attributes:
        has_iso_time: False to write the time as Triton does by default: month, day and local time, as in
            `0131 12:34:56.123456`.
    """

    has_iso_time = True

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = _timestamp(record) if self.has_iso_time else _local_time(record)
        parts = [f"{moment} {record.levelname:<7} {_visible(record.name)}: {_visible(_message(record))}"]
        parts += [f"{_visible(name)}={_word(_plain(value))}" for name, value in _extras(record).items()]
        lines = [" ".join(parts)]
        if record.exc_info or record.exc_text:
            lines += _below(_exception(self, record))
        if record.stack_info:
            lines += _below(record.stack_info)
        return "\n".join(lines)


def log_access(fields: Mapping[str, object]) -> None:
    """Write one access line. The frontend is given this only if `server.access_log` is on.

    Args:
        fields: What is known of a request and its answer, such as `method`, `path`, `status` and `duration_s`; written
            in this order. One that is called like an attribute of log records gets a `_` behind its name.
    """
    _access.info("request", extra={f"{name}_" if name in _OWN else name: value for name, value in fields.items()})


class StateLog(NullListener):
    """Writes a line for each change of a model's state. Why a load failed is an error that the engine logs itself."""

    def model_state(self, name: str, version: int, state: str, reason: str, model: Model | None) -> None:
        """Log the change."""
        fields: dict[str, object] = {"model": name, "version": str(version), "state": state}
        if reason:
            fields["reason"] = reason
        if state == ModelState.READY and model is not None:
            fields["load_s"] = round(model.load_s, 3)
        _models.info("model is %s", state, extra=fields)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _local_time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%m%d %H:%M:%S.%f")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # a wrong placeholder or a broken __str__ must not lose the line
        return f"{_text(record.msg)} {_text(record.args)}"


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_text:
        return record.exc_text
    try:
        assert record.exc_info, "asked for without one"
        return formatter.formatException(record.exc_info)
    except Exception:  # noqa: BLE001  # a broken __str__ of the exception
        return "unprintable exception"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {str(name): value for name, value in vars(record).items() if name not in _OWN}


def _plain(value: Any, depth: int = 0) -> Any:
    """Make of anything something that JSON can say."""
    try:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _cut(str(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return _cut(bytes(value[:MAX_TEXT]).decode("utf-8", "backslashreplace"))
        if isinstance(value, Integral):
            number = int(value)
            return (
                number if number.bit_length() <= 64 else _cut(hex(number))
            )  # longer ones no reader of JSON keeps exactly
        if isinstance(value, Real):
            real = float(value)
            return real if real - real == 0 else str(real)  # JSON has no NaN and no infinity
        if isinstance(value, PurePath):
            return _cut(str(value))
        if depth < MAX_DEPTH:
            if isinstance(value, Mapping):
                return {_text(key): _plain(item, depth + 1) for key, item in list(value.items())[:MAX_ITEMS]}
            if isinstance(value, list | tuple | set | frozenset):
                return [_plain(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
        return _text(value)
    except Exception:  # noqa: BLE001  # a log line must not fail on what it is to tell
        return _text(value)


def _text(value: object) -> str:
    try:
        return _cut(value if type(value) is str else repr(value))
    except Exception:  # noqa: BLE001  # a broken __repr__
        return f"<unprintable {type(value).__name__}>"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text) - MAX_TEXT} more)"


def _utf8(value: Any) -> Any:
    """Replace lone surrogates, which file names may hold and UTF-8 cannot, by escapes; at any depth."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_utf8(key): _utf8(item) for key, item in value.items()}
    return [_utf8(item) for item in value] if isinstance(value, list) else value


def _visible(text: str) -> str:
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _below(text: str) -> list[str]:
    """Indent the lines of a traceback, so that none of them passes for a record."""
    return [f"  {_visible(line)}" for line in text.splitlines()]


def _word(value: Any) -> str:
    """Write a value behind `key=`: bare where that is unmistakable, else as JSON."""
    if isinstance(value, str) and _PLAIN_WORD.fullmatch(value) and not _CONTROLS.search(value):
        return value
    return _visible(json.dumps(value, ensure_ascii=False))
