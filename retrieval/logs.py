"""The log of the app, as text or JSON. It never contains what a visitor sends."""

import io
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from typing_extensions import override

# These loggers record every request, with visitors' addresses or the names of repositories on the Hub.
REQUEST_LOGGERS = ("httpx", "httpx2", "httpcore", "uvicorn.access", "urllib3")
# The messages of these loggers quote what a visitor sent: headers, tool names, whole requests. mcp also uses the root
# logger; this project does not.
QUOTING_LOGGERS = ("mcp", "root")

log = logging.getLogger("search")

Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def accept_any_text() -> None:
    """Let this program print text that its terminal cannot show, such as other scripts in ASCII, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class TextLines(logging.Formatter):
    """A line of text: time (to the millisecond), level, message, and the fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields

    @override
    def formatException(self, ei: Raised) -> str:
        return frames(ei[1])


class JsonLines(logging.Formatter):
    """A line of JSON: `time` (ISO, UTC), `level`, `logger`, `message`, the fields, and `error` if there was one."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1]:
            line["error"] = frames(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def frames(error: BaseException | None) -> str:
    """Return the type and stack trace of an error, and its message only with `--log-level debug`.

    The message may contain a visitor's text or file name.
    """
    where = "".join(traceback.format_tb(error.__traceback__)) if error else ""
    text = f": {error}" if log.isEnabledFor(logging.DEBUG) else ""
    return f"{where}{type(error).__name__}{text}"


def start(level: str, form: str) -> None:
    """Send the log of this process to stderr, in one of `settings.LOG_LEVELS` and `settings.LOG_FORMATS`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_hide_quotations)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in REQUEST_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def take_over(name: str) -> None:
    """Send the log of a library that has its own handler through ours instead."""
    other = logging.getLogger(name)
    other.handlers.clear()
    other.propagate = True


def _hide_quotations(record: logging.LogRecord) -> bool:
    """Reduce the records of `QUOTING_LOGGERS` to errors, and their messages to the line of code."""
    if record.name.partition(".")[0] in QUOTING_LOGGERS:
        record.msg, record.args = f"error at {record.filename}:{record.lineno}", None
        return record.levelno >= logging.ERROR
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})
